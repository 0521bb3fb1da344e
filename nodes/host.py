"""The only file that talks with ComfyUI's runtime: model folders, memory, progress, previews, interruption."""

import copy
import html
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
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

from ..sensenova_core import DEMO, CheckpointError
from ..sensenova_core.checkpoint import locate, lora_states
from ..sensenova_core.checkpoint.files import GGUF, SAFETENSORS, is_hub_repository, is_of_family, is_shard, snapshot_of
from ..sensenova_core.download import check_name, downloading
from ..sensenova_core.engine import Engine
from ..sensenova_core.memory import Task
from ..sensenova_core.png import to_pil
from ..sensenova_core.profile import Profile

FOLDER_KEY = "sensenova"
OTHER_FOLDER_KEY = "diffusion_models"
LORA_KEYS = ("sensenova_loras", "loras")  # ours first
FAMILY_MARK = b"NEOChat"  # in config.json; tells this family's folders from others in a shared model folder
SEARCH_DEPTH = 3
PREVIEW_SIDE = 512
PAGE_SIDE = 8192  # a JPEG ends at 65500 pixels, and browsers before that
log = logging.getLogger(__name__)

NOTHING = ExecutionBlocker(None)  # on a wire: what follows is left out without an error
AUTOMATIC, BUILT_IN = "automatic", "built-in demo"  # in the list of checkpoints
EXAMPLES = Path(__file__).parents[1] / "workflows" / "pictures"


def register_model_folder() -> None:
    """Make models/sensenova and its loras known, beside any folders of these names in extra_model_paths.yaml."""
    folder = os.path.join(folder_paths.models_dir, FOLDER_KEY)
    folder_paths.add_model_folder_path(FOLDER_KEY, folder, is_default=True)
    folder_paths.add_model_folder_path(LORA_KEYS[0], os.path.join(folder, "loras"), is_default=True)


def offer_examples() -> None:
    """Put the pictures that the shipped workflows edit and ask about into ComfyUI's input folder, if missing.

    Without them, these workflows would begin with an error for the missing file.
    """
    for picture in EXAMPLES.glob("*.png"):
        target = Path(folder_paths.get_input_directory()) / picture.name
        try:
            if not target.exists():
                shutil.copy(picture, target)
        except OSError as error:
            log.warning("example picture %s is not offered: %s", target, error)


def checkpoint_choices() -> list[str]:
    """What a list of checkpoints offers."""
    return [AUTOMATIC, *checkpoints(), BUILT_IN]


def checkpoints() -> dict[str, Path]:
    """Name -> folder or single file of every checkpoint that the user has; folders first.

    Names are relative to a model folder, or OWNER/NAME for a repository in the layout of the hub's cache.
    """
    found: dict[str, Path] = {}
    for key in (FOLDER_KEY, OTHER_FOLDER_KEY):
        for root in map(Path, folder_paths.get_folder_paths(key)):
            for name, path in _below(root, any_folder=key == FOLDER_KEY):
                found.setdefault(name, path)
    return dict(sorted(found.items(), key=lambda item: (item[1].is_file(), item[0])))


def checkpoint_meant(choice: str) -> str:
    """The name of a checkpoint: for automatic the first that the user has, or else the demo."""
    return next(iter(checkpoints()), BUILT_IN) if choice == AUTOMATIC else choice


def checkpoint_path(name: str) -> Path:
    """The folder or file of a checkpoint. Raises FileNotFoundError that says where checkpoints belong."""
    if name == BUILT_IN:
        return DEMO
    found = checkpoints()
    if name not in found:
        raise FileNotFoundError(
            f"checkpoint {name!r} is not there. Put a checkpoint's folder (config.json, *.safetensors, tokenizer "
            f"files) or a single .safetensors or .gguf file into {folder_paths.get_folder_paths(FOLDER_KEY)[0]} and "
            f"press R to refresh the list, or turn download on; found now: {', '.join(found) or 'none'}. "
            f"{BUILT_IN!r} needs no files"
        )
    return found[name]


def is_there(name: str) -> bool:
    """Whether a choice needs no download; automatic does where the user has nothing."""
    found = checkpoints()
    return name == BUILT_IN or name in found or (name == AUTOMATIC and bool(found))


def download(repo: str) -> Path:
    """Fetch a repository into models/sensenova, with the node's progress bar; cancelling the node stops it.

    What was fetched whole before is not asked for again.
    """
    folder = _folder_of(repo)
    if (folder / "config.json").is_file():
        return folder
    bar = None
    for done, total in downloading(repo.strip(), folder):
        stop_if_interrupted()
        bar = bar or comfy.utils.ProgressBar(total)
        bar.update_absolute(done, total)
        show_text(f"Downloading {repo}: {done / 1e9:.1f} of {total / 1e9:.1f} GB")
    show_text(f"Downloaded to {folder}")
    return folder


def _folder_of(repo: str) -> Path:
    """Where a repository is downloaded to."""
    return Path(folder_paths.get_folder_paths(FOLDER_KEY)[0]) / check_name(repo.strip())


def fingerprint_of(choice: str, repo: str = "") -> tuple | None:
    """Changes when a choice means another checkpoint, or a file of it is replaced.

    repo: what is downloaded if the choice is not there, if anything is.
    """
    try:
        elsewhere = repo and not is_there(choice)
        path = _folder_of(repo) if elsewhere else checkpoint_path(checkpoint_meant(choice))
        return (str(path), *fingerprint(locate(path).all))
    except (OSError, CheckpointError):
        return None


def fingerprint(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Changes when one of these files is replaced: (path, size, time of change) of each."""
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files))


def _below(root: Path, any_folder: bool) -> Iterator[tuple[str, Path]]:
    """Checkpoints in a model folder that other models may be in: (name, folder or file).

    any_folder: a folder with a config.json is one whatever it says, so that what is wrong with it is said on loading.
    """
    for here, below, files in os.walk(root, followlinks=True):
        folder = Path(here)
        depth = len(folder.relative_to(root).parts)
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in [name for name in below if is_hub_repository(folder / name)]:
            below.remove(name)
            if (snapshot := _snapshot_of_family(folder / name)) is not None:
                yield "/".join(name.split("--")[1:]), snapshot
        whole = depth > 0 and "config.json" in files and (any_folder or _names_family(folder / "config.json"))
        packed = [name for name in files if name.lower().endswith(GGUF)]
        if whole and (not packed or any(name.endswith(SAFETENSORS) for name in files)):
            yield folder.relative_to(root).as_posix(), folder
        singles = packed if whole else [*packed, *(name for name in files if name.lower().endswith(SAFETENSORS))]
        for file in sorted(folder / name for name in singles if not name.startswith(".")):
            if not is_shard(file) and _holds_family(file):
                yield file.relative_to(root).as_posix(), file
        if whole or depth >= SEARCH_DEPTH:
            below.clear()


def _snapshot_of_family(repository: Path) -> Path | None:
    try:
        snapshot = snapshot_of(repository)
    except (OSError, CheckpointError):
        return None
    return snapshot if _names_family(snapshot / "config.json") else None


def _names_family(config: Path) -> bool:
    try:
        return FAMILY_MARK in config.read_bytes()
    except OSError:
        return False  # somebody else's file that may not be read


def _holds_family(file: Path) -> bool:
    try:
        state = file.stat()
    except OSError:
        return False
    return _looked_at(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _looked_at(file: Path, size: int, time_ns: int) -> bool:
    """`is_of_family`, once for a file as long as its size and time of change stay."""
    return is_of_family(file)


def lora_choices() -> list[str]:
    """The LoRA files that the user has."""
    names = {name for key in LORA_KEYS for name in folder_paths.get_filename_list(key)}
    return sorted(name for name in names if name.endswith(".safetensors"))


def lora_path(name: str) -> Path:
    """The file of a LoRA. Raises FileNotFoundError that says where they belong."""
    for key in LORA_KEYS:
        if path := folder_paths.get_full_path(key, name):
            return Path(path)
    raise FileNotFoundError(
        f"LoRA {name!r} is not there. Put a .safetensors file into {folder_paths.get_folder_paths(LORA_KEYS[0])[0]} or "
        f"ComfyUI's models/loras and press R to refresh the list; found now: {', '.join(lora_choices()) or 'none'}"
    )


def lora_fingerprint(name: str) -> tuple | None:
    """Changes when a name means another file, or the file or the settings beside it are replaced."""
    try:
        return fingerprint(lora_states(lora_path(name)))
    except OSError:
        return None


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


def next_output_folder(prefix: str) -> Path:
    """A folder below ComfyUI's output folder that does not exist yet: prefix_00001, prefix_00002, ..."""
    folder, name, *_ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return next(path for n in range(1, 10**6) if not (path := Path(folder) / f"{name}_{n:05d}").exists())


def _preview(image: Tensor) -> Image.Image:
    """Scaled down on its own device, so that little is copied to the host."""
    height, width = image.shape[1:3]
    scale = min(1, PREVIEW_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(image[:1].permute(0, 3, 1, 2), size, mode="area")[0]
    return to_pil(small.permute(1, 2, 0))
