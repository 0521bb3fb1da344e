"""Checkpoint folders: what is loaded and how, and what is refused before a weight is read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core import CheckpointError, ModelConfig
from sensenova_core.checkpoint import checkpoint_name, open_checkpoint, weights
from sensenova_core.model import SenseNovaU1
from tests.conftest import REPOSITORY, edit_json
from tests.support.golden_set import checkpoint, relative_error

Q_PROJ = "language_model.model.layers.1.self_attn.q_proj_mot_gen.weight"
NORM = "language_model.model.norm_mot_gen.weight"
needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="reads Linux's view of memory")


def picture(engine) -> torch.Tensor:
    *_, last = engine.sample(engine.encode("a red circle"), width=64, height=64, steps=2, seed=1)
    return last.pixels()


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        sensenova_core.load(folder)
    return str(refused.value)


def shard(folder: Path) -> Path:
    """Split a checkpoint in two files and an index, as the published ones are."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def test_shards_load_as_one_file(copy_of, engines):
    whole, sharded = engines("tiny-u15"), sensenova_core.load(shard(copy_of()))
    expected, held = (dict(engine.model.named_parameters()) for engine in (whole, sharded))
    assert held.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in held.items() if value.device.type != "meta")
    ids = torch.tensor([3, 0, 3, 7])
    assert torch.equal(*(engine.memory.residency.embed(ids) for engine in (whole, sharded)))


def test_a_width_of_the_head_that_no_config_names(copy_of):
    """Read from the weights: the config has no key for it."""

    def narrow(tensors):
        tensors["fm_modules.fm_head.0.weight"] = tensors["fm_modules.fm_head.0.weight"][:96].clone()
        tensors["fm_modules.fm_head.0.bias"] = tensors["fm_modules.fm_head.0.bias"][:96].clone()
        tensors["fm_modules.fm_head.2.weight"] = tensors["fm_modules.fm_head.2.weight"][:, :96].clone()

    assert sensenova_core.load(copy_of("tiny-a3b", weights=narrow)).config.head_width == 96


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16])
def test_a_dtype_is_cast_to(engines, dtype):
    engine = sensenova_core.load(checkpoint("tiny-u15"), dtype=dtype)
    cast = [value for name, value in engine.model.named_parameters() if "embed_tokens" not in name]  # row by row
    assert {str(value.dtype) for value in cast} == {f"torch.{str(dtype).removeprefix('torch.')}"}
    assert relative_error(picture(engine), picture(engines("tiny-u15"))) < 0.05


def test_bfloat16_is_kept_as_stored(copy_of):
    def halve(tensors):
        tensors.update({name: value.bfloat16() for name, value in tensors.items()})

    folder = copy_of(weights=halve)
    assert sensenova_core.load(folder).model.dtype == torch.bfloat16
    assert sensenova_core.load(folder, dtype="float32").model.dtype == torch.float32


@needs_proc
def test_weights_are_the_file_itself():
    """On the CPU every layer, and the output head, lies inside the memory map of its file, not in a copy."""
    engine = sensenova_core.load(checkpoint("tiny-a3b"))
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "tiny-a3b" in line]
    ranges = [[int(end, 16) for end in fields[0].split("-")] for fields in maps]
    copied = [
        name
        for name, value in engine.model.named_parameters()
        if (".layers." in name or ".lm_head." in name)
        and not any(start <= value.data_ptr() < stop for start, stop in ranges)
    ]
    assert copied == []


@needs_proc
def test_loading_and_drawing_need_no_memory_of_their_own(tmp_path):
    """In a process of its own: anonymous memory, which no other process can share, against 200 MB of weights."""
    raw = json.loads((checkpoint("tiny-u15") / "config.json").read_text(encoding="utf-8"))
    raw["llm_config"] |= {"hidden_size": 512, "head_dim": 128, "intermediate_size": 8192, "num_hidden_layers": 2}
    for file in checkpoint("tiny-u15").glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    model = SenseNovaU1.on_meta(ModelConfig.from_dict(raw))
    tensors = {checkpoint_name(name): torch.full(value.shape, 0.01) for name, value in model.named_parameters()}
    save_file(tensors, tmp_path / "model.safetensors")
    del tensors
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size > 200e6
    script = """
import sys, sensenova_core, torch
def anonymous():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))
def draw(engine):
    return list(engine.sample(engine.encode("a"), width=64, height=64, steps=2))
torch.set_num_threads(1)
draw(sensenova_core.load(sys.argv[1]))  # imports everything
before = anonymous()
engine = sensenova_core.load(sys.argv[2])
loaded = anonymous()
draw(engine)
print(loaded - before, anonymous() - before)
"""
    command = [sys.executable, "-c", script, str(checkpoint("tiny-u15")), str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    (tmp_path / "model.safetensors").unlink()
    loaded, drawn = map(int, done.stdout.split())
    assert loaded < 0.05 * size, f"loading took {loaded:,} bytes"  # small tensors, threads: 7 MB at most, of 226 MB
    assert drawn < 0.5 * size, f"drawing took {drawn:,} bytes"  # measured: 35 MB, the activations of the prompt


@pytest.fixture
def no_weight_is_read(monkeypatch):
    def mapped_file(*_, **__):
        raise AssertionError("a weight was read from a checkpoint that does not fit")

    monkeypatch.setattr(weights, "MappedFile", mapped_file)


def test_all_mismatches_in_one_error_and_nothing_read(copy_of, no_weight_is_read):
    def spoil(tensors):
        tensors["language_model.somebody.elses.weight"] = tensors.pop(NORM)
        tensors[Q_PROJ] = tensors[Q_PROJ][:-1].clone()

    folder = copy_of(weights=spoil)
    message = refusal(folder)
    assert message.startswith(f"{folder}: ") and f"1 missing: {NORM}" in message
    assert "1 not part of the model: language_model.somebody.elses.weight" in message
    assert f"1 of another shape: {Q_PROJ} is [63, 64], the config asks for [64, 64]" in message
    assert "same checkpoint" in message and "download complete" in message


def test_many_missing_tensors_are_counted_not_listed(copy_of, no_weight_is_read):
    def half(tensors):
        for name in [name for name in tensors if "mot_gen" in name]:
            del tensors[name]

    message = refusal(copy_of(weights=half))
    assert "missing" in message and len(message) < 2000


def test_config_of_another_size(copy_of, no_weight_is_read):
    def deeper(config):
        config["llm_config"]["num_hidden_layers"] = 4

    assert "layers.3." in refusal(copy_of(config=deeper))


@pytest.mark.parametrize(
    "change, value",
    [
        ({"concat_time_token_num": 1}, "concat_time_token_num is 1"),
        ({"use_adaLN": True}, "use_adaLN is True"),
        ({"fm_head_layers": 3}, "fm_head_layers is 3"),
        ({"template": "other"}, "template is 'other'"),
        ({"downsample_ratio": 0.25}, "downsample_ratio is 0.25"),
        ({"architectures": ["LlamaForCausalLM"]}, "architectures is ['LlamaForCausalLM']"),
        ({"architectures": None}, "architectures is None"),
        ({"llm_config": {"model_type": "qwen2"}}, "llm_config.model_type is 'qwen2'"),
        ({"llm_config": {"attention_bias": True}}, "llm_config.attention_bias is True"),
        ({"llm_config": {"hidden_size": None}}, "llm_config.hidden_size is missing"),
        ({"llm_config": {"hidden_size": "64"}}, "llm_config.hidden_size is '64', expected a whole number"),
        ({"vision_config": {"patch_size": 8}}, "patch_size 8"),  # with a pixel head
        ({"vision_config": None}, "vision_config is missing"),
        ({"model_type": "neo_chat_2"}, "model_type is 'neo_chat_2'"),
        ({"vision_config": {"model_type": "neo_vision_2"}}, "vision_config.model_type is 'neo_vision_2'"),
        ({"use_pixel_head": "v2"}, "use_pixel_head is 'v2'; this engine implements true and false only"),
        ({"add_noise_scale_embedding": 2}, "add_noise_scale_embedding is 2"),
        ({"noise_scale_mode": "learned"}, "noise_scale_mode is 'learned', known are static"),
        ({"use_window_head": True}, "use_window_head is True: this engine does not know what that changes"),
        ({"llm_config": {"qk_gate": 1}, "shift_head": [2]}, "shift_head is [2]; config.json: llm_config.qk_gate is 1:"),
        (
            {"vision_config": {"num_hidden_layers": 4}},
            "vision_config.num_hidden_layers is 4: this engine does not know",
        ),
    ],
    ids=str,
)
def test_config_of_another_model(copy_of, no_weight_is_read, change, value):
    def edit(config):
        for key, new in change.items():
            config[key] = config[key] | new if isinstance(new, dict) else new

    message = refusal(copy_of(config=edit))
    assert value in message and "config.json" in message
    remedies = ("expected", "implements", "fetch", "needs", "known are", "newer version", "not a SenseNova-U1 config")
    assert any(word in message for word in remedies)


def test_what_is_off_or_known_to_change_nothing_is_no_reason_to_refuse(copy_of):
    """As transformers of any version writes a config, and a newer member of the family without its news in use."""

    def edit(config):
        config |= {
            "use_window_head": False,
            "window_sizes": [],
            "shift": None,
            "_name_or_path": "SenseNova-U1.6-8B-MoT",
        }
        config |= {"dtype": "bfloat16", "transformers_version": "5.1", "time_schedule": "other", "P_mean": 1.0}
        config["llm_config"] |= {"initializer_range": 0.02, "qk_gate": 0, "use_cache": True}

    assert open_checkpoint(copy_of(config=edit)).config == open_checkpoint(checkpoint("tiny-u15")).config


def test_an_unknown_noise_mode_is_refused(copy_of):
    assert "'squared'" in refusal(copy_of(config=lambda raw: raw.update(noise_scale_mode="squared")))


def test_no_folder(tmp_path):
    message = refusal(tmp_path / "nowhere")
    assert "nowhere" in message and "give the folder" in message


def test_no_config(copy_of):
    folder = copy_of()
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    assert "no config.json" in refusal(folder) and "own folder" in refusal(folder)


@pytest.mark.parametrize("content", ['{"architectures": [', "", "[1, 2]", "\N{SNOWMAN}"])
def test_broken_config(copy_of, content):
    folder = copy_of()
    (folder / "config.json").write_text(content, encoding="utf-16" if content == "\N{SNOWMAN}" else "utf-8")
    assert "config.json" in refusal(folder) and "fetch the file again" in refusal(folder)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_truncated_file(copy_of, no_weight_is_read, kept):
    file = copy_of() / "model.safetensors"
    os.truncate(file, kept if kept >= 0 else file.stat().st_size + kept)
    message = refusal(file.parent)
    assert (
        "model.safetensors" in message and f"{file.stat().st_size:,} bytes" in message and "fetch it again" in message
    )


def test_missing_shard(copy_of, no_weight_is_read):
    folder = shard(copy_of())
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "1 of 2 shards missing: model-00002-of-00002.safetensors" in refusal(folder)


def test_tensor_in_two_files(copy_of, no_weight_is_read):
    folder = copy_of()
    save_file({NORM: torch.ones(64)}, folder / "more.safetensors")
    message = refusal(folder)
    assert NORM in message and "model.safetensors" in message and "more.safetensors" in message and "remove" in message


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_broken_index(copy_of, content):
    folder = shard(copy_of())
    (folder / "model.safetensors.index.json").write_text(content)
    assert "index.json" in refusal(folder) and "fetch the file again" in refusal(folder)


def test_index_that_leaves_the_folder(copy_of, no_weight_is_read):
    folder = shard(copy_of())
    edit_json(folder / "model.safetensors.index.json", lambda index: index["weight_map"].update(x="../x.safetensors"))
    assert "'../x.safetensors'" in refusal(folder)


def test_pickles_are_never_opened(copy_of):
    folder = copy_of()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "no .safetensors" in message and "pytorch_model.bin is a pickle" in message and "never opened" in message


def test_dangling_link(copy_of):
    """Half a download of the hub's cache leaves links to files that are not there."""
    folder = copy_of()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "gone")
    assert "model.safetensors" in refusal(folder)


@pytest.mark.parametrize("fault", ["a shard is missing", "only a pickle", "index leaves the folder"])
def test_faults_of_files_name_a_remedy(copy_of, fault):
    folder = copy_of()
    if fault == "only a pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif fault == "a shard is missing":
        (shard(folder) / "model-00002-of-00002.safetensors").unlink()
    else:
        index = shard(folder) / "model.safetensors.index.json"
        edit_json(index, lambda content: content["weight_map"].update(x="../x.safetensors"))
    message = refusal(folder)
    assert any(word in message for word in ("fetch", "download", "give", "convert"))
