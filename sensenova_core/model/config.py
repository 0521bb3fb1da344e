"""The content of `config.json` -> frozen dataclasses: the geometry of one model of the SenseNova-U1 family."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import CheckpointError
from ..settings import BEST_AREA
from .config_keys import DECODER_KEYS, DECODER_SWITCHES, TOP_KEYS, TOP_SWITCHES, VISION_KEYS, VISION_SWITCHES
from .config_section import Section, in_brief, refuse_unknown
from .grid import Grid

NOISE_MODES = ("static", "resolution", "dynamic", "dynamic_sqrt")
SMALLEST_AREA = 32 * 32  # of one token
MAX_LAYERS, MAX_EXPERTS = 2**10, 2**16  # experts of all layers together, on one path
FAMILY = "NEOChatModel"  # what every config.json of the family names as its architecture
_BACKBONES = ("qwen3", "qwen3_moe")


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
    best_area: int = BEST_AREA  # pixels of the pictures that it draws best
    writes: bool = True  # whether it has the output head, without which it only draws; read from the weights too

    @property
    def token_pixels(self) -> int:
        """Side in pixels of the square that one image token covers; image sides are multiples of it."""
        return 2 * self.vision.patch_size

    @property
    def token_values(self) -> int:
        """Numbers in one image token: rows x columns x rgb."""
        return self.token_pixels**2 * self.vision.channels

    def grid(self, *, width: int, height: int) -> Grid:
        """Of the tokens that an image of so many pixels takes, its sides filled up to multiples of a token's."""
        return Grid.covering(width=width, height=height, side=self.token_pixels)

    def with_head_width(self, width: int) -> "ModelConfig":
        return replace(self, head_width=width)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "ModelConfig":
        """Parse the content of a `config.json` (same keys as the published checkpoints)."""
        top = Section("config.json: ", raw)
        architectures = raw.get("architectures")
        if not isinstance(architectures, list) or FAMILY not in architectures:
            raise CheckpointError(
                f"config.json: architectures is {in_brief(architectures)}, expected [{FAMILY!r}]; "
                "this is not a checkpoint of the SenseNova-U1 family (U1, U1.5, U1.6)"
            )
        llm, vision = top.section("llm_config"), top.section("vision_config")
        backbone = llm.raw.get("model_type", "qwen3")
        if backbone not in _BACKBONES:
            raise CheckpointError(f"{llm.where}model_type is {in_brief(backbone)}, expected one of {list(_BACKBONES)}")
        top.refuse_other(TOP_SWITCHES)
        llm.refuse_other(DECODER_SWITCHES)
        vision.refuse_other(VISION_SWITCHES)
        refuse_unknown({top: TOP_KEYS, llm: DECODER_KEYS, vision: VISION_KEYS})
        pixel_head = top.flag("use_pixel_head")
        config = cls(
            decoder=_decoder(llm),
            vision=VisionConfig(
                hidden_size=vision.count("hidden_size", most=2**14),
                channels=vision.count("num_channels", 3, most=16),
                patch_size=vision.count("patch_size", most=2**10),
                rope_theta=vision.number("rope_theta_vision", 10_000.0),
            ),
            noise=NoiseConfig(
                mode=top.one_of("noise_scale_mode", NOISE_MODES, "static"),
                scale=top.number("noise_scale", 1.0),
                base_tokens=top.count("noise_scale_base_image_seq_len", 64, most=2**31),
                max_scale=top.number("noise_scale_max_value", 8.0),
                embedded=top.flag("add_noise_scale_embedding"),
            ),
            pixel_head=pixel_head,
            head_width=1024 if pixel_head else 4096,
            best_area=_best_area(raw.get("max_pixels")),
        )
        if config.pixel_head and config.vision.patch_size != 16:
            raise CheckpointError(
                f"config.json: use_pixel_head with patch_size {config.vision.patch_size}; "
                "the pixel head upsamples by 32, so it needs patch_size 16"
            )
        return config


def _best_area(max_pixels: object) -> int:
    """Published files state more than their models were trained at, and no other program reads it: only less counts."""
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < SMALLEST_AREA:
        return BEST_AREA
    return min(BEST_AREA, max_pixels)


def _decoder(llm: Section) -> DecoderConfig:
    rope = _rope(llm)
    hidden_size, num_layers = llm.count("hidden_size"), llm.count("num_hidden_layers", most=MAX_LAYERS)
    num_heads = llm.count("num_attention_heads", most=2**12)
    if any(kind != "full_attention" for kind in llm.several("layer_types")):
        raise CheckpointError(f"{llm.where}layer_types holds other than full_attention, which is all there is here")
    understanding, generation = _experts(llm, num_layers)
    num_kv_heads = llm.count("num_key_value_heads", num_heads, most=2**12)
    head_dim = llm.count("head_dim", hidden_size // num_heads, most=2**12)
    if num_heads % num_kv_heads or head_dim % 8:
        raise CheckpointError(
            f"{llm.where}num_attention_heads is {num_heads}, num_key_value_heads {num_kv_heads}, head_dim {head_dim}; "
            "expected a multiple of the second, and one of 8; fetch the file again"
        )
    return DecoderConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=llm.count("intermediate_size"),
        vocab_size=llm.count("vocab_size", most=2**24),
        rms_norm_eps=llm.number("rms_norm_eps", 1e-6),
        rope_theta=rope.number("rope_theta"),
        rope_theta_hw=llm.number("rope_theta_hw"),
        max_positions=llm.count("max_position_embeddings", 262_144, most=2**40),
        understanding_experts=understanding,
        generation_experts=generation,
    )


def _rope(llm: Section) -> Section:
    """Where rope_theta stands: transformers 5 writes it into rope_parameters. Raises for any scaled kind of rope."""
    for key in ("rope_scaling", "rope_parameters"):
        if llm.raw.get(key) is not None:
            rope = llm.section(key)
            kind = rope.raw.get("rope_type", rope.raw.get("type", "default"))
            if kind != "default":
                raise CheckpointError(
                    f"{rope.where}rope_type is {in_brief(kind)}; this engine implements 'default' only"
                )
    parameters = llm.raw.get("rope_parameters") or {}
    return llm.section("rope_parameters") if "rope_theta" in parameters else llm


def _experts(llm: Section, num_layers: int) -> tuple[tuple[ExpertsConfig | None, ...], ...]:
    """Experts of each layer on both paths. Only the understanding path can have dense layers in between."""
    if not llm.raw.get("num_experts"):
        return (None,) * num_layers, (None,) * num_layers
    most = MAX_EXPERTS // num_layers
    num_experts = llm.count("num_experts", most=most)
    gen_num_experts = llm.count("gen_num_experts", num_experts, most=most)
    understanding = ExpertsConfig(
        num_experts=num_experts,
        per_token=llm.count("num_experts_per_tok", most=num_experts),
        width=llm.count("moe_intermediate_size"),
        renormalise=llm.flag("norm_topk_prob"),
    )
    generation = ExpertsConfig(
        num_experts=gen_num_experts,
        per_token=llm.count("gen_num_experts_per_tok", understanding.per_token, most=gen_num_experts),
        width=llm.count("gen_moe_intermediate_size", understanding.width),
        renormalise=understanding.renormalise,
    )
    dense = {layer for layer in llm.several("mlp_only_layers") if isinstance(layer, int)}
    period = llm.count("decoder_sparse_step", 1)
    sparse = [layer not in dense and (layer + 1) % period == 0 for layer in range(num_layers)]
    return tuple(understanding if here else None for here in sparse), (generation,) * num_layers
