"""What talks with ComfyUI's runtime: memory, progress, previews, interruption. folders.py knows its model folders."""

import copy
import html
import json
import logging
import os
import time
from functools import partial
from pathlib import Path

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from PIL import Image, ImageChops
from server import PromptServer
from torch import Tensor
from torch.nn import functional as F

from ..sensenova_core.engine import Engine
from ..sensenova_core.errors import SettingsError
from ..sensenova_core.memory import Task
from ..sensenova_core.report.places import check_place
from ..sensenova_core.report.png import to_pil
from ..sensenova_core.report.profile import Profile

PREVIEW_SIDE = 512
PAGE_SIDE = 8192  # a JPEG ends at 65500 pixels, and browsers before that
log = logging.getLogger(__name__)

NOTHING = ExecutionBlocker(None)  # on a wire: what follows is left out without an error


class LoadedEngine:
    """What travels on a model wire: an engine, and the patcher by which ComfyUI moves its weights.

    ComfyUI only holds weak references to patchers, so this object keeps the model known to its memory management.
    loading: what loading took. loras: (file, strength) of those that runs over this wire use; other wires from the same
    Loader have others, and all share the engine.
    """

    def __init__(self, engine: Engine, loading: Profile | None = None):
        self.loras: tuple[tuple[Path, float], ...] = ()
        self.engine, self.loading = engine, loading or Profile(engine.device)
        self.patcher = EnginePatcher(engine, mm.unet_offload_device())
        engine.memory.tell = warn
        if not mm.is_device_cpu(engine.device):
            engine.memory.free = partial(mm.get_free_memory, engine.device)
            engine.memory.limit_host(max(0, int(mm.MAX_PINNED_MEMORY)))  # none with --disable-pinned-memory

    def with_lora(self, file: Path, strength: float) -> "LoadedEngine":
        """The same engine on another wire, with one more LoRA."""
        other = copy.copy(self)
        other.loras = (*self.loras, (file, strength))
        return other

    def use_loras(self) -> None:
        """Set the engine to this wire's LoRAs."""
        self.engine.use_loras(self.loras)
        self.patcher.size = self.engine.memory.wanted_bytes

    def make_ready(self, task: Task) -> Profile:
        """Have other models make room for a task, and agree with ComfyUI on the memory that weights may take.

        The engine gets this wire's LoRAs. Returns the profile to count the run in.
        """
        self.use_loras()
        mm.load_models_gpu([self.patcher], memory_required=task.most_working)
        return Profile(self.engine.device, self.loading.load_seconds, self.loading.load_peak)


class EnginePatcher(comfy.model_patcher.ModelPatcher):
    """Tells ComfyUI's memory management what an engine has on the device, layer by layer, and gives back what it asks.

    Layers come to the device when a run needs them; loading only says how many may stay.
    """

    EVERYTHING = 1e30  # what ComfyUI offers where it sets no limit

    def __init__(self, engine: Engine, offload_device: torch.device):
        super().__init__(engine, engine.device, offload_device, size=engine.memory.wanted_bytes)

    def model_size(self) -> int:
        return max(self.size, self.loaded_size())

    def loaded_size(self) -> int:
        return self.model.memory.weights.nbytes

    def current_loaded_device(self) -> torch.device:
        return self.load_device if self.loaded_size() else self.offload_device

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False) -> int:
        before = self.loaded_size()
        self.model.allow(None if extra_memory >= self.EVERYTHING else int(before + extra_memory))
        self.model.place()
        return self.loaded_size() - before

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False) -> int:
        return self.model.give_back(memory_to_free)

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


def to_pictures(batch: Tensor, mask: Tensor | None = None) -> list[Image.Image]:
    """An IMAGE (batch, height, width, 1, 3 or 4) as PIL pictures; a MASK makes what it covers transparent as well."""
    pictures = []
    for index, pixels in enumerate(batch):
        values = (pixels.float().cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
        if mask is not None:
            covered = mask[min(index, len(mask) - 1)].float().cpu().numpy()
            shown = Image.fromarray(((1 - covered) * 255).round().clip(0, 255).astype(np.uint8))
            picture = picture.convert("RGBA")
            shown = shown.resize(picture.size, Image.Resampling.BILINEAR)
            picture.putalpha(ImageChops.multiply(picture.getchannel("A"), shown))
        pictures.append(picture)
    return pictures


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


class TextProgress:
    """Text shown on the node while it is written, and the progress bar where the number of tokens is known."""

    EVERY_SECONDS = 0.1

    def __init__(self, total: int | None):
        self.bar = comfy.utils.ProgressBar(total) if total else None
        self.tokens, self.last_shown = 0, 0.0

    def report(self, text: str) -> None:
        """All text so far. Raises ComfyUI's interruption when the user cancelled."""
        stop_if_interrupted()
        self.tokens += 1
        if self.bar:
            self.bar.update_absolute(min(self.tokens, self.bar.total))
        if time.monotonic() - self.last_shown >= self.EVERY_SECONDS:
            self.finish(text)

    def finish(self, text: str) -> None:
        show_text(text)
        self.last_shown = time.monotonic()


def show_text(text: str) -> None:
    """Show text on the node that is running. The graph editor reads it as HTML, and would leave out <image>."""
    context = get_executing_context()
    if context is not None:
        PromptServer.instance.send_progress_text(html.escape(text, quote=False), context.node_id)


def show_picture(picture: Image.Image) -> None:
    """Put a picture in place of the live preview, which the graph editor goes on showing over a node's own output."""
    if args.preview_method != LatentPreviewMethod.NoPreviews:
        picture = picture.copy()
        picture.thumbnail((PAGE_SIDE, PAGE_SIDE))
        comfy.utils.ProgressBar(1).update_absolute(1, 1, ("JPEG", picture, None))


def tell(message: str) -> None:
    """Say something on the node that is running, and in the log."""
    log.info(message)
    show_text(message)


def warn(message: str) -> None:
    """Say something on the node that is running, and in the log."""
    log.warning(message)
    show_text(f"Warning: {message}")


def source_metadata(graph: dict | None, node_id: str, name: str) -> dict[str, str]:
    """Metadata of the picture that feeds input `name` of a node, where the graph tells.

    That is a loaded file's own text, or the graph itself where our sampler drew it.
    """
    link = (graph or {}).get(node_id, {}).get("inputs", {}).get(name)
    source = graph.get(link[0], {}) if isinstance(link, list) else {}
    if source.get("class_type") == "SenseNovaCoreFlowMatchSampler":
        return {"prompt": json.dumps({link[0]: source})}
    if source.get("class_type") == "LoadImage" and isinstance(source["inputs"].get("image"), str):
        path = Path(folder_paths.get_annotated_filepath(source["inputs"]["image"]))
        if path.is_file():
            with Image.open(path) as picture:
                return {key: value for key, value in picture.info.items() if isinstance(value, str)}
    return {}


def output_place(prefix: str) -> tuple[Path, str]:
    """A folder, which is ComfyUI's output folder or lies below it, and what names in it begin with."""
    folder, name, *_ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder), name


def output_error(prefix: str, file: str) -> str | None:
    """Why `file` could not be saved in a folder prefix_00001, so that nobody waits for it; None where it could.

    Of places outside of the output folder as well, which ComfyUI refuses when it comes to saving.
    """
    root = folder_paths.get_output_directory()
    below = Path(root, f"{os.path.normpath(prefix)}_00001", file)
    try:
        prefix.encode()
        if "\0" not in prefix and not folder_paths.is_within_directory(root, str(below)):
            return None
        check_place(below)
    except UnicodeEncodeError:
        return f"filename_prefix {ascii(prefix)[:100]} has letters that no file name has; give another name"
    except SettingsError as error:
        return str(error)
    return None


def _preview(image: Tensor) -> Image.Image:
    """Scaled down on its own device, so that little is copied to the host."""
    height, width = image.shape[1:3]
    scale = min(1, PREVIEW_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(image[:1].permute(0, 3, 1, 2), size, mode="area")[0]
    return to_pil(small.permute(1, 2, 0))
