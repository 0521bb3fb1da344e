"""The parameter report: published figures, exact layout, custom groups, errors."""

import json
import re
from collections import Counter

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sensenova_core.errors import CheckpointError, SettingsError
from sensenova_core.report.inspect import (
    GENERATION,
    SHARED,
    UNDERSTANDING,
    inspect,
    read_custom_groups,
    report,
)
from sensenova_core.report.inspect_picture import COLOURS, picture
from tests.support.geometries import write_checkpoint
from tests.support.golden_set import checkpoint
from tests.support.packing import mixed, wide, write_fp8, write_gguf

U1_8B = {
    "architectures": ["NEOChatModel"],
    "noise_scale_mode": "resolution",
    "add_noise_scale_embedding": True,
    "llm_config": {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 42,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "rope_theta": 5e6,
        "rope_theta_hw": 1e4,
    },
    "vision_config": {"hidden_size": 1024, "patch_size": 16},
}
# The published example, white space aside.
PUBLISHED = """
Load dtype: bfloat16 Total params: 17.552B Total memory: 35.105GB (bfloat16)
group params memory (bfloat16) ratio
generation_transformer 8.186B 16.373GB 46.64%
understanding_transformer 8.121B 16.243GB 46.27%
shared 1.245B 2.489GB 7.09%
Pathway breakdown (shared counted in both):
pathway params memory (bfloat16) ratio
understanding pathway 9.366B 18.732GB 53.36%
generation pathway 9.431B 18.862GB 53.73%
Members of group 'shared' (2 params, 1.245B total, 2.489GB @ bfloat16)
param name numel dtype
language_model.model.embed_tokens.weight 622.330M bfloat16
language_model.lm_head.weight 622.330M bfloat16
"""


@pytest.fixture(scope="module")
def u1_8b(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "SenseNova-U1-8B-MoT"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(U1_8B))
    return inspect(folder)


def _words(text: str) -> list[str]:
    return re.sub(r"-{5,}", " ", text).split()


def test_the_published_report_of_the_8b_model(u1_8b):
    lines = report(u1_8b).splitlines()
    assert lines[0].startswith("Model: ") and lines[0].endswith("SenseNova-U1-8B-MoT")
    assert _words("\n".join(lines[1:])) == _words(PUBLISHED)
    assert all(len(line) == 69 for line in lines if line.startswith("---"))


def test_exact_counts_of_the_8b_model(u1_8b):
    assert u1_8b.total == 17_552_340_992
    assert [u1_8b.group_total(group) for group in (UNDERSTANDING, GENERATION, SHARED)] == [
        8_121_323_008,
        8_186_358_272,
        1_244_659_712,
    ]


def test_dtype_changes_memory_only(u1_8b):
    text = report(u1_8b, "float32")
    assert "17.552B" in text and "70.209GB (float32)" in text
    with pytest.raises(SettingsError, match=r"int8.*float32, float16, bfloat16"):
        report(u1_8b, "int8")


def test_members_all_none_and_unknown(u1_8b):
    assert report(u1_8b, show_groups=("all",)).count("Members of group") == 3
    assert "Members of group" not in report(u1_8b, show_groups=())
    with pytest.raises(SettingsError, match=r"'vision'.*shared"):
        report(u1_8b, show_groups=("vision",))


def test_members_are_listed_in_the_order_of_the_model(u1_8b):
    layers = [int(match) for match in re.findall(r"layers\.(\d+)\.", " ".join(u1_8b.groups[UNDERSTANDING]))]
    assert layers == sorted(layers) and layers[-1] == 41


def test_weight_files_are_counted():
    folder = checkpoint("tiny-u15")
    assert inspect(folder).total == 948_928
    assert inspect(folder).group_total(SHARED) == 2 * 512 * 64


def test_custom_groups_take_the_longest_prefix_and_keep_the_rest(u1_8b, tmp_path):
    file = tmp_path / "groups.json"
    file.write_text(json.dumps({"text": ["language_model."], "head": ["language_model.lm_head."]}))
    folder = u1_8b.model
    grouped = inspect(folder, read_custom_groups(file))
    assert grouped.groups["head"] == {"language_model.lm_head.weight": 622_329_856}
    assert grouped.total == u1_8b.total
    assert set(grouped.groups) == {"text", "head", "ungrouped"}
    assert "Pathway" not in report(grouped, show_groups=())


@pytest.mark.parametrize("content", ["[]", '{"a": "b"}', '{"a": [1]}', "{", ""])
def test_custom_groups_of_another_form_are_refused(tmp_path, content):
    file = tmp_path / "groups.json"
    file.write_text(content)
    with pytest.raises(SettingsError, match=r"groups\.json"):
        read_custom_groups(file)


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        inspect(tmp_path)


def test_what_is_stored_is_told_by_type(tmp_path):
    tensors = load_file(checkpoint("tiny-u15") / "model.safetensors")
    norms = {name: value for name, value in tensors.items() if "norm" in name}
    halved = {name: value.bfloat16() for name, value in tensors.items()} | norms
    file = tmp_path / "mixed.safetensors"
    save_file({f"diffusion_model.{name}": value for name, value in halved.items()}, file)
    inspection = inspect(file)
    whole, kept = 948_928, sum(value.numel() for value in norms.values())
    assert (
        inspection.total == whole
        and inspection.groups[SHARED].keys() == inspect(checkpoint("tiny-u15")).groups[SHARED].keys()
    )
    assert {kind: (held.tensors, held.numel, held.nbytes) for kind, held in inspection.stored.items()} == {
        "BF16": (len(tensors) - len(norms), whole - kept, 2 * (whole - kept)),
        "F32": (len(norms), kept, 4 * kept),
    }
    text = report(inspection)
    assert f"{2 * whole + 2 * kept:,}" in text and f"Files: 1, {file.stat().st_size:,} bytes" in text
    assert "Config: the tensors' shapes" in text and "noise_scale_max_value 16.0" in text
    assert "Tokenizer: none; it needs tokenizer.json" in text and "--tokenizer-only" in text


def test_types_that_cannot_be_read_are_counted_all_the_same(tmp_path):
    tensors = load_file(checkpoint("tiny-u15") / "model.safetensors")
    name = "language_model.lm_head.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, tmp_path / "x.safetensors")
    assert inspect(tmp_path / "x.safetensors").stored["I8"].nbytes == tensors[name].numel()


@pytest.mark.parametrize("scaling", ["scale_weight", "rows", "weight_scale_inv"])
def test_scales_are_counted_in_their_own_type(tmp_path, scaling):
    """And all that lies beside them: the bytes add up to the file's."""
    folder, _ = write_fp8(checkpoint("tiny-u15"), tmp_path, scaling)
    raw = (folder / "model.safetensors").read_bytes()
    content = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    content.pop("__metadata__", None)
    stored = inspect(folder).stored
    assert sum(held.nbytes for held in stored.values()) == len(raw) - 8 - int.from_bytes(raw[:8], "little")
    assert {kind: held.tensors for kind, held in stored.items()} == Counter(each["dtype"] for each in content.values())
    assert stored["F8_E4M3"].nbytes == stored["F8_E4M3"].numel > stored["F32"].nbytes


@pytest.mark.parametrize("kind, name", [("I32", "int32"), ("F8_E8M0", "float8_e8m0fnu")])
def test_scales_of_other_types_are_reported(tmp_path, kind, name):
    if not hasattr(torch, name):
        pytest.skip(f"this torch has no {name}")
    folder, _ = write_fp8(checkpoint("tiny-u15"), tmp_path, "weight_scale")
    tensors = load_file(folder / "model.safetensors")
    scale = torch.ones(512, 4).to(getattr(torch, name))
    save_file(tensors | {"language_model.lm_head.weight_scale": scale}, folder / "model.safetensors")
    counted = inspect(folder)
    assert counted.stored[kind].numel == 2048
    assert counted.total == 948_928 and "F8_E4M3" in report(counted)


def test_bytes_of_a_gguf_file_are_those_of_its_blocks(tmp_path):
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed: no packed file can be written")
    packed, _ = write_gguf(write_checkpoint(tmp_path / "source", wide(2)), tmp_path, mixed)
    stored = inspect(packed).stored
    theirs = Counter()
    for tensor in gguf.GGUFReader(packed / "model.gguf").tensors:
        theirs[tensor.tensor_type.name] += tensor.n_bytes
    assert {kind: held.nbytes for kind, held in stored.items()} == theirs
    assert {"Q4_K", "Q6_K", "Q5_0", "Q8_0", "F16", "F32"} == set(stored)
    assert list(stored) == [kind for kind, _ in sorted(theirs.items(), key=lambda item: -item[1])]


def test_the_picture_shows_every_group_in_proportion(u1_8b):
    image = picture(u1_8b)
    colours = {rgb: count for count, rgb in image.getcolors(image.width * image.height)}
    amounts = [
        colours[Image.new("RGB", (1, 1), COLOURS[group]).getpixel((0, 0))]
        for group in (GENERATION, UNDERSTANDING, SHARED)
    ]
    assert image.mode == "RGB" and amounts[0] > amounts[1] > amounts[2] > 0
