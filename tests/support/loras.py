"""LoRA files of random factors, and checkpoints that they are merged into by hand."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.geometries import save_aligned

Deltas = dict[str, Tensor]  # by the names of parameters, at strength 1


def write_lora(
    file: Path,
    shapes: dict[str, tuple[int, ...]],
    seed: int = 0,
    rank: int = 4,
    alpha: float | None = 2.0,
    name: Callable[[str, str], str] = lambda place, end: f"diffusion_model.{place}.lora_{end}.weight",
    dtype: torch.dtype = torch.float32,
    metadata: dict[str, str] | None = None,
) -> Deltas:
    """Changes of these parameters that can be seen and do not drown all else; what they come to, in float64.

    name: (parameter without .weight, "up" or "down") -> key.
    """
    generator, tensors, deltas = torch.Generator().manual_seed(seed), {}, {}
    for parameter, shape in shapes.items():
        place, width = parameter.removesuffix(".weight"), torch.Size(shape[1:]).numel()
        up = (torch.randn(shape[0], rank, generator=generator) * 0.1).to(dtype)
        down = (torch.randn(rank, width, generator=generator) / width**0.5).to(dtype)
        tensors |= {name(place, "up"): up, name(place, "down"): down.view(rank, *shape[1:])}
        if alpha is not None:
            tensors[f"{name(place, 'up').rpartition('.lora_')[0]}.alpha"] = torch.tensor(alpha)
        scale = 1.0 if alpha is None else alpha / rank
        deltas[parameter] = (scale * up.double() @ down.double()).view(shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata)
    return deltas


def merged(source: Path, target: Path, changes: Iterable[tuple[Deltas, float]], dtype=torch.float32) -> Path:
    """A copy of a plain checkpoint with deltas at strengths added, summed in float64 and rounded once."""
    target.mkdir()
    for each in source.iterdir():
        if each.suffix == ".json":
            (target / each.name).write_bytes(each.read_bytes())
    tensors = {name: value.double() for name, value in _tensors(source).items()}
    for deltas, strength in changes:
        for name, delta in deltas.items():
            tensors[name] = tensors[name] + strength * delta
    save_aligned({name: value.to(dtype) for name, value in tensors.items()}, target / "model.safetensors")
    return target


def matrices(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that can have a LoRA."""
    return {
        name: tuple(value.shape)
        for name, value in _tensors(folder).items()
        if value.dim() > 1 and name.endswith(".weight") and wanted(name)
    }


def _tensors(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}
