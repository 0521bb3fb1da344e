"""A prompt and its images -> the token sequence of each guidance branch, with positions. Templates: docs/model.md."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..errors import PromptError, quoted
from ..model.grid import Grid
from ..settings import CONDITION, IMAGES_ONLY, UNCONDITIONAL
from .images import ReferenceImage
from .tokenizer import IMAGE_END, IMAGE_SLOT, IMAGE_START, THINK_END, THINK_START, Special, Tokenizer, markup

IMAGE_PLACEHOLDER = "<image>"
NO_THINKING = "<think>\n\n</think>\n\n"
THINKING = "<think>\n"
# Letters for each token of the context: no text has more. Of one with more than `MAY_FIT` it is first counted whether
# it can fit, piece by piece, for to tokenise megabytes takes minutes. So `FEW` are read in no time.
MOST_LETTERS, MAY_FIT, PIECE, FEW = 16, 4, 2**15, 2**17
AFTER_THINKING = "\n\n"  # between the reasoning and <img>, tokenised on its own
PROMPT_PLACE = "{prompt}"  # in a template of the protocol

# A piece of a sequence: plain text, a special token, or an image.
Piece = str | ReferenceImage


def system_message(name: str) -> str:
    """A system message of the trained protocol: "GEN" (draw and edit) or "INTERLEAVE"."""
    return _protocol()[name]


@cache
def _protocol() -> dict[str, str]:
    """Name -> text. Of what has several parts, as SELF_CORRECT has, each is NAME.part."""
    texts: dict[str, str] = {}
    told = json.loads(Path(__file__).with_name("protocol.json").read_text(encoding="utf-8"))
    for name, text in told.items():
        texts |= {f"{name}.{part}": words for part, words in text.items()} if isinstance(text, dict) else {name: text}
    return texts


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """What one branch reads. ids: int64 (tokens,); positions: int64 (3, tokens), rows time, row, column.

    slots: bool (tokens,), where an image's tokens stand. images: those that fill the slots, in order.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    images: tuple[ReferenceImage, ...] = ()

    @property
    def key(self) -> str:
        """Equal for sequences that read the same."""
        digest = hashlib.sha256(self.ids.numpy().tobytes())
        for image in self.images:
            digest.update(image.key.encode())
        return digest.hexdigest()

    @property
    def last_t(self) -> int:
        return int(self.positions[0, -1])

    def followed_by(self, ids: list[int]) -> "TokenSequence":
        """The same with text tokens appended."""
        return replace(
            self,
            ids=torch.cat([self.ids, torch.tensor(ids, dtype=torch.int64, device="cpu")]),
            positions=torch.cat([self.positions, text_positions(self.last_t + 1, len(ids))], 1),
            slots=torch.cat([self.slots, torch.zeros(len(ids), dtype=torch.bool, device="cpu")]),
        )


@dataclass(frozen=True, eq=False)
class Conditioning:
    """A prompt made ready to be read: one sequence per guidance branch. Immutable, and holds no device memory; what has
    been read from it stays with the engine, found again by content.

    think_text: the reasoning between prompt and image, with its closing </think>; None if there is none.
    vocabulary: of the model it was encoded for, as PromptBuilder.vocabulary.
    """

    vocabulary: str
    prompt: str
    images: tuple[ReferenceImage, ...]
    sequences: dict[str, TokenSequence]
    think_text: str | None = None

    @property
    def is_edit(self) -> bool:
        """Whether there are reference images: guidance then has its branch of images alone."""
        return bool(self.images)

    @property
    def tokens(self) -> int:
        """Of all branches together."""
        return sum(len(sequence.ids) for sequence in self.sequences.values())

    def repeated_noise(self, seed: int, size: tuple[int, int]) -> str | None:
        """A warning, if one of the images was itself drawn with this seed at this (width, height): the noise then holds
        the old picture, and the edit tends to collapse into it."""
        repeats = any(seed in image.seeds and image.original == size for image in self.images)
        if not repeats:
            return None
        return (
            f"seed {seed} at {size[0]}x{size[1]} also drew the image being edited; choose another seed for a clean edit"
        )


@dataclass(frozen=True)
class Message:
    """One message of a conversation. role: "system", "user" or "assistant"."""

    role: str
    text: str


class PromptBuilder:
    """Sequences for one tokenizer, context length and side in pixels of an image token."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, side: int):
        self.tokenizer, self.max_tokens, self.side = tokenizer, max_tokens, side

    @property
    def vocabulary(self) -> str:
        """Equal for models that read the same tokens of text and images."""
        return f"{self.tokenizer.key}/{self.side}"

    def picture(
        self, prompt: str, images: tuple[ReferenceImage, ...] = (), think_text: str | None = None
    ) -> Conditioning:
        """The conditioning of one picture: drawn from text, or an edit of `images`. The prompt may be empty.

        think_text: reasoning to draw by, as `Engine.think` returns it or edited; a missing </think> is added.
        Raises PromptError for a prompt or reasoning over the context, or a prompt with more <image> than images.
        """
        prompt = clean(prompt)
        asked = _asked(prompt, images)
        if think_text is None:
            condition = self.sequence([*asked, *markup(f"{NO_THINKING}<img>")])
        else:
            condition = self.thought(self._reasoned([*asked, *markup(THINKING)], think_text))
        sequences = {CONDITION: condition, UNCONDITIONAL: self.unconditional()}
        if images:
            sequences[IMAGES_ONLY] = self.sequence([*_turn(images), *markup("<img>")])
        return Conditioning(
            vocabulary=self.vocabulary, prompt=prompt, images=images, sequences=sequences, think_text=think_text
        )

    def thinking(self, conditioning: Conditioning) -> TokenSequence:
        """What the model reads before it reasons about a picture."""
        return self.sequence([*_asked(conditioning.prompt, conditioning.images), *markup(THINKING)])

    def thought(self, sequence: TokenSequence) -> TokenSequence:
        """A sequence that ends with reasoning -> the same, ready for the image."""
        return sequence.followed_by(self.tokenizer.encode([AFTER_THINKING, *markup("<img>")]))

    def unconditional(self) -> TokenSequence:
        return self.sequence([*_turn([""]), *markup("<img>")])

    def document(
        self, prompt: str, images: tuple[ReferenceImage, ...], *, system: str | None, think: bool
    ) -> tuple[TokenSequence, TokenSequence]:
        """The full branch and the images-only branch of a document of text and pictures, up to where it begins.

        system: the system message; None is the trained one.
        """
        asked = _turn(_placed(filled(clean(prompt), len(images)), iter(images)))
        system = system_message("INTERLEAVE") if system is None else clean(system, "the system message")
        opening = [] if think else markup(NO_THINKING)
        return self.sequence([*_system(system), *asked, *opening]), self.sequence(_turn(images))

    def self_correction(
        self, prompt: str, images: tuple[ReferenceImage, ...]
    ) -> tuple[TokenSequence, TokenSequence, list[int]]:
        """The branches of a self-correction, as `document` makes them, up to where its first picture begins; and the
        tokens that follow every picture. Raises PromptError for a prompt without words."""
        prompt = clean(prompt)
        if not prompt.strip():
            raise PromptError("the prompt is empty, and pictures are compared with it; say what they should show")
        words = _protocol()
        before, _, after = words["SELF_CORRECT.prompt"].partition(PROMPT_PLACE)
        asked = [*markup(before), *_placed(_numbered(prompt, len(images)), iter(images)), *markup(after)]
        full = [*_system(words["SELF_CORRECT.system"]), *_turn(asked), *markup(NO_THINKING)]
        after_picture = self.tokenizer.encode(markup(words["SELF_CORRECT.after_picture"]))
        return self.sequence(full), self.sequence(_turn(images)), after_picture

    def conversation(self, messages: Iterable[Message], images: tuple[ReferenceImage, ...]) -> TokenSequence:
        """A conversation up to where the model answers.

        Placeholders are filled in order over all messages; images without one are put before the last user's text.
        """
        messages = [replace(_message_of(message), text=clean(message.text)) for message in messages]
        if not messages or messages[-1].role != "user":
            raise PromptError("the conversation does not end with a user's message; add the question")
        named = sum(message.text.count(IMAGE_PLACEHOLDER) for message in messages if message.role == "user")
        question = messages[-1]
        messages[-1] = replace(question, text=f"{IMAGE_PLACEHOLDER}\n" * (len(images) - named) + question.text)
        remaining, pieces = iter(images), []
        for message in messages:
            pieces += _message(message, remaining)
        return self.sequence([*pieces, *markup("<|im_start|>assistant\n")])

    def room_after(self, sequence: TokenSequence) -> int:
        """Tokens that the context still holds after a sequence, an image's opening set aside; at least 1."""
        return max(1, self.max_tokens - len(sequence.ids) - len(self.tokenizer.encode([AFTER_THINKING])) - 1)

    def sequence(self, pieces: Iterable[Piece]) -> TokenSequence:
        """Tokens and positions of pieces. Raises PromptError if they exceed the context."""
        sequence = self._sequence(pieces)
        tokens = len(sequence.ids)
        if tokens > self.max_tokens:
            raise PromptError(
                f"the prompt comes to {tokens:,} tokens, {tokens - self.max_tokens:,} over the model's "
                f"{self.max_tokens:,}; shorten it" + (", or give smaller or fewer images" if sequence.images else "")
            )
        return sequence

    def _reasoned(self, asked: list[Piece], think_text: str) -> TokenSequence:
        """The sequence of a prompt and reasoning about it, with room left for what follows."""
        before, sequence = self.sequence(asked), self._sequence([*asked, *_reasoning(think_text)])
        tokens, room = len(sequence.ids) - len(before.ids), self.room_after(before)
        if tokens > room:
            raise PromptError(
                f"the reasoning comes to {tokens:,} tokens, {tokens - room:,} over the {room:,} that the prompt leaves "
                f"of the model's {self.max_tokens:,}; shorten it"
            )
        return sequence

    def _sequence(self, pieces: Iterable[Piece]) -> TokenSequence:
        """`sequence`, however long, unless it is far too long to be worth the counting."""
        pieces = list(pieces)
        images: list[ReferenceImage] = []
        flat: list[str] = []
        self._check_letters([piece for piece in pieces if not isinstance(piece, Special | ReferenceImage)])
        for piece in pieces:
            if isinstance(piece, ReferenceImage):
                images.append(piece)
                flat += [Special(IMAGE_START), *[Special(IMAGE_SLOT)] * piece.grid.tokens, Special(IMAGE_END)]
            else:
                flat.append(piece)
        ids = torch.tensor(self.tokenizer.encode(flat), dtype=torch.int64, device="cpu")
        start, slot = self.tokenizer.ids[IMAGE_START], self.tokenizer.ids[IMAGE_SLOT]
        return TokenSequence(
            ids=ids,
            positions=positions(ids, [image.grid for image in images], start_id=start, slot_id=slot),
            slots=ids == slot,
            images=tuple(images),
        )

    def _check_letters(self, texts: list[str]) -> None:
        """Raise PromptError for texts that cannot fit into the context, before they are tokenised as they are."""
        letters = sum(map(len, texts))
        if letters <= max(FEW, MAY_FIT * self.max_tokens):
            return
        over = f"the prompt has {letters:,} letters, over what the model's {self.max_tokens:,} tokens hold; shorten it"
        if letters > MOST_LETTERS * self.max_tokens:
            raise PromptError(over)
        tokens, parts = 0, (text[at : at + PIECE] for text in texts for at in range(0, len(text), PIECE))
        for part in parts:
            tokens += len(self.tokenizer.encode([part])) - 1  # where two pieces meet, one token may become of two
            if tokens > self.max_tokens:
                raise PromptError(over)


def positions(ids: Tensor, grids: Sequence[Grid], *, start_id: int, slot_id: int) -> Tensor:
    """Time, row and column of every token: int64 (3, tokens).

    Time grows by one at every text token and once more after <img>; the tokens of an image share theirs.
    grids: of each image, in order; row and column are 0 for text.
    """
    slot = ids == slot_id
    after_start = torch.cat([torch.zeros(1, dtype=torch.bool, device="cpu"), ids[:-1] == start_id])
    out = torch.zeros(3, len(ids), dtype=torch.int64, device="cpu")
    out[0] = ((~slot) | after_start).cumsum(0) - 1
    if grids:
        out[1:, slot] = torch.cat([grid.positions(0)[1:] for grid in grids], 1)
    return out


def text_positions(t: int, tokens: int) -> Tensor:
    """Positions of text that begins at time t: int64 (3, tokens)."""
    time = t + torch.arange(tokens, dtype=torch.int64, device="cpu")
    return torch.stack([time, torch.zeros_like(time), torch.zeros_like(time)])


def runs(time: Tensor) -> tuple[tuple[int, bool], ...]:
    """(stop, is_image) of each stretch of text or of one image; time: (tokens,), shared by the tokens of an image."""
    shared = torch.zeros(len(time) + 1, dtype=torch.bool, device=time.device)
    shared[1:-1] = time[1:] == time[:-1]
    image = shared[1:] | shared[:-1]  # equal to a neighbour; an image of one token may pass as text
    breaks = (image[1:] != image[:-1]) | (image[1:] & (time[1:] != time[:-1]))
    stops = [*(breaks.nonzero().flatten() + 1).tolist(), len(time)]
    return tuple((stop, bool(image[stop - 1])) for stop in stops)


def clean(text: str, name: str = "the prompt") -> str:
    """Line ends as the model was trained on: a carriage return would change the tokens.

    Raises PromptError for what is not Unicode text, such as half of a surrogate pair; `name` says which text it is.
    """
    if not isinstance(text, str):
        raise PromptError(f"{name} is {quoted(text)} (a {type(text).__name__}); give text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{name} holds a character that is not Unicode text ({text[error.start]!r}, after {error.start} others); "
            "remove it"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _message_of(given: object) -> Message:
    if not isinstance(given, Message):
        raise PromptError(f"a message is {quoted(given)}; give Message(role, text)")
    return given


def _message(message: Message, images: Iterator[ReferenceImage]) -> list[Piece]:
    if message.role == "system":
        return _system(message.text)
    if message.role not in ("user", "assistant"):
        raise PromptError(f"a message's role is {quoted(message.role)}; use system, user or assistant")
    content = _placed(message.text, images) if message.role == "user" else [message.text]
    return [*markup(f"<|im_start|>{message.role}\n"), *content, *markup("<|im_end|>\n")]


def _system(message: str) -> list[Piece]:
    """A system turn; none at all for an empty message. Only the protocol's own messages may hold special tokens."""
    if not message:
        return []
    content = markup(message) if message in _protocol().values() else [message]
    return [*markup("<|im_start|>system\n"), *content, *markup("<|im_end|>\n")]


def _turn(pieces: Iterable[Piece]) -> list[Piece]:
    """A user's turn, up to where the model answers."""
    return [*markup("<|im_start|>user\n"), *pieces, *markup("<|im_end|>\n<|im_start|>assistant\n")]


def _asked(prompt: str, images: tuple[ReferenceImage, ...]) -> list[Piece]:
    """A picture's system and user turns, up to where the model answers."""
    return [*_system(system_message("GEN")), *_turn(_placed(_numbered(prompt, len(images)), iter(images)))]


def _reasoning(text: str) -> list[Piece]:
    """Reasoning that a user may have edited: its closing token kept or added, all else plain text."""
    text = clean(text, "the reasoning")
    if text.lstrip().startswith(THINK_START):
        text = text.lstrip().removeprefix(THINK_START).removeprefix("\n")
    if text.rstrip().endswith(THINK_END):
        text = text.rstrip().removesuffix(THINK_END)
    return [text, Special(THINK_END)]


def _numbered(prompt: str, images: int) -> str:
    """An edit's prompt with a placeholder for every image; several unplaced images are numbered for the prompt."""
    if images > 1 and IMAGE_PLACEHOLDER not in prompt:
        return "".join(f"Image-{index}:{IMAGE_PLACEHOLDER}\n" for index in range(1, images + 1)) + prompt
    return filled(prompt, images)


def filled(prompt: str, images: int) -> str:
    """A placeholder in front for every image that the prompt does not place."""
    return f"{IMAGE_PLACEHOLDER}\n" * (images - prompt.count(IMAGE_PLACEHOLDER)) + prompt


def _placed(text: str, images: Iterator[ReferenceImage]) -> list[Piece]:
    """Plain text cut at its placeholders, each filled with the next image. Raises PromptError when they run out."""
    before, *rest = text.split(IMAGE_PLACEHOLDER)
    pieces: list[Piece] = [before]
    for index, after in enumerate(rest):
        image = next(images, None)
        if image is None:
            raise PromptError(
                f"the prompt names {len(rest) - index} more {IMAGE_PLACEHOLDER} than there are images; "
                "remove a placeholder or add an image"
            )
        pieces += [image, after]
    return pieces
