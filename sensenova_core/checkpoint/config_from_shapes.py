"""A `config.json` from the shapes of tensors, for files that come without one.

What shapes do not tell is the same in all published models, or follows from the kind of head or of feed-forward layer:
docs/model.md has the values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..model.config import FAMILY

LAYERS = "language_model.model.layers."
_INDEX = re.compile(re.escape(LAYERS) + r"(\d{1,6})\.(?:mlp(_mot_gen)?\.experts\.(\d{1,6})\.)?")
_PUBLISHED_FEED_FORWARD = 6144  # of dense layers in the A3B models, which have none
_ROPE_THETA = 5e6
_ROPE_THETA_OF_MIXTURES = 1e7
_NOISE_MAX = {"linear": 8.0, "pixel": 16.0}

Shape = tuple[int, ...]


def counts(names: Mapping[str, Any] | list[str]) -> tuple[int, int, int]:
    """Layers, and experts of a layer on the understanding and the generation path, that names speak of."""
    layers: set[int] = set()
    experts: dict[str | None, int] = {}
    for name in names:
        if found := _INDEX.match(name):
            layers.add(int(found[1]))
            if found[3]:
                experts[found[2]] = max(experts.get(found[2], 0), int(found[3]) + 1)
    last = max(layers, default=-1)
    if len(layers) != last + 1:
        gap = next(layer for layer in range(last) if layer not in layers)
        raise CheckpointError(f"layer {gap} is missing: {LAYERS}{gap}.*; is the download complete?")
    return len(layers), experts.get(None, 0), experts.get("_mot_gen", 0)


def config_from_shapes(shapes: Mapping[str, Shape]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the content of a config.json, what of it is assumed) from the shape of every tensor by its published name.

    Raises CheckpointError naming a tensor that it needs and that is missing or of no such shape.
    """
    found = _Shapes(shapes)
    llm, of_decoder = _decoder(found)
    width, channels, patch, _ = found.of("vision_model.embeddings.patch_embedding.weight", 4)
    head = "pixel" if "fm_modules.fm_head.conv1.weight" in shapes else "linear"
    of_vision = {"rope_theta_vision": 1e4}
    of_noise = {
        "noise_scale_mode": "resolution",
        "noise_scale": 1.0,
        "noise_scale_base_image_seq_len": 64,
        "noise_scale_max_value": _NOISE_MAX[head],
    }
    config = {
        "architectures": [FAMILY],
        "llm_config": llm | of_decoder,
        "vision_config": {"hidden_size": width, "num_channels": channels, "patch_size": patch} | of_vision,
        "use_pixel_head": head == "pixel",
        "add_noise_scale_embedding": "fm_modules.noise_scale_embedder.mlp.0.weight" in shapes,
        **of_noise,
    }
    return config, of_decoder | of_vision | of_noise


def _decoder(found: "_Shapes") -> tuple[dict[str, Any], dict[str, Any]]:
    """The part llm_config, and what else of it is assumed."""
    layers, experts, gen_experts = counts(found.shapes)
    if not layers:
        raise CheckpointError(f"no decoder layers ({LAYERS}*); is the download complete?")
    vocabulary, hidden = found.of("language_model.model.embed_tokens.weight", 2)
    head_dim = 2 * found.in_layer(0, "self_attn.q_norm", 1)[0] or 1
    llm = {
        "model_type": "qwen3_moe" if experts else "qwen3",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": found.in_layer(0, "self_attn.q_proj")[0] // head_dim,
        "num_key_value_heads": found.in_layer(0, "self_attn.k_proj")[0] // head_dim,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
    }
    assumed = {
        "rms_norm_eps": 1e-6,
        "rope_theta": _ROPE_THETA_OF_MIXTURES if experts else _ROPE_THETA,
        "rope_theta_hw": 1e4,
        "max_position_embeddings": 262_144,
    }
    dense = found.layers_with("mlp.gate_proj", layers)
    if dense:
        llm["intermediate_size"] = found.in_layer(dense[0], "mlp.gate_proj")[0]
    else:
        assumed["intermediate_size"] = _PUBLISHED_FEED_FORWARD
    if experts:
        sparse = found.layers_with("mlp.experts.0.gate_proj", layers) or [0]
        llm |= {
            "num_experts": experts,
            "moe_intermediate_size": found.in_layer(sparse[0], "mlp.experts.0.gate_proj")[0],
            "gen_num_experts": gen_experts,
            "gen_moe_intermediate_size": found.in_layer(0, "mlp_mot_gen.experts.0.gate_proj")[0],
            "mlp_only_layers": dense,
        }
        assumed |= {"num_experts_per_tok": min(8, experts), "gen_num_experts_per_tok": min(8, gen_experts)}
        assumed["norm_topk_prob"] = True  # published; where a config.json leaves it out, it means false
    return llm, assumed


@dataclass(frozen=True)
class _Shapes:
    """Shapes by the published names, asked for one by one."""

    shapes: Mapping[str, Shape]

    def of(self, name: str, axes: int) -> Shape:
        found = self.shapes.get(name)
        if found is None or len(found) != axes:
            state = "missing" if found is None else f"of shape {list(found)}"
            raise CheckpointError(
                f"{name} is {state}, and without a config.json the model's size is read from it; fetch the file again"
            )
        return found

    def in_layer(self, layer: int, name: str, axes: int = 2) -> Shape:
        return self.of(f"{LAYERS}{layer}.{name}.weight", axes)

    def layers_with(self, name: str, layers: int) -> list[int]:
        return [layer for layer in range(layers) if f"{LAYERS}{layer}.{name}.weight" in self.shapes]


def head_width(shapes: Mapping[str, Shape]) -> int | None:
    """Inner width of the flow head, which no config names."""
    for name in ("fm_modules.fm_head.0.bias", "fm_modules.fm_head.conv1.bias"):
        if len(shapes.get(name, ())) == 1:
            return shapes[name][0]
    return None
