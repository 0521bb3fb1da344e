"""A document of text and pictures, written and drawn in one go (interleaved generation).

A self-correction is one too, which begins with a picture: critiques are its text, revisions its further pictures.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from torch import Tensor

from ..drawing import flow
from ..drawing.sampling import Denoiser, Step
from ..model import Weights
from ..model.grid import Grid
from ..reading.prefix import Context
from ..reading.prompt import PromptBuilder, TokenSequence
from ..reading.reader import Reader
from ..reading.tokenizer import IMAGE_END, IMAGE_START, TURN_END
from ..settings import DocumentSettings
from .decode import Choose, TextStream, chooser
from .opening import Opening
from .pen import Pen


def growing(settings: DocumentSettings) -> tuple[str, ...]:
    """The guidance branches that grow with a document, the full condition first."""
    return tuple(name for name in flow.branches_needed(settings.sampling, edit=True) if name != flow.UNCONDITIONAL)


@dataclass(frozen=True)
class Text:
    """The next piece of text. tokens: how many were written for it."""

    text: str
    tokens: int = 0


@dataclass(frozen=True, eq=False)
class Drawing:
    """A step of the image of that index (from 0). step.index + 1 == step.total is the finished one."""

    index: int
    step: Step


@dataclass(frozen=True)
class End:
    """Why the document ended: "end" (the model's own), "max_tokens", "max_images", "context" (it is full).

    A self-correction ends with "max_rounds" in place of "max_images".
    """

    reason: str


Event = Text | Drawing | End


class Writer:
    """One document being made. Two contexts grow with it: all of it, and its images alone."""

    def __init__(
        self,
        reader: Reader,
        prompts: PromptBuilder,
        sequences: tuple[TokenSequence, TokenSequence],
        *,
        unconditional: TokenSequence,
        settings: DocumentSettings,
        choose: Choose | None = None,
        opening: Opening | None = None,
        prepare: Callable[[int, dict[str, Context]], None] = lambda index, contexts: None,
    ):
        """sequences: full and images-only, as PromptBuilder.document makes them. choose: replaces the settings' own.

        opening: the picture that it begins with; None begins with text. prepare: called before each picture, with its
        index and what has grown so far, by branch.
        """
        self.prepare, self.opening = prepare, opening
        self.reader, self.settings = reader, settings
        self.tokenizer, self.max_context = prompts.tokenizer, prompts.max_tokens
        self.choose = choose or chooser(settings.decoding)
        self.noise = flow.noise_stream(settings.sampling.seed)
        self.branches = flow.branches_needed(settings.sampling, edit=True)
        names = growing(settings)
        opened = reader.open_all([*sequences[: len(names)]])
        self.full = opened[0][0]
        self.pen = Pen(reader, *opened[0])
        self.contexts = {name: context for name, (context, _) in zip(names, opened, strict=True)}
        guided = flow.UNCONDITIONAL in self.branches
        self.fixed = {flow.UNCONDITIONAL: reader.prefix(unconditional)} if guided else {}

    def events(self) -> Iterator[Event]:
        """Text, drawing steps, and the end, as they come."""
        ids, stream = self.tokenizer.ids, TextStream(self.tokenizer.decode)
        images = yield from self._opened()
        chosen: list[int] = []
        told = 0  # of the chosen tokens

        def piece(text: str) -> Iterator[Text]:
            nonlocal told
            if text:
                yield Text(text, len(chosen) - told)
                told = len(chosen)

        while len(chosen) < self.settings.decoding.max_tokens and self._has_room(1):
            token = self.choose(self.pen.logits(), chosen)
            if token == ids[TURN_END]:
                yield from piece(stream.rest())
                yield End("end")
                return
            if token == ids[IMAGE_START]:
                yield from piece(stream.rest())
                if images == self.settings.max_images:
                    yield End("max_images" if self.opening is None else "max_rounds")
                    return
                if not self._has_room(self._grid(images).tokens + 2):  # with <img> and </img>
                    yield End("context")
                    return
                for step in self._draw(images):
                    yield Drawing(images, step)
                images += 1
                continue
            chosen.append(token)
            self.pen.write(token)
            yield from piece(stream.push(token))
        yield from piece(stream.rest())
        yield End("max_tokens" if len(chosen) == self.settings.decoding.max_tokens else "context")

    def _opened(self) -> Generator[Drawing, None, int]:
        """Begin with the opening's picture, if there is one. Returns how many there are now."""
        if self.opening is None:
            return 0
        if self.opening.drawn is None:
            for step in self._draw(0):
                yield Drawing(0, step)
        else:
            grid = self._grid(0)
            flow.starting_noise(self.noise, batch=1, height=grid.height, width=grid.width)  # that it was drawn from
            self._begin_image()
            self._read_back(self.opening.drawn, 0)
        return 1

    def _has_room(self, tokens: int) -> bool:
        return self.full.tokens + tokens <= self.max_context

    def _grid(self, index: int) -> Grid:
        """Of the image of that index."""
        sampling = self.settings.of_image(index)
        return self.reader.model.config.grid(width=sampling.width, height=sampling.height)

    def _draw(self, index: int) -> Iterator[Step]:
        """Draw an image at this point, and read it back into both contexts."""
        self.prepare(index, self.contexts)
        self._begin_image()
        pixels = yield from self._steps(index)
        self._read_back(pixels, index)

    def _begin_image(self) -> None:
        self.reader.feed([*self.contexts.values()], [self.tokenizer.ids[IMAGE_START]])

    def _read_back(self, pixels: Tensor, index: int) -> None:
        """Read the finished image of that index into both contexts, and what follows it into all of the document's."""
        grid, contexts = self._grid(index), [*self.contexts.values()]
        embedded = self.reader.embed_drawn(pixels, grid)[0]
        hidden = self.reader.feed_image(contexts, embedded, grid, ids=[self.tokenizer.ids[IMAGE_END]])[0]
        if self.opening is not None and self.opening.after:
            hidden = self.reader.feed([self.full], [*self.opening.after])[0]
        self.pen.go_on(hidden)

    def _steps(self, index: int) -> Generator[Step, None, Tensor]:
        """Yields the steps, and returns the finished picture on its whole grid, as `Step.pixels` does.

        Apart, for with it end the buffers that drawing needs, before larger ones take the place of what was read.
        """
        prefixes = {name: context.prefix() for name, context in self.contexts.items()} | self.fixed
        reader = self.reader

        def ready(weights: Weights) -> Denoiser:
            return Denoiser(
                reader.model,
                {branch: prefixes[branch] for branch in self.branches},
                self.settings.of_image(index),
                kernel=reader.kernel,
                edit=True,
                noise=self.noise,
                run=reader.run,
            )

        tokens = yield from reader.run("drawing", ready).steps()
        return self._grid(index).tokens_to_image(tokens)
