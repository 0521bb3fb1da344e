"""A loaded model on a wire: the tasks that nodes have it do, and how ComfyUI moves its weights."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_management as mm
import torch
from PIL import Image

from .. import sensenova_core
from ..sensenova_core.drawing.sampling import Step
from ..sensenova_core.engine import Engine
from ..sensenova_core.memory import Task
from ..sensenova_core.memory.forecast import Forecast
from ..sensenova_core.reading.prompt import Conditioning, TokenSequence
from ..sensenova_core.report.profile import Profile, Watched
from ..sensenova_core.report.profile_picture import profile_picture
from ..sensenova_core.settings import CorrectionSettings, DecodingSettings, DocumentSettings, SamplingSettings
from ..sensenova_core.writing.conversation import Answer
from ..sensenova_core.writing.document import Event
from ..sensenova_core.writing.thinking import Thought
from .core_conditioning import KEY
from .core_model import EngineModel, Wire
from .patcher import EnginePatcher
from .pictures import picture_to_wire
from .progress import show_plan, warn

Result = TypeVar("Result")


class LoadedEngine:
    """What travels on a model wire: an engine, and the patcher by which ComfyUI moves its weights.

    ComfyUI only holds weak references to patchers, so this object keeps the model known to its memory management.
    loading: what loading took. loras: (file, strength) of those that runs over this wire use; other wires from the same
    Loader have others, and all share the engine.

    A task's settings are checked at the call, which raises SettingsError or PromptError. Nothing else happens before
    the first result of its Run is asked for.
    """

    def __init__(self, engine: Engine, loading: Profile | None = None):
        self.loras: tuple[tuple[Path, float], ...] = ()
        self.engine = engine
        self.loading = loading or Profile(engine.device)
        size = engine.memory.wanted_bytes
        self.patcher = EnginePatcher(EngineModel(engine), engine.device, mm.unet_offload_device(), size=size)
        engine.memory.tell, engine.memory.planned = warn, show_plan
        if not mm.is_device_cpu(engine.device):
            engine.memory.free = partial(mm.get_free_memory, engine.device)
            engine.memory.limit_page_locked(max(0, int(mm.MAX_PINNED_MEMORY)))  # none with --disable-pinned-memory

    @classmethod
    def load(cls, path: Path, dtype: str, **settings: Any) -> "LoadedEngine":
        """Load a checkpoint for ComfyUI's device. dtype, settings: as `sensenova_core.load` takes them."""
        device = mm.get_torch_device()
        if dtype == "auto" and not (mm.is_device_cpu(device) or mm.should_use_bf16(device)):
            dtype = "float32"
        loading = Profile(device)
        with loading.loading():
            engine = sensenova_core.load(path, device=device, dtype=dtype, place=False, **settings)
        return cls(engine, loading)

    def with_lora(self, file: Path, strength: float) -> "LoadedEngine":
        """The same engine on another wire, with one more LoRA."""
        other = copy.copy(self)
        other.loras = (*self.loras, (file, strength))
        return other

    def as_core_model(self, settings: SamplingSettings) -> EnginePatcher:
        """A MODEL for ComfyUI's own samplers, with this wire's LoRAs. settings: its shift, t_eps, and the size that its
        noise is for unless a sampler draws at another."""
        patcher = self.patcher.clone()
        patcher.model_options["transformer_options"][KEY] = Wire(self.loras, settings.t_eps)
        sampling = patcher.model.sampling(settings.shift, settings.width, settings.height)
        patcher.add_object_patch("model_sampling", sampling)
        return patcher

    def think(self, conditioning: Conditioning, settings: DecodingSettings) -> "Run[Thought]":
        thoughts = self.engine.think(conditioning, settings)
        return Run(self, lambda: self.engine.writing_task(conditioning.tokens, settings.max_tokens), thoughts)

    def sample(self, conditioning: Conditioning, settings: SamplingSettings, **begun: Any) -> "Run[Step]":
        """begun: canvas, times and solver, as Engine.denoise takes them."""
        steps = self.engine.denoise(conditioning, settings, **begun)
        return Run(self, lambda: self.engine.drawing_task(conditioning, settings, **begun), steps)

    def understand(self, conversation: TokenSequence, settings: DecodingSettings) -> "Run[Answer]":
        """conversation: as Engine.conversation makes it."""
        answers = self.engine.understand(conversation, settings=settings)
        return Run(self, lambda: self.engine.writing_task(len(conversation.ids), settings.max_tokens), answers)

    def interleave(
        self, prompt: str, *, images: Sequence[Image.Image], settings: DocumentSettings, max_pixels: int | None
    ) -> "Run[Event]":
        events = self.engine.interleave(prompt, images, settings=settings, max_pixels=max_pixels)
        return Run(self, lambda: self.engine.document_task(settings, len(images)), events)

    def self_correct(
        self,
        prompt: str,
        *,
        images: Sequence[Image.Image],
        settings: CorrectionSettings,
        first: torch.Tensor | None,
        max_pixels: int | None,
    ) -> "Run[Event]":
        events = self.engine.self_correct(prompt, images, settings=settings, first=first, max_pixels=max_pixels)
        return Run(self, lambda: self.engine.correction_task(settings, len(images)), events)

    def foresee(self, settings: SamplingSettings, **asked: Any) -> list[Forecast]:
        """What a task would take. asked: as Engine.foresee takes it."""
        self.use_loras()
        return self.engine.foresee(settings, **asked)

    def use_loras(self) -> None:
        """Set the engine to this wire's LoRAs."""
        self.engine.use_loras(self.loras)
        self.patcher.size = self.engine.memory.wanted_bytes

    def make_ready(self, task: Callable[[], Task]) -> None:
        """Set the engine to this wire's LoRAs, have other models make room for a task, and agree with ComfyUI on the
        memory that weights may take.

        task: says what is to be done, once the LoRAs are in use: what was read without them must be read again.
        """
        self.use_loras()
        mm.load_models_gpu([self.patcher], memory_required=task().most_activations)


class Run(Watched[Result]):
    """A task to loop over, once: it makes ready, then yields results as they come."""

    def __init__(self, model: LoadedEngine, task: Callable[[], Task], results: Iterator[Result]):
        loading = model.loading
        super().__init__(results, Profile(model.engine.device, loading.load_seconds, loading.load_peak))
        self._model = model
        self._task = task

    def __iter__(self) -> Iterator[Result]:
        self._model.make_ready(self._task)
        with self.profile.generating(self._model.engine):
            yield from super().__iter__()

    def report(self) -> tuple[str, torch.Tensor]:
        """What the run took, in words and as an IMAGE: what `profile_outputs` are for."""
        engine = self._model.engine
        return self.profile.summary(engine), picture_to_wire(profile_picture(self.profile, engine))
