"""Training rows: sequences exactly as the engine makes them, with what is to be written and drawn."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sensenova_core.model.grid import Grid
from sensenova_core.reading.images import MEAN, STD, ReferenceImage, references
from sensenova_core.reading.prompt import (
    IMAGE_PLACEHOLDER,
    Conditioning,
    Message,
    Piece,
    PromptBuilder,
    TokenSequence,
    positions,
    system_message,
)
from sensenova_core.reading.tokenizer import (
    IMAGE_END,
    IMAGE_SLOT,
    IMAGE_START,
    THINK_END,
    THINK_START,
    TURN_END,
    Special,
    Tokenizer,
)
from sensenova_core.settings import CONDITION, IMAGES_ONLY, edit_pixel_limits, understanding_pixel_limits
from tools.demo import texts
from tools.demo.scenes import Scene, as_usual, draw, scene

Size = tuple[int, int]  # width, height
AREA = 128 * 128  # pixels that the demo draws best, and reads at most


class RememberingTokenizer(Tokenizer):
    """Reads each text once: the system messages come with every row."""

    def _plain(self, text: str) -> list[int]:
        return list(self._remembered(text))

    @lru_cache(maxsize=10_000)  # noqa: B019 there is one, for as long as training lasts
    def _remembered(self, text: str) -> tuple[int, ...]:
        return tuple(super()._plain(text))


@dataclass(frozen=True)
class Drawn:
    """A picture of a scene that is drawn after the first `tokens` of a row, by as many noises as `times` says.

    prompted: whether the row says what to draw. times: 0 where it only guides those that are drawn after a prompt.
    """

    tokens: int
    scene: Scene
    size: Size
    times: int = 1
    prompted: bool = True

    def unprompted(self, tokens: int, times: int) -> "Drawn":
        """The same after tokens that do not say what to draw."""
        return replace(self, tokens=tokens, times=times, prompted=False)

    @property
    def picture(self) -> Tensor:
        """float32 (3, height, width) in -1 .. 1"""
        return pixels(draw(self.scene, *self.size))


@dataclass(frozen=True)
class Row:
    """written: (start, stop) of each stretch of tokens to be learnt. shown: by the images it reads."""

    sequence: TokenSequence
    written: tuple[tuple[int, int], ...] = ()
    drawn: tuple[Drawn, ...] = ()
    shown: tuple[Scene, ...] = ()


def pixels(picture: Image.Image) -> Tensor:
    """In the model's own range: float32 (3, height, width), -1 .. 1."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def shown_at(scene: Scene, size: Size) -> Image.Image:
    """A reference that is read at such a size. One that is no square must be larger: it would be read larger itself."""
    times = 1 if size[0] == size[1] else 3
    return draw(scene, times * size[0], times * size[1])


class Rows:
    """Makes rows of one kind each. size: of what is drawn. Nothing held out is ever in them."""

    def __init__(
        self, prompts: PromptBuilder, rng: random.Random, counts: tuple[float, float, float], whole: float = 0.0
    ):
        """counts: how often scenes have one, two and three shapes. whole: how often captions leave nothing open."""
        self.prompts, self.rng, self.counts, self.whole = prompts, rng, counts, whole
        self.tokenizer, self.side = prompts.tokenizer, prompts.side

    def scene(self, most: int = 3) -> Scene:
        weights = self.counts[:most] if sum(self.counts[:most]) else (1.0,)
        count = self.rng.choices(range(1, len(weights) + 1), weights)[0]
        background = "white" if self.rng.random() < 0.2 else None
        return scene(self.rng, count, background=background)

    def in_chinese(self) -> bool:
        return self.rng.random() < 0.2

    def picture(self, size: Size, draws: int, think: bool = False) -> Row:
        """Text to image: `draws` pictures of one caption, which differ in jitter."""
        made, zh = self.scene(), self.in_chinese()
        caption = texts.caption(self.rng, made, zh, self.whole)
        drawn = [as_usual(self.rng, made, caption.size, caption.place) for _ in range(draws)]
        conditioning = self.prompts.picture(caption.text)
        if think:
            sequence, written = self._thought(conditioning, texts.plan(drawn[0], zh))
        else:
            sequence, written = conditioning.sequences[CONDITION], ()
        return Row(sequence, written, tuple(Drawn(len(sequence.ids), one, size) for one in drawn))

    def unconditional(self, drawn: list[Drawn], count: int) -> Row:
        """The unconditional branch of pictures that other rows draw; the first `count` are drawn after it too."""
        sequence = self.prompts.unconditional()
        times = [1] * count + [0] * (len(drawn) - count)
        tokens = len(sequence.ids)
        return Row(sequence, (), tuple(one.unprompted(tokens, each) for one, each in zip(drawn, times, strict=True)))

    def edit(self, size: Size, draws: int, alone: bool = False, think: bool = False) -> list[Row]:
        """An edit, and the branch of its image alone. alone: whether pictures are drawn after that too."""
        before = self.scene()
        change, zh = texts.edit(self.rng, before), self.in_chinese()
        asked = texts.asked(self.rng, change, zh)
        return self._edited([before], asked, change.after, zh, size, draws, alone, think)

    def merge(self, size: Size, draws: int, alone: bool = False) -> list[Row]:
        """An edit with two references."""
        change = None
        while change is None or change.after.held_out:
            before = self.scene(2), self.scene(2)
            change = texts.merge(self.rng, *before)
        zh = self.in_chinese()
        asked = texts.asked(self.rng, change, zh)
        return self._edited([*before], asked, change.after, zh, size, draws, alone, think=False)

    def _edited(
        self,
        before: list[Scene],
        asked: str,
        after: Scene,
        zh: bool,
        size: Size,
        draws: int,
        alone: bool,
        think: bool,
    ) -> list[Row]:
        shown = [shown_at(one, size) for one in before]
        images = references(shown, self.side, limits=edit_pixel_limits(len(shown), AREA))
        conditioning = self.prompts.picture(asked, images)
        sequence, written = conditioning.sequences[CONDITION], ()
        if think:
            sequence, written = self._thought(conditioning, texts.plan(after, zh))
        drawn = Drawn(len(sequence.ids), after, size, draws)
        images_only = conditioning.sequences[IMAGES_ONLY]
        beside = drawn.unprompted(len(images_only.ids), draws * alone)
        return [Row(sequence, written, (drawn,), tuple(before)), Row(images_only, (), (beside,), tuple(before))]

    def conversation(self, size: Size, turns: int = 4, describes: float = 0.5) -> Row:
        """Questions about one picture, one after the other. describes: how often the first asks for everything."""
        made, zh = self.scene(), self.in_chinese()
        shown = self._worn(shown_at(made, size))
        images = references([shown], self.side, limits=understanding_pixel_limits(AREA))
        messages, starts = [], []
        for turn in range(turns):
            name = "describe" if turn == 0 and self.rng.random() < describes else ""
            question = texts.question(self.rng, made, zh, name)
            placed = question.asked if messages else f"{IMAGE_PLACEHOLDER}\n{question.asked}"
            messages.append(Message("user", placed))
            starts.append(len(self.prompts.conversation(messages, images).ids))
            messages.append(Message("assistant", question.answer))
        end = [self.tokenizer.ids[TURN_END]]
        asked = self.prompts.conversation(messages[:-1], images)
        sequence = asked.followed_by(self.tokenizer.encode([messages[-1].text]) + end)
        answers = [self.tokenizer.encode([message.text]) for message in messages[1::2]]
        written = [(start, start + len(answer) + 1) for start, answer in zip(starts, answers, strict=True)]
        return Row(sequence, tuple(written), shown=(made,))

    def idea(self) -> Row:
        """A short idea made into a whole prompt, with the system message of the workflow that does so, or without."""
        made = as_usual(self.rng, self.scene())
        system = [Message("system", texts.ENHANCE)] if self.rng.random() < 0.8 else []
        asked = self.prompts.conversation([*system, Message("user", texts.idea(self.rng, made))], ())
        answer = [*self.tokenizer.encode([texts.described(made)]), self.tokenizer.ids[TURN_END]]
        return Row(asked.followed_by(answer), ((len(asked.ids), len(asked.ids) + len(answer)),))

    def story(self, size: Size, draws: int, alone: bool, think: bool) -> list[Row]:
        """Text and pictures in turn, each picture read back before the text goes on; and the branch of its images.

        alone: whether pictures are drawn after the images alone too.
        """
        told = texts.story(self.rng, scene(self.rng, 1), self.rng.randint(1, 3))
        shown = [pixels(draw(one, *size)) for one in told.scenes]
        grid = Grid.covering(width=size[0], height=size[1], side=self.side)
        images = [ReferenceImage(((one * 0.5 + 0.5) - MEAN) / STD, grid, size) for one in shown]
        full, images_only = self.prompts.document(told.asked, (), system=system_message("INTERLEAVE"), think=think)
        pieces: list[Piece] = [Special(THINK_START), "\n"] if think else []
        for index, (text, image) in enumerate(zip(told.texts, images, strict=True)):
            pieces += [("\n" if index else "") + text + "\n", image]
        pieces += ["\n", Special(THINK_END), "\n\n" + told.ending] if think else ["\n" + told.ending]
        sequence = self._extended(full, [*pieces, Special(TURN_END)])
        written = tuple(self._text_after(sequence, len(full.ids)))
        images_only = self._extended(images_only, images)
        drawn = [
            Drawn(tokens, one, size, draws) for tokens, one in zip(self._at_images(sequence), told.scenes, strict=True)
        ]
        places = zip(drawn, self._at_images(images_only), strict=True)
        beside = tuple(one.unprompted(tokens, draws * alone) for one, tokens in places)
        return [Row(sequence, written, tuple(drawn), told.scenes), Row(images_only, (), beside, told.scenes)]

    def _at_images(self, sequence: TokenSequence) -> list[int]:
        """How many tokens are read before each image."""
        return [start + 1 for start in (sequence.ids == self.tokenizer.ids[IMAGE_START]).nonzero().flatten().tolist()]

    def _text_after(self, sequence: TokenSequence, start: int) -> Iterator[tuple[int, int]]:
        """Stretches that the model writes: all but images and what closes them."""
        fed = sequence.slots | (sequence.ids == self.tokenizer.ids[IMAGE_END])
        for index in range(start, len(sequence.ids)):
            if not fed[index]:
                yield index, index + 1

    def _extended(self, sequence: TokenSequence, pieces: list[Piece]) -> TokenSequence:
        """A sequence with text and images appended, as decoding and reading back leave it."""
        flat: list[str] = []
        for piece in pieces:
            if isinstance(piece, ReferenceImage):
                flat += [Special(IMAGE_START), *[Special(IMAGE_SLOT)] * piece.grid.tokens, Special(IMAGE_END)]
            else:
                flat.append(piece)
        ids = torch.tensor(self.tokenizer.encode(flat), dtype=torch.int64)
        images = tuple(piece for piece in pieces if isinstance(piece, ReferenceImage))
        start, slot = self.tokenizer.ids[IMAGE_START], self.tokenizer.ids[IMAGE_SLOT]
        placed = positions(ids, start_id=start, slot_id=slot, grids=tuple(image.grid for image in images))
        placed[0] += sequence.last_t + 1
        return replace(
            sequence,
            ids=torch.cat([sequence.ids, ids]),
            positions=torch.cat([sequence.positions, placed], 1),
            slots=torch.cat([sequence.slots, ids == slot]),
            images=sequence.images + images,
        )

    def _thought(self, conditioning: Conditioning, plan: str) -> tuple[TokenSequence, tuple[tuple[int, int], ...]]:
        asked = self.prompts.thinking(conditioning)
        ids = self.tokenizer.encode([plan, Special(THINK_END)])
        start = len(asked.ids)
        return self.prompts.thought(asked.followed_by(ids)), ((start, start + len(ids)),)

    def _worn(self, picture: Image.Image) -> Image.Image:
        """At times with noise, so that pictures which the model drew itself are no surprise."""
        if self.rng.random() < 0.5:
            return picture
        values, strength = np.asarray(picture), self.rng.uniform(1, 12)
        noise = np.random.default_rng(self.rng.getrandbits(32)).normal(0, strength, values.shape)
        return Image.fromarray((values + noise).clip(0, 255).astype(np.uint8))
