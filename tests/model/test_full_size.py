"""The published models at full size, on the meta device: parameter names, shapes and counts."""

import gzip
import json
from functools import cache

import pytest

from sensenova_core import ModelConfig
from sensenova_core.checkpoint import checkpoint_name
from sensenova_core.model import SenseNovaU1
from tests.support.golden_set import GOLDEN, manifest

DENSE = {
    "model_type": "qwen3",
    "num_hidden_layers": 42,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
}
SPARSE = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "gen_num_experts": 32,  # the other gen_* keys are absent and fall back to the understanding path's
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
# name in the manifest -> (decoder, pixel head, greatest noise scale, billions of parameters)
MODELS = {
    "U1-8B-MoT": (DENSE, False, 8.0, 17.552),
    "U1.5-8B-MoT": (DENSE, True, 16.0, 17.533),
    "U1-A3B-MoT": (SPARSE, False, 8.0, 38.738),
}


def config_json(decoder: dict, pixel_head: bool, max_scale: float) -> dict:
    """What `config.json` of a published model says, as far as it matters here."""
    shared = {
        "vocab_size": 151936,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5e6,
        "rope_theta_hw": 1e4,
        "tie_word_embeddings": False,
    }
    return {
        "architectures": ["NEOChatModel"],
        "downsample_ratio": 0.5,
        "template": "neo1_0",
        "llm_config": {**shared, **decoder},
        "vision_config": {"hidden_size": 1024, "patch_size": 16, "num_channels": 3, "rope_theta_vision": 1e4},
        "use_pixel_head": pixel_head,
        "noise_scale_mode": "resolution",
        "noise_scale": 1.0,
        "noise_scale_base_image_seq_len": 64,
        "noise_scale_max_value": max_scale,
        "add_noise_scale_embedding": True,
        "concat_time_token_num": 0,
        "use_adaLN": False,
        "fm_head_layers": 2,
        "fm_head_dim": 1536,  # not the width of the head: published weights have 4096
    }


@cache
def built(name: str) -> SenseNovaU1:
    return SenseNovaU1.on_meta(ModelConfig.from_dict(config_json(*MODELS[name][:3])))


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes(name):
    listed = GOLDEN / manifest()["parameter_breakdown"][name]["names_file"]
    expected = json.loads(gzip.decompress(listed.read_bytes()))
    ours = {checkpoint_name(parameter): list(value.shape) for parameter, value in built(name).named_parameters()}
    assert ours == expected


@pytest.mark.parametrize("name", MODELS)
def test_shapes_are_known_without_building(name):
    config = ModelConfig.from_dict(config_json(*MODELS[name][:3]))
    assert SenseNovaU1.shapes(config) == {key: tuple(value.shape) for key, value in built(name).named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts(name):
    def count(module) -> int:
        return sum(value.numel() for value in module.parameters())

    model, expected = built(name), manifest()["parameter_breakdown"][name]
    assert count(model) == expected["total"]
    assert round(count(model) / 1e9, 3) == MODELS[name][3]
    understanding, groups = model.understanding, expected["groups"]
    shared = count(understanding.embed_tokens) + count(understanding.lm_head)
    assert shared == groups["shared"]
    assert count(model.generation) == groups["generation_transformer"]
    assert count(understanding) - shared == groups["understanding_transformer"]


def test_nothing_is_stored():
    assert {value.device.type for value in built("U1-A3B-MoT").parameters()} == {"meta"}


def test_layers_without_experts_are_dense_where_the_model_reads_only():
    """mlp_only_layers, and every layer off decoder_sparse_step."""
    sparse = {**SPARSE, "num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    decoder = ModelConfig.from_dict(config_json(sparse, False, 8.0)).decoder
    assert [experts is None for experts in decoder.understanding_experts] == [True, False, True, True, True, False]
    assert all(experts.num_experts == 32 for experts in decoder.generation_experts)


def test_defaults_of_the_experts():
    bare = {key: value for key, value in SPARSE.items() if not key.startswith("gen_")}
    decoder = ModelConfig.from_dict(config_json(bare, False, 8.0)).decoder
    assert decoder.generation_experts == decoder.understanding_experts
    assert decoder.generation_experts[0].renormalise is False  # an absent norm_topk_prob means false


def test_rope_theta_as_newer_transformers_write_it():
    moved = {**DENSE, "rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 123.0}}
    assert ModelConfig.from_dict(config_json(moved, False, 8.0)).decoder.rope_theta == 123.0
