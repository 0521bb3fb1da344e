"""A config from the shapes of tensors: the published models', the tiny ones' and random ones, and what is refused."""

import gzip
import json

import pytest

from sensenova_core import CheckpointError, ModelConfig
from sensenova_core.checkpoint import checkpoint_name, open_checkpoint
from sensenova_core.checkpoint.config_from_shapes import config_from_shapes, head_width
from sensenova_core.model import SenseNovaU1
from tests.support.each import each
from tests.support.geometries import geometry
from tests.support.golden_set import COMPACT, GOLDEN, checkpoint

# (layers, hidden, heads, kv heads, head_dim, rotary base of time, pixel head, largest noise) of the published configs
PUBLISHED = {
    "8b": (42, 4096, 32, 8, 128, 5e6, False, 8.0),
    "u15_8b": (42, 4096, 32, 8, 128, 5e6, True, 16.0),
    "a3b": (48, 2048, 32, 4, 128, 1e7, False, 8.0),
}
Q_NORM = "language_model.model.layers.0.self_attn.q_norm.weight"


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    parameters = SenseNovaU1.on_meta(config).named_parameters()
    return {checkpoint_name(name): tuple(value.shape) for name, value in parameters}


def derived(shapes: dict) -> ModelConfig:
    return ModelConfig.from_dict(config_from_shapes(shapes)[0]).with_head_width(head_width(shapes))


def published(name: str) -> dict[str, tuple[int, ...]]:
    raw = json.loads(gzip.decompress((COMPACT / f"param_names_{name}.json.gz").read_bytes()))
    return {name: tuple(shape) for name, shape in raw.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_geometries(name):
    config = derived(published(name))
    decoder = config.decoder
    numbers = decoder.num_layers, decoder.hidden_size, decoder.num_heads, decoder.num_kv_heads, decoder.head_dim
    assert (*numbers, decoder.rope_theta, config.pixel_head, config.noise.max_scale) == PUBLISHED[name]
    assert decoder.vocab_size == 151936 and config.vision.hidden_size == 1024 and config.vision.patch_size == 16
    assert (decoder.rope_theta_hw, decoder.rms_norm_eps) == (1e4, 1e-6)
    assert config.noise.embedded and config.noise.mode == "resolution"
    assert shapes_of(config) == published(name)


def test_the_experts_of_the_a3b_model():
    config = derived(published("a3b")).decoder
    for experts, number in ((config.understanding_experts, 128), (config.generation_experts, 32)):
        assert {(each.num_experts, each.per_token, each.width, each.renormalise) for each in experts} == {
            (number, 8, 768, True)
        }


@pytest.mark.parametrize("name", sorted(path.name for path in (GOLDEN / "checkpoints").iterdir()))
def test_shapes_give_what_config_json_says(name):
    """Of the tiny models: all but experts for each token, the dense width of layers that have none, and the rotary base
    of the one with experts, which is not the published one's."""
    opened = open_checkpoint(checkpoint(name))
    raw, assumed = config_from_shapes({name: header.shape for name, header in opened.headers.items()})
    said = json.loads((checkpoint(name) / "config.json").read_text(encoding="utf-8"))
    untold = {"num_experts_per_tok", "gen_num_experts_per_tok"} | ({"intermediate_size"} & assumed.keys())
    untold |= {"rope_theta"} if "num_experts" in raw["llm_config"] else set()
    for key, value in raw["llm_config"].items():
        assert key in untold or value == said["llm_config"][key], key
    for key, value in raw["vision_config"].items():
        assert value == said["vision_config"][key], key
    for key in raw.keys() - {"llm_config", "vision_config"}:
        assert raw[key] == said[key], key
    assert opened.config_from == "config.json" and not opened.assumed


@each("seed", range(20))
def test_random_geometries(seed):
    config = ModelConfig.from_dict(geometry(seed)).with_head_width(64)
    assert shapes_of(derived(shapes_of(config))) == shapes_of(config)


def test_a_model_that_is_not_told_its_noise():
    raw = geometry(0) | {"add_noise_scale_embedding": False}
    assert derived(shapes_of(ModelConfig.from_dict(raw))).noise.embedded is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({Q_NORM: None}, "q_norm.weight is missing"),
        ({Q_NORM: (4, 4)}, r"q_norm.weight is of shape \[4, 4\]"),
        ({Q_NORM: (0,)}, "head_dim"),
        ({Q_NORM: (2**40,)}, "num_attention_heads is 0"),
        ({"language_model.model.embed_tokens.weight": (2**62, 64)}, "vocab_size is 4611686018427387904"),
        ({"language_model.model.embed_tokens.weight": (64, 0)}, "hidden_size is 0"),
        ({"language_model.model.layers.99.mlp.x": (1,)}, r"layer \d+ is missing"),
        ({"language_model.model.layers.999999.mlp.x": (1,)}, r"layer \d+ is missing"),
    ],
    ids=str,
)
def test_shapes_of_no_model(change, message):
    shapes = shapes_of(ModelConfig.from_dict(geometry(1))) | change
    with pytest.raises(CheckpointError, match=message):
        derived({name: shape for name, shape in shapes.items() if shape is not None})
