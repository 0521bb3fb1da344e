"""Files that are whole and contradict themselves or each other: configs, indexes, scales, and what is missing."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core import CheckpointError
from sensenova_core.checkpoint import open_checkpoint
from sensenova_core.checkpoint.safetensors_file import read_header
from sensenova_core.model import MixtureOfExperts
from tests.checkpoint.hostile import NORM, refused
from tests.support.geometries import geometry, write_checkpoint


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("llm_config", "num_hidden_layers", 10**9),
        ("llm_config", "num_hidden_layers", 1000),
        ("llm_config", "hidden_size", 2**62),
        ("llm_config", "num_experts", 10**9),
        ("llm_config", "num_experts", 100),
        ("llm_config", "head_dim", 12),
        ("llm_config", "num_key_value_heads", 3),
        ("llm_config", "vocab_size", -1),
        ("llm_config", "vocab_size", 1e300),
        ("vision_config", "patch_size", 2**40),
        ("vision_config", "hidden_size", 2**30),
        (None, "noise_scale", float("nan")),
        (None, "noise_scale", 10**400),
        (None, "architectures", "[" * 20_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_configs_of_no_model(tmp_path, section, key, value):
    raw = geometry(4) | {
        "llm_config": geometry(4)["llm_config"] | {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
    }
    folder = write_checkpoint(tmp_path / "model", geometry(4))
    raw = copy.deepcopy(raw)
    (raw[section] if section else raw)[key] = value
    (folder / "config.json").write_text(json.dumps(raw).replace('"' + "[" * 20_000 + '"', "[" * 20_000))
    refused(folder, "config.json")


@pytest.mark.parametrize("kind", ["another shard", "nowhere", "not all", "not a shard", "no names", "deep"])
def test_wrong_indexes(tmp_path, kind):
    folder = write_checkpoint(tmp_path / "model", geometry(4), shards=2)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    where = {name: file for file in files for name in read_header(folder / file)[0]}
    if kind == "another shard":
        where[NORM] = next(file for file in files if file != where[NORM])
    elif kind == "nowhere":
        where["language_model.more"] = files[0]
    elif kind == "not all":
        del where[NORM]
    elif kind == "not a shard":
        where[NORM] = "config.json"
    text = json.dumps({"weight_map": {} if kind == "no names" else where})
    index = folder / "model.safetensors.index.json"
    index.write_text("[" * 100_000 if kind == "deep" else text)
    refused(folder, index.name)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scales_that_are_no_numbers(tensors, written, tmp_path, bad):
    name = next(name for name, value in tensors.items() if "q_proj" in name and value.ndim == 2)
    scaled = tensors | {name: tensors[name].to(torch.float8_e4m3fn), name.replace(".weight", ".scale_weight"): None}
    for scale in (0.5, bad):
        scaled[name.replace(".weight", ".scale_weight")] = torch.tensor(scale)
        save_file(scaled, tmp_path / "fp8.safetensors")
        if scale == 0.5:
            assert open_checkpoint(tmp_path / "fp8.safetensors").headers[name].scale is not None
    assert f"the scale of {name} is not a finite number" in refused(tmp_path / "fp8.safetensors")


@pytest.mark.parametrize("second", ["weight_scale", "weight_scale_inv"])
def test_two_scales_for_one_weight(tensors, tmp_path, second):
    name = next(name for name, value in tensors.items() if "q_proj" in name and value.ndim == 2)
    layer = name.removesuffix(".weight")
    scaled = tensors | {name: tensors[name].to(torch.float8_e4m3fn)}
    scaled |= {f"{layer}.{suffix}": torch.ones(1, 1) for suffix in ("scale_weight", second)}
    save_file(scaled, tmp_path / "fp8.safetensors")
    assert f"{layer} has two scales" in refused(tmp_path / "fp8.safetensors")


def test_a_scale_of_another_shape_is_not_read(tensors, written):
    """Of a million numbers for a small weight."""
    name = next(name for name, value in tensors.items() if "q_proj" in name and value.ndim == 2)
    scaled = tensors | {name: tensors[name].to(torch.float8_e4m3fn)}
    scaled[name.replace(".weight", ".weight_scale")] = torch.full((2**20,), float("nan"))
    file = written(b"", "fp8.safetensors")
    save_file(scaled, file)
    assert open_checkpoint(file).headers[name].scale.numel == 2**20
    with pytest.raises(CheckpointError, match="of an unknown scale"):
        sensenova_core.load(file)


@pytest.mark.parametrize("of", ["experts.3.", "mlp.gate.weight", "q_proj"])
def test_what_is_missing_is_said_before_a_model_is_built(tmp_path, monkeypatch, of):
    """One of many experts takes seconds to build."""
    experts = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    raw = geometry(4) | {"llm_config": geometry(4)["llm_config"] | experts}
    file = write_checkpoint(tmp_path / "model", raw) / "model.safetensors"
    tensors, built = load_file(file), []
    del tensors[next(name for name in tensors if of in name)]
    save_file(tensors, file)
    real = MixtureOfExperts.__init__
    monkeypatch.setattr(
        MixtureOfExperts, "__init__", lambda self, *rest: built.append(rest[1].num_experts) or real(self, *rest)
    )
    with pytest.raises(CheckpointError, match=rf"1 missing: \S*{of}"):
        sensenova_core.load(file.parent)
    assert set(built) == {1}


def test_a_config_without_end(tmp_path):
    folder = write_checkpoint(tmp_path / "model", geometry(4))
    (folder / "config.json").write_bytes(b" " * (2**24 + 1))
    assert "16,777,217 bytes, which is no file of this kind" in refused(folder, "config.json")
