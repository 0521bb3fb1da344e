"""The model once more, written to be read: no cache, no grouping, one explicit mask, tensors by their published names.

Slow and simple on purpose; the engine is compared with it where the reference data has no case.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F


class Naive:
    """One checkpoint folder in float32."""

    def __init__(self, folder: Path):
        self.raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.llm, self.patch = self.raw["llm_config"], self.raw["vision_config"]["patch_size"]
        self.weights = load_file(folder / "model.safetensors")

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        return (
            x / (x.square().mean(-1, keepdim=True) + self.llm["rms_norm_eps"]).sqrt() * self.weights[f"{name}.weight"]
        )

    def noise_scale(self, tokens: int) -> float:
        scale = self.raw["noise_scale"]
        if self.raw["noise_scale_mode"] == "static":
            return scale
        scale *= (tokens / self.raw["noise_scale_base_image_seq_len"]) ** 0.5
        return min(
            scale**0.5 if self.raw["noise_scale_mode"] == "dynamic_sqrt" else scale, self.raw["noise_scale_max_value"]
        )

    def guess(self, ids: Tensor, image: Tensor, t: float, noise_scale: float) -> Tensor:
        """The clean image that the model sees in `image` (3, height, width) at time t, after reading ids."""
        rows, columns = (side // (2 * self.patch) for side in image.shape[1:])
        text = self.weights["language_model.model.embed_tokens.weight"][ids]
        x = torch.cat([text, self.image_tokens(image, t, noise_scale)])
        is_image = torch.arange(len(x)) >= len(ids)
        place = torch.arange(len(x)) - len(ids)
        positions = [
            torch.where(is_image, len(ids), torch.arange(len(x))),
            torch.where(is_image, place // columns, 0),
            torch.where(is_image, place % columns, 0),
        ]
        order = torch.arange(len(x))
        visible = (order[None] <= order[:, None]) | (is_image[None] & is_image[:, None])
        for layer in range(self.llm["num_hidden_layers"]):
            x = self.layer(f"language_model.model.layers.{layer}", x, positions, visible, is_image)
        return self.head(self.norm("language_model.model.norm_mot_gen", x[is_image]), rows, columns)

    def layer(self, name: str, x: Tensor, positions: list[Tensor], visible: Tensor, is_image: Tensor) -> Tensor:
        """Every token through both experts, keeping the one that is its own."""
        parts = [self.projected(name, x, positions, suffix) for suffix in ("", "_mot_gen")]
        query, key, value = (
            torch.where(is_image[:, None, None], draws, reads) for reads, draws in zip(*parts, strict=True)
        )
        repeat = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        scores = torch.einsum("qhd,khd->hqk", query, key) / self.llm["head_dim"] ** 0.5
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        attended = torch.einsum("hqk,khd->qhd", weights, value).flatten(1)
        outs = []
        for suffix in ("", "_mot_gen"):
            y = x + self.linear(f"{name}.self_attn.o_proj{suffix}", attended)
            outs.append(
                y + self.feed_forward(f"{name}.mlp{suffix}", self.norm(f"{name}.post_attention_layernorm{suffix}", y))
            )
        return torch.where(is_image[:, None], outs[1], outs[0])

    def projected(self, name: str, x: Tensor, positions: list[Tensor], suffix: str) -> list[Tensor]:
        """Query, key, value, each (tokens, heads, head_dim)."""
        x = self.norm(f"{name}.input_layernorm{suffix}", x)
        head_dim, out = self.llm["head_dim"], []
        for part in "qkv":
            y = self.linear(f"{name}.self_attn.{part}_proj{suffix}", x).view(len(x), -1, head_dim)
            if part != "v":
                time, grid = y.chunk(2, -1)
                time = self.norm(f"{name}.self_attn.{part}_norm{suffix}", time)
                row, column = self.norm(f"{name}.self_attn.{part}_norm_hw{suffix}", grid).chunk(2, -1)
                turns = zip(
                    (time, row, column), positions, ("rope_theta", "rope_theta_hw", "rope_theta_hw"), strict=True
                )
                y = torch.cat([turned(part, place, self.llm[theta]) for part, place, theta in turns], -1)
            out.append(y)
        return out

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.gate.weight" not in self.weights:
            return self.swiglu(name, x)
        path = "gen_" if "mot_gen" in name else ""
        likelihood = self.linear(f"{name}.gate", x).softmax(-1)
        chosen = likelihood.topk(self.llm[f"{path}num_experts_per_tok"]).indices
        weights = torch.zeros_like(likelihood).scatter(1, chosen, likelihood.gather(1, chosen))
        if self.llm.get("norm_topk_prob", False):
            weights = weights / weights.sum(-1, keepdim=True)
        outs = [self.swiglu(f"{name}.experts.{index}", x) for index in range(likelihood.shape[1])]
        return sum(weights[:, index, None] * out for index, out in enumerate(outs))

    def swiglu(self, name: str, x: Tensor) -> Tensor:
        return self.linear(
            f"{name}.down_proj", F.silu(self.linear(f"{name}.gate_proj", x)) * self.linear(f"{name}.up_proj", x)
        )

    def image_tokens(self, image: Tensor, t: float, noise_scale: float) -> Tensor:
        """(3, height, width) -> (tokens, hidden), told the time and the strength of the noise."""
        name = "fm_modules.vision_model_mot_gen.embeddings"
        patch, dense = f"{name}.patch_embedding", f"{name}.dense_embedding"
        x = F.gelu(F.conv2d(image[None], self.weights[f"{patch}.weight"], self.weights[f"{patch}.bias"], self.patch))
        column_half, row_half = x.chunk(2, 1)  # of the channels
        theta = self.raw["vision_config"]["rope_theta_vision"]
        columns, rows = torch.arange(x.shape[3])[None, :], torch.arange(x.shape[2])[:, None]
        x = torch.cat([turned_pairs(column_half, columns, theta), turned_pairs(row_half, rows, theta)], 1)
        x = F.conv2d(x, self.weights[f"{dense}.weight"], self.weights[f"{dense}.bias"], 2)[0].flatten(1).T
        x = x + self.scalar("fm_modules.timestep_embedder", t)
        if self.raw["add_noise_scale_embedding"]:
            x = x + self.scalar("fm_modules.noise_scale_embedder", noise_scale / self.raw["noise_scale_max_value"])
        return x

    def scalar(self, name: str, value: float) -> Tensor:
        angles = value * 10_000.0 ** -(torch.arange(128) / 128)
        return self.linear(
            f"{name}.mlp.2", F.silu(self.linear(f"{name}.mlp.0", torch.cat([angles.cos(), angles.sin()])))
        )

    def head(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """(tokens, hidden) -> (3, height, width)."""
        name = "fm_modules.fm_head"
        if not self.raw["use_pixel_head"]:
            side = 2 * self.patch
            x = self.linear(f"{name}.2", F.gelu(self.linear(f"{name}.0", x)))
            return torch.einsum("rcyxk->krycx", x.view(rows, columns, side, side, 3)).reshape(
                3, rows * side, columns * side
            )
        x = x.T.reshape(1, -1, rows, columns)
        for conv, upsampling in (("conv1", 2), ("conv2", 2)):
            x = F.pixel_shuffle(x, upsampling)
            x = F.conv2d(x, self.weights[f"{name}.{conv}.weight"], self.weights[f"{name}.{conv}.bias"], padding=1)
            x = F.gelu(x) if conv == "conv1" else x
        return F.pixel_shuffle(x, 8)[0]


def turned(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """(tokens, heads, width): channels i and i + width / 2 are the two sides of a plane."""
    half = x.shape[-1] // 2
    angles = (positions[:, None] * theta ** -(torch.arange(half) / half))[:, None]
    plane = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([plane.real, plane.imag], -1)


def turned_pairs(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """(1, channels, rows, columns): channels 2i and 2i + 1 are the two sides of a plane."""
    pairs = x.shape[1] // 2
    angles = positions * theta ** -(torch.arange(pairs)[:, None, None] / pairs)
    plane = torch.complex(x[:, 0::2], x[:, 1::2]) * torch.polar(torch.ones_like(angles), angles)
    return torch.stack([plane.real, plane.imag], 2).flatten(1, 2)
