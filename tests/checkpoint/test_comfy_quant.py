"""What ComfyUI says of layers, wherever it says so: beside them, in a file's metadata, in each part of a checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core import CheckpointError
from sensenova_core.checkpoint import open_checkpoint
from tests.support.geometries import write_checkpoint
from tests.support.int8 import as_bytes, said, write_int8
from tests.support.packing import wide

PREFIX = "model.diffusion_model."
LAYER = "language_model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def in_metadata(tmp_path_factory) -> Path:
    """A folder with INT8, rotated by groups of 256 columns, of which only the metadata speak."""
    target = tmp_path_factory.mktemp("int8")
    return write_int8(write_checkpoint(target / "source", wide()), target, "in metadata")[0]


def layers_of(folder: Path) -> dict[str, dict]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return json.loads(file.metadata()["_quantization_metadata"])["layers"]


def written(folder: Path, target: Path, files: dict[str, tuple[dict, dict]]) -> Path:
    """The folder with other files of weights. files: name -> (tensors, what its metadata say of layers)."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    for name, (tensors, layers) in files.items():
        save_file(tensors, target / name, {"_quantization_metadata": json.dumps({"layers": layers})})
    return target


def groups(folder: Path) -> set[int]:
    """Of columns that are rotated together, in all INT8 weights of a checkpoint."""
    return {header.group for header in open_checkpoint(folder).headers.values() if header.dtype == "I8"}


@pytest.mark.parametrize("before, said_before", [("", PREFIX), (PREFIX, ""), (PREFIX, PREFIX), ("net.", PREFIX)])
def test_metadata_are_of_layers_whatever_is_before_their_names(in_metadata, tmp_path, before, said_before):
    """ComfyUI takes prefixes away from tensors, and not from what its metadata call them."""
    tensors = {before + name: value for name, value in load_file(in_metadata / "model.safetensors").items()}
    layers = {said_before + name: about for name, about in layers_of(in_metadata).items()}
    assert groups(written(in_metadata, tmp_path / "x", {"model.safetensors": (tensors, layers)})) == {256}


@pytest.mark.parametrize("index", [False, True])
def test_each_part_of_a_checkpoint_speaks_of_its_own_layers(in_metadata, tmp_path, index):
    tensors, layers = load_file(in_metadata / "model.safetensors"), layers_of(in_metadata)
    parts, where = {}, {}
    for part in (0, 1):
        file = f"model-{part + 1:05}-of-00002.safetensors"
        inside = {name: tensors[name] for name in tensors if (".layers.0." in name) == (part == 0)}
        own = {name: about for name, about in layers.items() if f"{name}.weight" in inside}
        assert own
        parts[file] = (inside, own)
        where |= dict.fromkeys(inside, file)
    folder = written(in_metadata, tmp_path / "parts", parts)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert groups(folder) == {256}


@pytest.mark.parametrize("text", ["[]", "{", "1" * 5000])
def test_metadata_that_cannot_be_read_are_named_with_their_file(in_metadata, tmp_path, text):
    folder = written(in_metadata, tmp_path / "wrong", {})
    save_file(
        load_file(in_metadata / "model.safetensors"), folder / "model.safetensors", {"_quantization_metadata": text}
    )
    with pytest.raises(CheckpointError, match=r"wrong/model.safetensors: _quantization_metadata .* is no JSON object"):
        open_checkpoint(folder)


@pytest.mark.parametrize("group", [256, 256.0, "256"], ids=repr)
def test_a_group_is_what_comfyui_takes_it_for(in_metadata, tmp_path, group):
    layers = dict.fromkeys(layers_of(in_metadata), said(256, convrot_groupsize=group))
    tensors = load_file(in_metadata / "model.safetensors")
    assert groups(written(in_metadata, tmp_path / "x", {"model.safetensors": (tensors, layers)})) == {256}


@pytest.mark.parametrize("group", [True, -256, 0, None, 1, [256], float("inf"), 10**30], ids=repr)
def test_a_group_that_is_none_is_refused(in_metadata, tmp_path, group):
    layers = dict.fromkeys(layers_of(in_metadata), said(256, convrot_groupsize=group))
    tensors = load_file(in_metadata / "model.safetensors")
    with pytest.raises(CheckpointError, match="columns, which is no power of 4"):
        open_checkpoint(written(in_metadata, tmp_path / "x", {"model.safetensors": (tensors, layers)}))


@pytest.mark.parametrize("layer", ["language_model.model.norm", "language_model.lm_head", f"{PREFIX}nowhere"])
@pytest.mark.parametrize("beside", [False, True])
def test_a_format_of_a_layer_that_is_not_quantised_refuses_nothing(in_metadata, tmp_path, layer, beside):
    tensors, layers = load_file(in_metadata / "model.safetensors"), layers_of(in_metadata)
    if beside:
        tensors[f"{layer}.comfy_quant"] = as_bytes({"format": "nvfp4"})
    else:
        layers[layer] = {"format": "nvfp4"}
    folder = written(in_metadata, tmp_path / "x", {"model.safetensors": (tensors, layers)})
    assert groups(folder) == {256} and open_checkpoint(folder).quantised is None


def test_a_format_of_a_quantised_layer_is_refused(in_metadata, tmp_path):
    tensors, layers = load_file(in_metadata / "model.safetensors"), layers_of(in_metadata)
    layers[LAYER] = {"format": "asym_w4a8_int8"}
    assert (
        open_checkpoint(written(in_metadata, tmp_path / "x", {"model.safetensors": (tensors, layers)})).quantised
        == "W4A8"
    )


def test_weights_of_every_int8_number_are_read(in_metadata, tmp_path):
    """-128 too, which no quantiser here writes; with scales of no and of negative size."""
    tensors = load_file(in_metadata / "model.safetensors")
    weight, scale = tensors[f"{LAYER}.weight"], tensors[f"{LAYER}.weight_scale"]
    weight[0], scale[1], scale[2] = -128, 0, -scale[2]
    folder = written(in_metadata, tmp_path / "x", {"model.safetensors": (tensors, {})})
    header = open_checkpoint(folder).headers[f"{LAYER}.weight"]
    assert header.scale_fits and header.group == 0
    unpacked = sensenova_core.load(folder, compute="bf16", dtype="float32", place=False).stored.whole(f"{LAYER}.weight")
    assert torch.equal(unpacked.unpacked(torch.float32), weight.float() * scale)
