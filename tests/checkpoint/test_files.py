"""What a path may be: folders, shards, the hub's cache, single files by any dialect; and where a tokenizer is found."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core import CheckpointError
from sensenova_core.checkpoint import checkpoint_name, locate, open_checkpoint
from tests.checkpoint.test_checkpoint import picture, shard
from tests.support.geometries import TOKENIZER, geometry, save_aligned, write_checkpoint
from tests.support.golden_set import checkpoint

PREFIXES = ("", "model.diffusion_model.", "diffusion_model.")
HEAD = "fm_modules.fm_head.conv1.weight"


@pytest.fixture
def single(tmp_path):
    """(prefix, more tensors, metadata) -> a single file, with a tokenizer in a folder beside it."""

    def write(prefix: str = "", more: dict | None = None, metadata: dict | None = None, name: str = "u.safetensors"):
        tensors = load_file(checkpoint("tiny-u15") / "model.safetensors")
        folder = tmp_path / "single"
        give_tokenizer(folder / "tokenizer")
        file = folder / name
        tensors = {prefix + name: value for name, value in tensors.items()} | (more or {})
        if metadata is None:
            save_aligned(tensors, file)  # the last bit of a sum depends on where its numbers begin
        else:
            save_file(tensors, file, metadata=metadata)
        return file

    return write


def give_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint("tiny-u15") / "tokenizer.json", folder / "tokenizer.json")


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        sensenova_core.load(path)
    return str(refused.value)


@pytest.fixture
def aligned(copy_of):
    """A folder whose tensors begin as in the single files."""
    folder = copy_of()
    save_aligned(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    return folder


@pytest.fixture
def expected(aligned):
    return picture(sensenova_core.load(aligned))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_single_file_draws_the_same_picture(single, expected, prefix):
    file = single(prefix)
    assert torch.equal(picture(sensenova_core.load(file)), expected)
    opened = open_checkpoint(file)
    assert opened.config == open_checkpoint(checkpoint("tiny-u15")).config
    assert opened.config_from == "the tensors' shapes" and opened.assumed["noise_scale_max_value"] == 16
    assert opened.name == "u" and opened.files.all == [file, file.parent / "tokenizer/tokenizer.json"]


def test_shards_and_a_cache_draw_the_same_picture(aligned, expected, tmp_path):
    folder = shard(aligned)
    for file in folder.glob("*.safetensors"):
        save_aligned(load_file(file), file)
    assert torch.equal(picture(sensenova_core.load(folder)), expected)
    hub = as_hub_cache(folder, tmp_path / "models--SenseNova--Tiny-U1.5")
    engine = sensenova_core.load(hub)
    assert torch.equal(picture(engine), expected) and engine.name == "Tiny-U1.5"


def as_hub_cache(folder: Path, repository: Path, revision: str = "abc", main: str | None = "abc") -> Path:
    """A folder's files as blobs, with links to them from a snapshot."""
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        blob = repository / "blobs" / f"{revision}{file.stat().st_size}{file.name[:3]}{len(file.name)}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    if main is not None:
        (repository / "refs/main").write_text(main)
    return repository


def test_refs_main_decides_the_revision(tmp_path):
    hub = as_hub_cache(checkpoint("tiny-u15"), tmp_path / "models--a--b", "old", None)
    assert locate(hub).path.name == "old" and locate(hub).name == "b"
    as_hub_cache(checkpoint("tiny-u15"), hub, "new", "new\n")
    assert locate(hub).path.name == "new"
    assert locate(hub / "snapshots/old").path.name == "old" and locate(hub / "snapshots/old").name == "b"
    for main in ("gone", "../..", ""):
        (hub / "refs/main").write_text(main)
        with pytest.raises(CheckpointError, match=r"refs/main names no snapshot.*download"):
            locate(hub)


def test_files_that_mean_their_folder(copy_of):
    folder = shard(copy_of())
    for name in ("config.json", "model.safetensors.index.json", "model-00002-of-00002.safetensors"):
        assert locate(folder / name) == locate(folder)


def test_the_index_that_was_given_is_used(copy_of):
    """Repositories keep variants beside one another."""
    folder = shard(copy_of())
    index, first = folder / "model.safetensors.index.json", "model-00001-of-00002.safetensors"
    content = json.loads(index.read_text())
    for name in sorted(set(content["weight_map"].values())):
        shutil.copyfile(folder / name, folder / f"fp8-{name}")
    where = {name: f"fp8-{file}" for name, file in content["weight_map"].items()}
    other = folder / "fp8.safetensors.index.json"
    other.write_text(json.dumps({"weight_map": where}))
    assert locate(folder).index == locate(folder / first).index == index
    for given in (other, folder / f"fp8-{first}"):
        assert locate(given).index == other and {file.name[:4] for file in locate(given).weights} == {"fp8-"}
        assert open_checkpoint(given).headers.keys() == open_checkpoint(folder).headers.keys()
    (folder / "fp8-model-00002-of-00002.safetensors").unlink()
    assert locate(folder / first).index == index  # which has all of its own
    shutil.copyfile(folder / first, folder / "more-00001-of-00002.safetensors")
    assert "none of the indexes beside it names this part" in refusal(folder / "more-00001-of-00002.safetensors")
    index.rename(folder / "bf16.safetensors.index.json")
    assert "2 checkpoints in it; give one of their indexes: bf16.safetensors.index.json, fp8" in refusal(folder)


def test_parts_of_a_gguf_file_are_named(tmp_path):
    for part in (1, 2, 3):
        (tmp_path / f"u1-0000{part}-of-00003.gguf").write_bytes(b"GGUF")
    for given in (tmp_path, tmp_path / "u1-00002-of-00003.gguf"):
        message = refusal(given)
        assert "a part of a GGUF file in several; join them (llama-gguf-split --merge)" in message
        assert "of-00003.gguf" in message
    alone = tmp_path / "alone/u1-00001-of-00001.gguf"
    alone.parent.mkdir()
    alone.write_bytes(b"GGUF")
    assert locate(alone.parent) == locate(alone)


def test_what_was_found_is_said(single, aligned):
    model, config, tokenizer = open_checkpoint(aligned).found().splitlines()
    assert model == f"{aligned.name}: U1.5, 3 layers, F32, 1 file in {aligned}"
    assert (config, tokenizer) == ("Config: config.json", "Tokenizer: in the same folder")
    name = "language_model.model.norm.weight"
    stored = load_file(checkpoint("tiny-u15") / "model.safetensors")
    file = single("diffusion_model.", {f"diffusion_model.{name}": stored[name].bfloat16()})
    model, config, tokenizer = open_checkpoint(file).found().splitlines()
    assert model == f"u: U1.5 or later (pixel head), 3 layers, F32 + BF16, 1 file in {file.parent}"
    assert config.startswith("Config: the tensors' shapes (assumed, as published: rms_norm_eps 1e-06, rope_theta")
    assert tokenizer == f"Tokenizer: {file.parent / 'tokenizer'}"


@pytest.mark.parametrize(
    "name, kind, repository",
    [
        ("sensenova_u1.6_8b_mot_int8_convrot", "U1.6", "sensenova/SenseNova-U1.6-8B-MoT"),
        ("SenseNova-U1.6-8B-MoT-Q4_0", "U1.6", "sensenova/SenseNova-U1.6-8B-MoT"),
        ("U15-mine", "U1.5", "SenseNova/SenseNova-U1.5-8B-MoT"),
        ("SenseNova-U1.7-8B-MoT", "U1.7", "SenseNova/SenseNova-U1-8B-MoT"),
        ("SenseNova-U1-8B-MoT", "U1.5 or later (pixel head)", "SenseNova/SenseNova-U1.5-8B-MoT"),
        ("menu16", "U1.5 or later (pixel head)", "SenseNova/SenseNova-U1.5-8B-MoT"),
    ],
)
def test_a_model_is_called_by_the_version_in_its_name(single, expected, name, kind, repository):
    """Unless its head speaks against it; the number changes nothing of what is computed."""
    opened = open_checkpoint(single(name=f"{name}.safetensors"))
    assert opened.found().startswith(f"{name}: {kind}, 3 layers, ")
    assert f"sensenova download {repository} --tokenizer-only" in opened.how_to_get_a_tokenizer
    assert opened.config == open_checkpoint(checkpoint("tiny-u15")).config
    assert torch.equal(picture(sensenova_core.load(opened.files.path)), expected)


def test_several_checkpoints_in_one_folder(single):
    """As one model in several types; the config of all of them lies beside."""
    first, second = single(name="U1.6-bf16.safetensors"), single(name="U1.6-fp8.safetensors")
    shutil.copyfile(checkpoint("tiny-u15") / "config.json", first.parent / "config.json")
    message = f"{first.parent}: 2 checkpoints in it; give one of the files: {first.name}, {second.name}"
    assert refusal(first.parent) == message
    assert open_checkpoint(second).config_from == "config.json" and open_checkpoint(second).version == "U1.6"
    second.unlink()
    assert open_checkpoint(first.parent).files.weights == (first,)


def test_a_folder_without_a_config(aligned, expected):
    (aligned / "config.json").unlink()
    assert torch.equal(picture(sensenova_core.load(aligned)), expected)
    assert open_checkpoint(aligned).config_from == "the tensors' shapes"


def test_what_the_system_leaves_beside_files_is_passed_over(copy_of):
    folder = copy_of()
    (folder / "._model.safetensors").write_bytes(b"\0\5\x16\7")
    assert len(open_checkpoint(folder).files.weights) == 1


@pytest.mark.parametrize("name", ["MODEL.SAFETENSORS", "Model-00001-of-00001.Safetensors"])
def test_endings_are_of_any_case(copy_of, name):
    folder = copy_of()
    (folder / "model.safetensors").rename(folder / name)
    assert locate(folder).weights == (folder / name,) and open_checkpoint(folder).headers
    assert open_checkpoint(folder / name).headers


def test_a_config_in_the_file_is_believed(single):
    raw = json.loads((checkpoint("tiny-u15") / "config.json").read_text(encoding="utf-8"))
    raw["llm_config"]["rope_theta"] = 12345.0
    opened = open_checkpoint(single(metadata={"config": json.dumps(raw), "format": "pt"}))
    assert opened.config.decoder.rope_theta == 12345 and opened.config_from == "the file's metadata"
    for other in ('{"architectures": ["Other"]}', "{", "[]", "[" * 10_000):
        assert open_checkpoint(single(metadata={"config": other})).config_from == "the tensors' shapes"


def test_a_config_beside_counts_if_it_is_of_this_size(single):
    file = single()
    raw = json.loads((checkpoint("tiny-u15") / "config.json").read_text(encoding="utf-8"))
    raw["max_pixels"] = 65536
    (file.parent / "config.json").write_text(json.dumps(raw))
    assert open_checkpoint(file).config.best_area == 65536
    raw["max_pixels"] = 262144
    (file.parent / file.stem).mkdir()
    (file.parent / file.stem / "config.json").write_text(json.dumps(raw))
    opened = open_checkpoint(file)
    assert opened.config.best_area == 262144 and set(opened.files.configs) < set(opened.files.all)
    shutil.rmtree(file.parent / file.stem)
    raw["llm_config"]["hidden_size"] = 128
    (file.parent / "config.json").write_text(json.dumps(raw))
    assert open_checkpoint(file).config_from == "the tensors' shapes"


@pytest.mark.parametrize(
    ("prefix", "more", "words"),
    [
        ("diffusion_model.", {"fm_modules.x": 1}, ["mixed prefixes", "fm_modules.x", "one of no prefix"]),
        (
            "diffusion_model.",
            {"model.diffusion_model.fm_modules.x": 1},
            ["mixed", "model.diffusion_model.fm_modules.x"],
        ),
        (
            "",
            {"vae.a": 1, "vae.b": 1, "text_encoders.c": 1},
            ["3 tensors", "vae.* (2)", "text_encoders.* (1)", "alone"],
        ),
        ("first_stage_model.", {}, ["no tensor of a SenseNova-U1 model", "first_stage_model."]),
        ("", {"fm_modules.fm_head.0.lora_down.weight": 1}, ["is a LoRA"]),
    ],
)
def test_names_of_other_dialects_are_refused_by_name(single, prefix, more, words):
    file = single(prefix, {name: torch.zeros(1) for name in more})
    message = refusal(file)
    assert all(word in message for word in (*words, str(file))), message


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_nobody_needs_is_left_out(single, prefix):
    buffer = "language_model.model.rotary_emb.inv_freq"
    more = {
        "pixel_space_vae": torch.tensor(1.0),
        "vae.pixel_space_vae": torch.tensor(1.0),
        prefix + buffer: torch.ones(8),
    }
    opened = open_checkpoint(single(prefix, more))
    assert not [name for name in opened.headers if "vae" in name or "inv_freq" in name]
    assert sorted(opened.ignored) == sorted(more)


# Tokenizers


@pytest.mark.parametrize("folder", ["", "U1-8B-Q4_K_M", "U1-8B", "tokenizer"])
def test_places_of_a_tokenizer(single, folder):
    file = single(name="U1-8B-Q4_K_M.safetensors")
    shutil.rmtree(file.parent / "tokenizer")
    give_tokenizer(file.parent / folder)
    assert open_checkpoint(file).tokenizer == file.parent / folder


def test_the_folder_that_is_named_most_alike(single):
    file = single(name="U1-8B-Q4.safetensors")
    for folder in ("U1", "U1-8B", "U1-8", "8B", "U1-8B-Q4-more"):
        give_tokenizer(file.parent / folder)
    assert open_checkpoint(file).tokenizer == file.parent / "U1-8B"


def test_no_tokenizer_says_how_to_get_one(single):
    file = single()
    shutil.rmtree(file.parent / "tokenizer")
    message = refusal(file)
    command = f'sensenova download SenseNova/SenseNova-U1.5-8B-MoT --tokenizer-only --to "{file.parent / "tokenizer"}"'
    assert command in message and "vocab.json, merges.txt and tokenizer_config.json" in message
    assert open_checkpoint(file).config.pixel_head  # headers can be looked at without one


# Types


@pytest.mark.parametrize("norms", [torch.float32, torch.float16])
def test_mixed_precision_loads_as_it_is(tmp_path, norms):
    folder = write_checkpoint(tmp_path / "m", geometry(3), torch.bfloat16, norms)
    engine = sensenova_core.load(folder)
    types = {name: value.dtype for name, value in engine.model.named_parameters()}
    assert {kind for name, kind in types.items() if "norm" in name} == {norms}
    assert {kind for name, kind in types.items() if "norm" not in name} == {torch.bfloat16}
    stored = load_file(folder / "model.safetensors")
    placed = {name: value for name, value in engine.model.named_parameters() if "embed_tokens" not in name}
    assert all(torch.equal(value, stored[checkpoint_name(name)]) for name, value in placed.items())
    assert picture(engine).isfinite().all()
    cast = sensenova_core.load(folder, dtype="float32")
    assert {value.dtype for name, value in cast.model.named_parameters() if "embed_tokens" not in name} == {
        torch.float32
    }


@pytest.mark.parametrize("seed", [2, 5, 9])
def test_random_geometries_need_no_config(tmp_path, seed):
    folder = write_checkpoint(tmp_path / "m", geometry(seed) | {"noise_scale_max_value": 8.0})
    said = open_checkpoint(folder)
    (folder / "config.json").unlink()
    shapes = open_checkpoint(folder / "model.safetensors")
    assert TOKENIZER.get_vocab_size() <= shapes.config.decoder.vocab_size == said.config.decoder.vocab_size
    assert shapes.headers == said.headers and shapes.config.vision == said.config.vision
