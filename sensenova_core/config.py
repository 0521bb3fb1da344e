"""`config.json` -> frozen dataclasses: the geometry of one model of the SenseNova-U1 family."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import CheckpointError

# Switches of the family that change the computation, with the only value this engine implements.
# A config that sets another value is refused by the switch's name.
_TOP_SWITCHES: dict[str, Any] = {
    "downsample_ratio": 0.5,
    "template": "neo1_0",
    "tie_word_embeddings": False,
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    "extra_num_layers_post": 0,
    "concat_time_token_num": 0,
    "use_adaLN": False,
    "fm_head_layers": 2,
}
_DECODER_SWITCHES: dict[str, Any] = {
    "attention_bias": False,
    "hidden_act": "silu",
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
NOISE_MODES = ("static", "resolution", "dynamic", "dynamic_sqrt")
_ARCHITECTURES = {"NEOChatModel"}
_BACKBONES = {"qwen3", "qwen3_moe"}


@dataclass(frozen=True)
class ExpertsConfig:
    """Mixture of experts in a feed-forward layer: `num_experts` of `width`, `per_token` chosen for each token."""

    num_experts: int
    per_token: int
    width: int
    renormalise: bool


@dataclass(frozen=True)
class DecoderConfig:
    """The transformer both experts share the geometry of."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float  # time axis
    rope_theta_hw: float  # rows and columns
    max_positions: int
    understanding_experts: tuple[ExpertsConfig | None, ...]  # one entry per layer; None is a dense layer
    generation_experts: tuple[ExpertsConfig | None, ...]


@dataclass(frozen=True)
class VisionConfig:
    """The patch embedder; one token covers 2 x 2 patches."""

    hidden_size: int
    channels: int
    patch_size: int
    rope_theta: float


@dataclass(frozen=True)
class NoiseConfig:
    """How strong the starting noise is, by image size; see `flow.noise_scale`."""

    mode: str
    scale: float
    base_tokens: int
    max_scale: float
    embedded: bool  # whether the model is told the scale


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build the model on the meta device."""

    decoder: DecoderConfig
    vision: VisionConfig
    noise: NoiseConfig
    pixel_head: bool
    head_width: int  # inner width of the flow head; not in config.json, read from the weights where there are any

    @property
    def token_pixels(self) -> int:
        """Side in pixels of the square that one image token covers; image sides are multiples of it."""
        return 2 * self.vision.patch_size

    @property
    def token_values(self) -> int:
        """Numbers in one image token: rows x columns x rgb."""
        return self.token_pixels**2 * self.vision.channels

    def with_head_width(self, width: int) -> "ModelConfig":
        return replace(self, head_width=width)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ModelConfig":
        """Read `folder/config.json`. Raises CheckpointError naming the file or key at fault."""
        return cls.from_dict(read_config_json(folder))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """Parse the content of a `config.json` (same keys as the published checkpoints)."""
        if not _ARCHITECTURES & set(raw.get("architectures") or ()):
            raise CheckpointError(
                f"config.json: architectures is {raw.get('architectures')!r}, expected one of "
                f"{sorted(_ARCHITECTURES)}; this is not a SenseNova-U1 or U1.5 checkpoint"
            )
        llm, vision = _section(raw, "llm_config"), _section(raw, "vision_config")
        if llm.get("model_type", "qwen3") not in _BACKBONES:
            raise CheckpointError(
                f"config.json: llm_config.model_type is {llm['model_type']!r}, expected one of {sorted(_BACKBONES)}"
            )
        _refuse_other_switches(raw, _TOP_SWITCHES, "")
        _refuse_other_switches(llm, _DECODER_SWITCHES, "llm_config.")
        pixel_head = bool(raw.get("use_pixel_head", False))
        vision_config = VisionConfig(
            hidden_size=_required(vision, "hidden_size", "vision_config."),
            channels=vision.get("num_channels", 3),
            patch_size=_required(vision, "patch_size", "vision_config."),
            rope_theta=vision.get("rope_theta_vision", 10000.0),
        )
        if pixel_head and vision_config.patch_size != 16:
            raise CheckpointError(
                f"config.json: use_pixel_head with patch_size {vision_config.patch_size}; "
                "the pixel head upsamples by 32, so it needs patch_size 16"
            )
        return cls(
            decoder=_decoder(llm),
            vision=vision_config,
            noise=NoiseConfig(
                mode=_noise_mode(raw.get("noise_scale_mode")),
                scale=raw.get("noise_scale") or 1.0,
                base_tokens=raw.get("noise_scale_base_image_seq_len", 64),
                max_scale=raw.get("noise_scale_max_value", 8.0),
                embedded=bool(raw.get("add_noise_scale_embedding", False)),
            ),
            pixel_head=pixel_head,
            head_width=1024 if pixel_head else 4096,
        )


def read_config_json(folder: str | Path) -> dict[str, Any]:
    """The content of `folder/config.json`, or a CheckpointError that says what is missing."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give the folder that holds config.json and *.safetensors")
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json in it; give the checkpoint's own folder, not one above it")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); fetch the file again") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: holds a {type(raw).__name__}, expected an object; fetch the file again")
    return raw


def _noise_mode(mode: str | None) -> str:
    if mode not in (None, *NOISE_MODES):
        raise CheckpointError(f"config.json: noise_scale_mode is {mode!r}, known are {', '.join(NOISE_MODES)}")
    return mode or "static"


def _decoder(llm: Mapping[str, Any]) -> DecoderConfig:
    def need(key: str) -> Any:
        return _required(llm, key, "llm_config.")

    num_layers = need("num_hidden_layers")
    understanding, generation = _experts(llm, num_layers)
    hidden_size, num_heads = need("hidden_size"), need("num_attention_heads")
    return DecoderConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=llm.get("num_key_value_heads", num_heads),
        head_dim=llm.get("head_dim", hidden_size // num_heads),
        intermediate_size=need("intermediate_size"),
        vocab_size=need("vocab_size"),
        rms_norm_eps=llm.get("rms_norm_eps", 1e-6),
        # transformers 5 writes rope_theta into rope_parameters
        rope_theta=(llm.get("rope_parameters") or {}).get("rope_theta") or need("rope_theta"),
        rope_theta_hw=need("rope_theta_hw"),
        max_positions=llm.get("max_position_embeddings", 262_144),
        understanding_experts=understanding,
        generation_experts=generation,
    )


def _experts(llm: Mapping[str, Any], num_layers: int) -> tuple[tuple[ExpertsConfig | None, ...], ...]:
    """Experts of each layer on both paths. Only the understanding path can have dense layers in between."""
    if not llm.get("num_experts"):
        return (None,) * num_layers, (None,) * num_layers
    understanding = ExpertsConfig(
        num_experts=llm["num_experts"],
        per_token=_required(llm, "num_experts_per_tok", "llm_config."),
        width=_required(llm, "moe_intermediate_size", "llm_config."),
        renormalise=bool(llm.get("norm_topk_prob", False)),
    )
    generation = ExpertsConfig(
        num_experts=llm.get("gen_num_experts") or understanding.num_experts,
        per_token=llm.get("gen_num_experts_per_tok") or understanding.per_token,
        width=llm.get("gen_moe_intermediate_size") or understanding.width,
        renormalise=understanding.renormalise,
    )
    dense = set(llm.get("mlp_only_layers") or ())
    period = llm.get("decoder_sparse_step", 1)
    sparse = [layer not in dense and (layer + 1) % period == 0 for layer in range(num_layers)]
    return tuple(understanding if here else None for here in sparse), (generation,) * num_layers


def _section(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = raw.get(key)
    if not isinstance(section, Mapping):
        raise CheckpointError(f"config.json: {key} is missing; the file is not a SenseNova-U1 config")
    return section


def _required(section: Mapping[str, Any], key: str, where: str) -> Any:
    if section.get(key) is None:
        raise CheckpointError(f"config.json: {where}{key} is missing; fetch the file again")
    return section[key]


def _refuse_other_switches(section: Mapping[str, Any], switches: Mapping[str, Any], where: str) -> None:
    for key, implemented in switches.items():
        value = section.get(key, implemented)
        if (value or None) != (implemented or None):  # absent, null, 0 and false all mean "off"
            raise CheckpointError(
                f"config.json: {where}{key} is {value!r}; this engine implements {implemented!r} only, "
                "and other values would draw wrong pictures silently"
            )
