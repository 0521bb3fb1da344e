"""The only file that talks with ComfyUI's runtime: model folders, memory, progress, previews, interruption."""

import os
from collections.abc import Iterator
from pathlib import Path

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..sensenova_core.engine import Engine
from ..sensenova_core.png import to_pil

FOLDER_KEY = "sensenova"
OTHER_FOLDER_KEY = "diffusion_models"
FAMILY_MARK = b"NEOChat"  # in config.json; tells this family's folders from others in a shared model folder
SEARCH_DEPTH = 3
PREVIEW_SIDE = 512
NOTHING_FOUND = "no checkpoint found: see the tooltip"


def register_model_folder() -> None:
    """Make models/sensenova known, beside any folders of that name in extra_model_paths.yaml."""
    folder_paths.add_model_folder_path(FOLDER_KEY, os.path.join(folder_paths.models_dir, FOLDER_KEY), is_default=True)


def checkpoint_folders() -> dict[str, Path]:
    """Name (relative to its model folder) -> folder of every checkpoint that could be loaded."""
    found: dict[str, Path] = {}
    for key in (FOLDER_KEY, OTHER_FOLDER_KEY):
        for root in map(Path, folder_paths.get_folder_paths(key)):
            for folder in _folders_with_config(root):
                if key == FOLDER_KEY or FAMILY_MARK in (folder / "config.json").read_bytes():
                    found.setdefault(folder.relative_to(root).as_posix(), folder)
    return dict(sorted(found.items()))


def checkpoint_folder(name: str) -> Path:
    """The folder of a listed name. Raises FileNotFoundError that says where checkpoints belong."""
    folders = checkpoint_folders()
    if name not in folders:
        raise FileNotFoundError(
            f"checkpoint {name!r} is not there. Put a checkpoint's folder (config.json, *.safetensors, tokenizer "
            f"files) into {folder_paths.get_folder_paths(FOLDER_KEY)[0]} and press R to refresh the list; "
            f"found now: {', '.join(folders) or 'none'}"
        )
    return folders[name]


def fingerprint(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes when a file of the folder is replaced: (name, size, time of change) of each."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def _folders_with_config(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root, followlinks=True):
        depth = len(Path(folder).relative_to(root).parts)
        if depth and "config.json" in files:
            yield Path(folder)
            below.clear()
        if depth >= SEARCH_DEPTH:
            below.clear()


class LoadedModel:
    """What travels on a model wire: an engine, and the patcher by which ComfyUI moves its weights.

    ComfyUI only holds weak references to patchers, so this object keeps the model known to its memory management.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.patcher = EnginePatcher(engine, mm.unet_offload_device())

    def make_ready(self, working_bytes: int) -> None:
        """Have the weights on the device with `working_bytes` free beside them, other models making room."""
        mm.load_models_gpu([self.patcher], memory_required=working_bytes)


class EnginePatcher(comfy.model_patcher.ModelPatcher):
    """Loads and evicts an engine's weights as ComfyUI's memory management asks: all of them, or none."""

    def __init__(self, engine: Engine, offload_device: torch.device):
        super().__init__(engine, engine.device, offload_device, size=engine.weight_bytes)

    def loaded_size(self) -> int:
        return self.size if self.model.placed else 0

    def current_loaded_device(self) -> torch.device:
        return self.load_device if self.model.placed else self.offload_device

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False) -> int:
        before = self.loaded_size()
        self.model.place()
        return self.loaded_size() - before

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False) -> int:
        freed = self.loaded_size()
        self.model.release()
        return freed

    def detach(self, unpatch_all=True):
        if unpatch_all:  # False is bookkeeping only: ComfyUI asks for it at every repeated load
            self.model.release()
        return self.model


def torch_device() -> torch.device:
    return mm.get_torch_device()


def weight_dtype(choice: str) -> str:
    """ "auto" is as stored, except on a device without bfloat16."""
    return "float32" if choice == "auto" and not _runs_bfloat16() else choice


def _runs_bfloat16() -> bool:
    device = mm.get_torch_device()
    return mm.is_device_cpu(device) or mm.should_use_bf16(device)


def stop_if_interrupted() -> None:
    """Raises ComfyUI's own interruption, which must not be caught."""
    mm.throw_exception_if_processing_interrupted()


def to_wire(image: Tensor) -> Tensor:
    """An IMAGE as ComfyUI passes it between nodes: (batch, height, width, 3) where it keeps intermediates."""
    return image.to(device=mm.intermediate_device(), dtype=mm.intermediate_dtype())


def picture_to_wire(picture: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return to_wire(pixels.view(1, picture.height, picture.width, 3).float() / 255)


class Progress:
    """The node's progress bar and live preview. Reporting raises ComfyUI's interruption when the user cancelled."""

    def __init__(self, total: int):
        self.total = total
        self.bar = comfy.utils.ProgressBar(total)
        self.previews = args.preview_method != LatentPreviewMethod.NoPreviews

    def report(self, done: int, image: Tensor | None = None) -> None:
        """image: (batch, height, width, 3) in 0 .. 1, the first of which is shown."""
        stop_if_interrupted()
        self.bar.update_absolute(done, self.total, None if image is None else ("JPEG", _preview(image), PREVIEW_SIDE))


def _preview(image: Tensor) -> Image.Image:
    """Scaled down on its own device, so that little is copied to the host."""
    height, width = image.shape[1:3]
    scale = min(1, PREVIEW_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(image[:1].permute(0, 3, 1, 2), size, mode="area")[0]
    return to_pil(small.permute(1, 2, 0))
