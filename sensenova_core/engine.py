"""The public API: load a checkpoint, encode a prompt, sample an image."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from .checkpoint import (
    OUTPUT_HEAD,
    Checkpoint,
    StoredWeights,
    check_tensors,
    checkpoint_name,
    open_checkpoint,
)
from .checkpoint.int8 import multiplied
from .drawing import flow
from .drawing.canvas import Canvas
from .drawing.sampling import Denoiser, Step
from .drawing.sizes import best_size
from .drawing.solving import Solver
from .errors import PromptError, SenseNovaError, SettingsError, check_count, memory_in_words, quoted
from .lora import Lora
from .lora.in_use import LorasInUse
from .memory import Placement, Plan, Task, limits_of
from .memory.activations import PAINTING, SOLVING, Activations
from .memory.forecast import Forecast, explained, foresee
from .model import SenseNovaU1, Weights, attention_kernel
from .model.attention import repeats_heads
from .model.capture import BYTES as CAPTURED_BYTES
from .model.capture import capture_on
from .model.compiled import Compiler
from .model.devices import TORCH_DTYPES, device_named
from .model.exactness import Use
from .model.quickest import name_of, prepare
from .reading.images import MaxPixels, ReferenceImage, listed, references
from .reading.prefix import Context
from .reading.prompt import Conditioning, Message, PromptBuilder, TokenSequence
from .reading.reader import Reader
from .reading.remembered import PREFIX_CACHE_BYTES, Remembered
from .reading.tokenizer import Tokenizer
from .settings import (
    CorrectionSettings,
    DecodingSettings,
    DocumentSettings,
    ForecastSettings,
    LoadSettings,
    ReasoningSettings,
    SamplingSettings,
    Settings,
    edit_pixel_limits,
    understanding_pixel_limits,
)
from .system.turns import Results, Turn
from .writing import thinking
from .writing.conversation import Answer, answer
from .writing.decode import Choose, chooser
from .writing.document import Event, Writer, growing
from .writing.opening import Opening, drawn_pixels
from .writing.thinking import Thought

Result = TypeVar("Result")
Made = TypeVar("Made", bound=Settings)
SELF_CORRECTION = "a self-correction"
Messages = str | Message | list[Message] | tuple[Message, ...]  # a question alone, one message, or a conversation
log = logging.getLogger(__name__)


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = LoadSettings.dtype,
    compute: str = LoadSettings.compute,
    compile: bool = LoadSettings.compile,
    enforce_eager: bool = LoadSettings.enforce_eager,
    vram_mode: str = LoadSettings.vram_mode,
    max_memory: str | None = LoadSettings.max_memory,
    attention: str = LoadSettings.attention,
    place: bool = True,
    loras: Sequence[tuple[str | Path, float]] = (),
) -> "Engine":
    """Load a checkpoint of the SenseNova-U1 family: a Hugging Face folder, a repository in the hub's cache, or a single
    .safetensors or .gguf file.

    dtype: "auto" (as stored), or one of settings.DTYPES. attention: one of settings.BACKENDS. compute: "auto"
    multiplies as INT8 what is stored so, where the device is quick at it; "bf16" nothing; "int8" all linear layers.
    compile: have torch compile what layers do between their products, where it can. enforce_eager: capture no graphs of
    tokens either.
    vram_mode: "full" keeps the expert in use on the device, "balanced" streams all its layers through three buffers
    while it computes, "low" through two; "auto" keeps as many layers as there is memory for. max_memory: what all of
    it may take, such as "13GiB" or "0=13GiB,cpu=64GiB"; "auto" is what is free. Results are the same whichever it is.
    On the CPU, "auto" and "full" leave weights in their memory-mapped files. loras: see Engine.use_loras.
    Everything about the files is checked before a weight is read: raises CheckpointError or SettingsError, and loads
    nothing. place=False leaves weights on disk until they are first needed; layers come when they are used.
    """
    dtype = str(dtype).removeprefix("torch.")
    settings = LoadSettings(
        device=device,
        dtype=dtype,
        vram_mode=vram_mode,
        max_memory=max_memory,
        attention=attention,
        compute=compute,
        compile=compile,
        enforce_eager=enforce_eager,
    )
    engine = Engine(path, settings)
    engine.use_loras(loras)
    if place:
        engine.place()
    return engine


class Engine:
    """One checkpoint and what it has read. Make it with `load`.

    Threads may share it: they take turns, see `alone`. Processes may not; a forked one begins with nothing placed.
    """

    def __init__(self, path: str | Path, settings: LoadSettings):
        """Check files and settings; the weights stay on disk until `place`."""
        began = time.perf_counter()
        self.device = device_named(settings.device)
        limits = limits_of(settings.vram_mode, settings.max_memory, self.device)
        self.path = Path(path)
        self.checkpoint: Checkpoint = open_checkpoint(self.path)
        self.name, self.config = self.checkpoint.name, self.checkpoint.config
        shapes = {checkpoint_name(name): shape for name, shape in SenseNovaU1.shapes(self.config).items()}
        # First, for building a model of many experts takes seconds.
        self.checkpoint.check_readable()
        check_tensors(shapes, self.checkpoint.headers, str(self.checkpoint.files.path))
        self.model = SenseNovaU1.on_meta(self.config)
        int8 = multiplied(self.model, self.checkpoint.headers, compute=settings.compute, device=self.device)
        dtype = TORCH_DTYPES.get(settings.dtype)
        self.stored = StoredWeights(self.model, self.checkpoint.headers, dtype, int8=int8)
        self.remembered = Remembered()
        compute = self.stored.compute_dtype
        capture = None if settings.enforce_eager else capture_on(self.device)
        self.activations = Activations(
            self.config,
            compute.itemsize,
            int8=bool(int8),
            repeats=repeats_heads(self.device, compute),
            captured=0 if capture is None else CAPTURED_BYTES,
            compiled=settings.compile and not settings.enforce_eager,
        )
        self.memory = Placement(
            self.model, self.stored, device=self.device, limits=limits, forget=self.remembered.forget
        )
        self.attention = settings.attention
        use = Use.of(self.config.decoder, self.device, dtype=self.stored.compute_dtype)
        self._kernel = attention_kernel(settings.attention, use=use)
        # None: nobody wants layers compiled.
        self._compiler = (
            Compiler(self.model, self.device, self._say) if settings.compile and not settings.enforce_eager else None
        )
        run = self.memory.run if self._compiler is None else self._compiler.around(self.memory.run)
        self.tokenizer = Tokenizer(self.checkpoint.tokenizer, self.config.decoder.vocab_size)
        self.prompts = PromptBuilder(self.tokenizer, self.config.decoder.max_positions, self.config.token_pixels)
        self.reader = Reader(self.model, self._kernel, run=run, remembered=self.remembered)
        self.reader.capture = capture
        decoder = self.config.decoder
        # A LoRA of the whole model may change the output head too.
        head = {} if self.config.writes else {OUTPUT_HEAD: (decoder.vocab_size, decoder.hidden_size)}
        self._loras = LorasInUse(shapes | head, absent=frozenset(head))
        self._turn = Turn(self.memory.forked)
        # What `guess` was asked for last, and what it made for that.
        self._guessing: tuple[object, Denoiser] | None = None
        log.info("loaded %s in %.1f seconds", self.name, time.perf_counter() - began)

    @property
    def compiles(self) -> bool | None:
        """Whether layers run compiled, as far as that was tried; None where nobody asked for it."""
        return self._compiler and bool(self._compiler.works)

    def _say(self, words: str) -> None:
        self.memory.tell(words)  # which may be another one by now

    def __reduce__(self):
        raise SenseNovaError(
            f"a loaded model cannot be pickled or copied: {self.name} holds files and threads; hand on its path, and "
            "load it in the process that uses it"
        )

    @property
    def attention_used(self) -> str:
        """The attention backend that computes: of "auto" what it found to be the quickest."""
        return name_of(self._kernel, self.attention)

    def alone(self) -> AbstractContextManager[None]:
        """Within it no other thread uses this engine: for several calls that belong together, such as `use_loras` and
        the run that is to use them.

        Without it threads take turns by themselves. A run begins when the last one of another thread has ended, or was
        not gone on with for a second; what changes the engine waits for the step or token in progress.
        """
        return self._turn

    def drawing_task(
        self,
        conditioning: Conditioning,
        settings: SamplingSettings,
        *,
        canvas: Canvas | None = None,
        times: torch.Tensor | None = None,
        solver: Solver | None = None,
    ) -> Task:
        """What `denoise` is to do, for `plan`."""
        used = _used(conditioning, settings, times, between=solver is not None)
        if times is not None:
            settings = replace(settings, steps=max(1, len(times) - 1))
        beside = PAINTING if canvas is not None and canvas.mask is not None else 0
        beside += 0 if solver is None else SOLVING
        unread = any(self.reader.key(sequence) not in self.remembered.prefixes for sequence in used.values())
        tokens = {name: len(sequence.ids) for name, sequence in used.items()}
        images = len(conditioning.images)
        return self.activations.drawing(settings, tokens, unread=unread, images=images, beside=beside)

    def writing_task(self, tokens: int, more: int, name: str = "text of") -> Task:
        """What writing up to `more` tokens after `tokens` is to do, for `plan`."""
        return self.activations.writing(tokens, min(more, self.prompts.max_tokens), name)

    def document_task(self, settings: DocumentSettings, images: int = 0) -> Task:
        """What `interleave` is to do as far as its first picture, for `plan`, after a usual prompt with images."""
        return self._document_tasks(settings, self.activations.usual_tokens(images))[0]

    def correction_task(self, settings: CorrectionSettings, images: int = 0) -> Task:
        """`document_task` of `self_correct`."""
        tokens = self.activations.usual_tokens(images)
        return self._document_tasks(settings.document, tokens, name=SELF_CORRECTION)[0]

    def _document_tasks(
        self, settings: DocumentSettings, tokens: int | dict[str, int], index: int = 0, *, name: str = "a document"
    ) -> list[Task]:
        """As far as the picture of that index, and each later one. tokens: written so far, by growing branch, or of
        each."""
        written = dict.fromkeys(growing(settings), tokens) if isinstance(tokens, int) else tokens
        unconditional = flow.UNCONDITIONAL in flow.branches_needed(settings.sampling, edit=True)
        return self.activations.documents(settings, written, index, unconditional=unconditional, name=name)

    def plan(self, task: Task, card: int | None = None, system_free: int | None = None) -> Plan:
        """What a task will take, and where the weights will be. card, system_free: bytes to plan for in place of what
        is free here. Raises SettingsError, with the smallest budget that works, where it cannot fit."""
        return self.memory.plan(task, self.remembered.nbytes, card=card, system_free=system_free)

    def forecast(self, settings: SamplingSettings, **asked: Any) -> str:
        """`foresee` in words."""
        return explained(self.foresee(settings, **asked))

    def foresee(self, settings: SamplingSettings, **asked: Any) -> list[Forecast]:
        """`plan` of every run of a task, before there is a prompt. asked: see ForecastSettings.

        Raises SettingsError where it cannot fit, and CheckpointError for text of a model that only draws.
        """
        run = ForecastSettings.of(**asked)
        if run.task in ("understand", "interleave") or run.think_tokens:
            self.checkpoint.check_writes()
        settings.check_size(self.config.token_pixels)
        check_count("prompt_tokens", run.prompt_tokens, least=1, most=self.prompts.max_tokens)
        return foresee(
            self.memory,
            self.activations,
            run,
            settings=settings,
            branches=flow.branches_needed(settings, edit=run.images > 0 or run.task == "interleave"),
            remembered=self.remembered.nbytes,
        )

    @property
    def loras(self) -> tuple[tuple[Path, float], ...]:
        """(file, strength) of the LoRAs in use."""
        return self._loras.used

    def read_lora(self, path: str | Path) -> Lora:
        """What a LoRA says of itself, and which parameters it changes. Raises CheckpointError where it does not fit
        this model. Reads none of its factors."""
        return self._loras.read(path)

    def use_loras(self, loras: Sequence[tuple[str | Path, float]]) -> None:
        """Run with these LoRAs, (file, strength) each, in place of those before. Raises CheckpointError, SettingsError.

        Strengths are any finite numbers; those of a file that is named twice are added, and 0 is none at all. Weights
        are changed as they run and never where they lie, so that no LoRAs is exactly the model as it was. A run in
        progress ends with a SenseNovaError at its next step.
        """
        with self._working():
            chosen = self._loras.chosen(loras)
            if chosen == self._loras:
                return
            try:
                self.memory.use(chosen.strengths())
            except BaseException:
                self.memory.use(self._loras.strengths())  # which places nothing: the weights were dropped
                raise
            self.reader.read_as(chosen.variant)
            self._loras = chosen

    def place(self) -> None:
        """Bring what every run needs from the files to the device, unless it is there."""
        with self._working():
            self.memory.residency.place()

    def allow(self, weights: int | None) -> None:
        """Let weights take so many bytes of the device, and give back at once what they have beyond; None for all that
        is free. For a host that shares the device among several models."""
        with self._turn:
            self.memory.allow(weights)
            if weights is not None and (beyond := self.memory.residency.nbytes - weights) > 0:
                self.memory.residency.shrink(beyond)

    def give_back(self, size: int) -> int:
        """Free at least `size` bytes on the device, layer by layer, or all there are; returns how many it was.

        What was read goes first: reading it again costs less than bringing layers back.
        """
        with self._turn:
            self.end_guessing()
            read = self.remembered.nbytes
            self.remembered.forget()
            return read + (self.memory.residency.shrink(size - read) if size > read else 0)

    def release(self) -> None:
        """Give back all device memory: weights, and all that was read. `place` reads the weights again.

        A run in progress ends with a SenseNovaError at its next step.
        """
        with self._turn:
            self.end_guessing()
            self.remembered.forget()
            self.memory.residency.drop()

    def encode(
        self,
        prompt: str,
        images: Sequence[Image.Image] = (),
        *,
        think_text: str | None = None,
        max_pixels: int | None = None,
    ) -> Conditioning:
        """Make a prompt ready to be read: of a picture drawn from text, or of an edit of one to ten `images`.

        Cheap: the reading itself happens once, when sampling first needs it. think_text: reasoning to draw by, as
        `think` returned it or edited. max_pixels: a budget for each image, which is scaled down to it.
        Raises PromptError, for example for a prompt longer than the context.
        """
        shown = self._references(listed(images), max_pixels)
        return self.prompts.picture(prompt, shown, think_text)

    def _references(self, images: Sequence[Image.Image], max_pixels: int | None) -> tuple[ReferenceImage, ...]:
        """Images made ready to be read for an edit or a document."""
        limits = edit_pixel_limits(len(images), self.config.best_area)
        return references(images, self.config.token_pixels, limits=limits, max_pixels=max_pixels)

    def think(
        self, conditioning: Conditioning, settings: DecodingSettings | None = None, choose: Choose | None = None
    ) -> Iterator[Thought]:
        """Let the model reason about a picture before it draws. Yields Thoughts as they grow; the last one's
        `conditioning` is the same with the reasoning inside.

        settings: greedy and 1024 tokens at most, unless given. choose: a way to choose tokens in place of the settings'
        own. Raises SettingsError at the call, before any work, and CheckpointError for a model that only draws.
        """
        settings = _expected(settings, DecodingSettings) or ReasoningSettings()
        self.checkpoint.check_writes()
        self._check_vocabulary(conditioning)
        choose = choose or chooser(settings)
        return self._running(
            lambda: self.writing_task(conditioning.tokens, settings.max_tokens, "reasoning of"),
            lambda: thinking.think(self.reader, self.prompts, conditioning, settings=settings, choose=choose),
            needed=lambda: [*map(self.reader.key, conditioning.sequences.values())],  # the picture will want them
        )

    def best_size(self, image: tuple[int, int] | None = None, *, document: bool = False) -> tuple[int, int]:
        """(width, height) that the model draws best: of a picture, or of those of a document.

        image: (width, height) of the first reference, whose ratio it takes.
        """
        return best_size(self.config.best_area, image=image, document=document)

    def sample(
        self,
        conditioning: Conditioning,
        *,
        init_image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        **settings: Any,
    ) -> Iterator[Step]:
        """Draw. Returns an iterator of `steps` Steps; the last one's `image()` is the result.

        Nothing is computed before the first step is asked for, and a caller that stops asking has cancelled.
        settings: width, height (together, or neither for the init image's, else for `best_size`), steps, cfg, img_cfg,
        cfg_norm, cfg_interval, shift, t_eps, seed, batch_size, crop, denoise, feather; see SamplingSettings and
        Guidance. init_image, mask: see Canvas. Where the mask is 0 the result is the init image, to the bit. Raises
        SettingsError at the call, before any work.
        """
        self._check_vocabulary(conditioning)
        canvas = Canvas.of(init_image, mask)
        width, height = settings.get("width"), settings.get("height")
        if (width is None) != (height is None):
            raise SettingsError(f"width is {width} and height is {height}", "give both or neither")
        if width is None and canvas is not None:
            settings |= {"width": canvas.image.shape[2], "height": canvas.image.shape[1], "crop": True}
        elif width is None:
            first = conditioning.images[0].original if conditioning.images else None
            settings["width"], settings["height"] = self.best_size(first)
        return self.denoise(conditioning, SamplingSettings.of(**settings), canvas=canvas)

    def denoise(
        self,
        conditioning: Conditioning,
        settings: SamplingSettings,
        *,
        canvas: Canvas | None = None,
        times: torch.Tensor | None = None,
        solver: Solver | None = None,
    ) -> Iterator[Step]:
        """`sample` with its settings in one value.

        canvas: the init image and its mask. times: float32, as flow.times_from makes them, in place of those of steps,
        shift and denoise. solver: takes the steps in place of Euler's.
        """
        self._check_vocabulary(conditioning)
        settings.check_size(self.config.token_pixels)
        if conditioning.is_edit and settings.guidance.norm == "cfg_zero_star":
            raise SettingsError(
                "cfg_zero_star is for text to image only, where there is one unconditional branch to rescale",
                "choose none, global or channel for an edit",
                setting="cfg_norm",
                value="cfg_zero_star",
            )
        _check_beginning(settings, canvas, times)
        used = _used(conditioning, settings, times, between=solver is not None)

        def steps() -> Iterator[Step]:
            prefixes = self.reader.prefixes_of(used)

            def ready(weights: Weights) -> Denoiser:
                return Denoiser(
                    self.model,
                    prefixes,
                    settings,
                    kernel=self._kernel,
                    edit=conditioning.is_edit,
                    run=self.reader.run,
                    canvas=canvas,
                    times=times,
                    solver=solver,
                )

            return self.memory.run("drawing", ready).steps()

        return self._running(
            lambda: self.drawing_task(conditioning, settings, canvas=canvas, times=times, solver=solver),
            steps,
            needed=lambda: [*map(self.reader.key, used.values())],
        )

    @torch.inference_mode()
    def guess(
        self, noisy: Tensor, sigma: Tensor, *, sequences: Sequence[TokenSequence], settings: SamplingSettings
    ) -> Tensor:
        """What the model makes of noisy pictures, in one pass: for a program that takes the steps by itself.

        noisy: float32 (branches * images, 3, height, width), branch by branch. sigma: 1 minus the time, of each.
        sequences: what each branch reads. settings: the pictures' size, t_eps, and how many images and steps there will
        be. Returns clean pictures, likewise. What it makes for this stays on the device until `end_guessing`.
        """
        if len(noisy) != len(sequences) * settings.batch_size:
            wanted = f"{len(sequences)} branches of {settings.batch_size} images"
            raise SettingsError(f"{len(noisy)} noisy pictures for {wanted}", "give as many for each branch as images")
        with self._working():
            keys = [*map(self.reader.key, sequences)]
            asked: tuple = (keys, settings, self.loras, self.memory.residency.times_dropped)
            if self._guessing is None or self._guessing[0] != asked:
                denoiser = self._guesser(sequences, keys, settings)
                self._guessing = (*asked[:3], self.memory.residency.times_dropped), denoiser
            return self._guessing[1].clean(noisy.to(self.device), sigma.to(self.device))

    def _guesser(self, sequences: Sequence[TokenSequence], keys: Sequence[str], settings: SamplingSettings) -> Denoiser:
        self.end_guessing()
        settings.check_size(self.config.token_pixels)
        self._start(self.guessing_task(sequences, settings), needed=keys)
        prefixes = self.reader.prefixes_of({str(index): each for index, each in enumerate(sequences)})
        edit = any(each.images for each in sequences)
        run = self.reader.run
        return self.memory.run(
            "drawing",
            lambda weights: Denoiser(self.model, prefixes, settings, kernel=self._kernel, edit=edit, run=run),
        )

    def guessing_task(self, sequences: Sequence[TokenSequence], settings: SamplingSettings) -> Task:
        """What the passes of `guess` are to do, for `plan`."""
        unread = any(self.reader.key(each) not in self.remembered.prefixes for each in sequences)
        tokens = {str(index): len(each.ids) for index, each in enumerate(sequences)}
        images = max(len(each.images) for each in sequences)
        return self.activations.drawing(settings, tokens, unread=unread, images=images)

    def end_guessing(self) -> None:
        """Give back what `guess` keeps for its next pass."""
        self._guessing = None

    def conversation(
        self, messages: Messages, images: Sequence[Image.Image] = (), max_pixels: MaxPixels = None
    ) -> TokenSequence:
        """Make a question, or messages that end with the user's, ready to be answered.

        Every <image> in the user's texts is filled in order; images without one go before the last text.
        max_pixels: a limit on the size of every image, or of each, for speed. Raises PromptError.
        """
        if not isinstance(messages, list | tuple):  # one question, or one message
            messages = [messages if isinstance(messages, Message) else Message("user", messages)]
        limits = understanding_pixel_limits(self.config.best_area)
        shown = references(images, self.config.token_pixels, limits=limits, max_pixels=max_pixels)
        return self.prompts.conversation(messages, shown)

    def understand(
        self,
        messages: Messages | TokenSequence,
        images: Sequence[Image.Image] = (),
        *,
        settings: DecodingSettings | None = None,
        choose: Choose | None = None,
    ) -> Iterator[Answer]:
        """Answer a question about images, or a conversation. Yields Answers as they grow; the last one is whole.

        messages, images: as for `conversation`, or what it made of them. What was read for earlier turns is not read
        again. settings: greedy and 512 tokens at most, unless given. Raises CheckpointError at the call for a model
        that only draws.
        """
        self.checkpoint.check_writes()
        conversation = messages if isinstance(messages, TokenSequence) else self.conversation(messages, images)
        settings = _expected(settings, DecodingSettings) or DecodingSettings()
        choose = choose or chooser(settings)
        return self._running(
            lambda: self.writing_task(len(conversation.ids), settings.max_tokens, "an answer of"),
            lambda: answer(self.reader, self.prompts, conversation, settings=settings, choose=choose),
            conversation=True,
        )

    def interleave(
        self,
        prompt: str,
        images: Sequence[Image.Image] = (),
        *,
        settings: DocumentSettings | None = None,
        max_pixels: int | None = None,
        choose: Choose | None = None,
    ) -> Iterator[Event]:
        """Write a document of text and pictures. Yields Text, Drawing and at last End events as they come.

        Raises PromptError or SettingsError at the call, before any work, and CheckpointError for a model that only
        draws.
        """
        self.checkpoint.check_writes()
        images, settings = listed(images), _expected(settings, DocumentSettings)
        if settings is None:
            size = self.best_size(images[0].size if images else None, document=True)
            settings = DocumentSettings(SamplingSettings(*size))
        for index in range(max(1, len(settings.sizes))):
            settings.of_image(index).check_size(self.config.token_pixels)
        shown = self._references(images, max_pixels)
        sequences = self.prompts.document(prompt, shown, system=settings.system, think=settings.think)
        return self._writing(sequences, settings, choose=choose)

    def self_correct(
        self,
        prompt: str,
        images: Sequence[Image.Image] = (),
        *,
        settings: CorrectionSettings | None = None,
        first: torch.Tensor | None = None,
        max_pixels: int | None = None,
        choose: Choose | None = None,
    ) -> Iterator[Event]:
        """Draw a picture, and let the model judge it by its prompt and draw revisions, all in one context. Yields
        Drawing events for the picture and its revisions, Text for the critiques between them, and at last End.

        first: a picture drawn before, as `Step.image` gives it, which is gone on from: it counts as the picture of
        index 0, is not drawn again, and revisions have its size. Raises PromptError or SettingsError at the call,
        before any work, and CheckpointError for a model that only draws.
        """
        self.checkpoint.check_writes()
        images, settings = listed(images), _expected(settings, CorrectionSettings)
        settings = settings or CorrectionSettings(SamplingSettings(*self.best_size(images[0].size if images else None)))
        drawn = None if first is None else drawn_pixels(first, self.config.token_pixels)
        if drawn is not None:
            settings = replace(
                settings, sampling=replace(settings.sampling, width=drawn.shape[-1], height=drawn.shape[-2])
            )
        settings.sampling.check_size(self.config.token_pixels)
        full, images_only, after = self.prompts.self_correction(prompt, self._references(images, max_pixels))
        self._check_room(full, settings.sampling)
        opening = Opening(drawn, tuple(after))
        return self._writing((full, images_only), settings.document, choose=choose, opening=opening)

    def _check_room(self, sequence: TokenSequence, sampling: SamplingSettings) -> None:
        """Raise PromptError unless the context holds a picture, <img> and </img> after a sequence."""
        picture = self.config.grid(width=sampling.width, height=sampling.height).tokens + 2
        tokens, most = len(sequence.ids) + picture, self.prompts.max_tokens
        if tokens > most:
            raise PromptError(
                f"the prompt and its picture of {sampling.width} x {sampling.height} come to {tokens:,} tokens, "
                f"{tokens - most:,} over the model's {most:,}; shorten the prompt, or draw a smaller picture"
            )

    def _writing(
        self,
        sequences: tuple[TokenSequence, TokenSequence],
        settings: DocumentSettings,
        *,
        choose: Choose | None,
        opening: Opening | None = None,
    ) -> Iterator[Event]:
        """A document that goes on from these sequences, as `Writer` takes them."""
        unconditional = self.prompts.unconditional()
        begun = len(sequences[0].ids)
        name = "a document" if opening is None else SELF_CORRECTION

        def prepare(index: int, contexts: dict[str, Context]) -> None:
            """Plan anew before a picture: all that was written has grown."""
            written = {branch: context.tokens for branch, context in contexts.items()}
            grown = sum(context.nbytes for context in contexts.values())
            self._start(*self._document_tasks(settings, written, index, name=name), growing=grown)

        return self._running(
            lambda: self._document_tasks(settings, begun, name=name),
            lambda: Writer(
                self.reader,
                self.prompts,
                sequences,
                unconditional=unconditional,
                settings=settings,
                choose=choose,
                opening=opening,
                prepare=prepare,
            ).events(),
        )

    def _running(
        self,
        task: Callable[[], Task | list[Task]],
        start: Callable[[], Iterator[Result]],
        *,
        needed: Callable[[], Sequence[str]] = lambda: (),
        conversation: bool = False,
    ) -> Iterator[Result]:
        """What `start` yields, once the run is planned and prepared; an error if weights are taken away in between.

        task: several of a run that is planned anew for each, as it grows. needed, conversation: what the run goes on
        from, see Remembered.trim.
        """
        run = self._run(task, start, needed, conversation=conversation)
        return Results(self._turn, run, partial(memory_in_words, self.memory.given_up))

    @torch.inference_mode()
    def _run(
        self,
        task: Callable[[], Task | list[Task]],
        start: Callable[[], Iterator[Result]],
        needed: Callable[[], Sequence[str]],
        *,
        conversation: bool,
    ) -> Generator[Result, None, None]:
        """`_running`, within the engine's turn."""
        self.use_loras(self.loras)  # as their files are now
        self.end_guessing()
        tasks = task()
        tasks = tasks if isinstance(tasks, list) else [tasks]
        self._start(*tasks, needed=needed(), conversation=conversation)
        dropped, loras = self.memory.residency.times_dropped, self.loras
        for result in start():
            yield result
            if self.loras != loras:
                raise SenseNovaError("the model's LoRAs were changed during this run; start it again")
            if self.memory.residency.times_dropped != dropped:
                raise SenseNovaError("the model's memory was given back during this run; start it again")

    @contextmanager
    def _working(self) -> Iterator[None]:
        """In turn, and memory that runs out is told in words."""
        with self._turn, memory_in_words(self.memory.given_up):
            yield

    def _start(
        self,
        task: Task,
        *later: Task,
        needed: Sequence[str] = (),
        conversation: bool = False,
        growing: int = 0,
    ) -> None:
        """later: what the run will be planned anew for. growing: bytes that it has on the device already, beside what
        is remembered."""
        prepare(self._kernel)
        plan = self.memory.start(task, self.remembered.nbytes + growing, later)
        if plan is not None:
            device = plan.limits.device
            spare = 0 if plan.streams else PREFIX_CACHE_BYTES if device is None else device - plan.device_bytes
            self.remembered.trim(max(0, spare), needed, conversation=conversation)

    def _check_vocabulary(self, conditioning: Conditioning) -> None:
        if not isinstance(conditioning, Conditioning):
            raise SettingsError(f"the conditioning is {quoted(conditioning)}", "give what encode has made of a prompt")
        if conditioning.vocabulary != self.prompts.vocabulary:
            raise SettingsError("the prompt was encoded for another model", "encode it with the model that draws")


def _check_beginning(settings: SamplingSettings, canvas: Canvas | None, times: torch.Tensor | None) -> None:
    """Raise SettingsError where there is nothing to begin from, or not of the size that is drawn."""
    if canvas is not None:
        canvas.check(settings)
    elif times is not None and times[0] > 0:
        remedy = "give a schedule from 1, or an init image to begin from"
        raise SettingsError(f"sigmas begins at {1 - float(times[0]):.6g}", remedy)
    elif times is None and settings.denoise < 1:
        hints = {"init_image": "or give {}, a picture to begin from"}
        raise SettingsError(setting="denoise", value=settings.denoise, remedy="give 1 to begin from noise", hints=hints)


def _used(
    conditioning: Conditioning, settings: SamplingSettings, times: torch.Tensor | None, *, between: bool
) -> dict[str, TokenSequence]:
    """The sequences of the branches that some step needs."""
    names = flow.branches_needed(settings, edit=conditioning.is_edit, times=times, between=between)
    return {name: conditioning.sequences[name] for name in names}


def _expected(settings: Made | None, kind: type[Made]) -> Made | None:
    """The settings as they are. Raises SettingsError for something else."""
    if settings is not None and not isinstance(settings, kind):
        raise SettingsError(f"the settings are {quoted(settings)}", f"give {kind.__name__}(...)")
    return settings
