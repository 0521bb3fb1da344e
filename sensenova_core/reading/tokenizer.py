"""Text <-> token ids, with the model's special tokens kept apart from text a user typed."""

import hashlib
import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from ..errors import CheckpointError, PromptError
from ..hub.repository import stand_in

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
THINK_START, THINK_END = "<think>", "</think>"
IMAGE_START, IMAGE_SLOT, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
SPECIALS = (TURN_START, TURN_END, THINK_START, THINK_END, IMAGE_START, IMAGE_SLOT, IMAGE_END)
_SPECIAL_PATTERN = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")


class Special(str):
    """A special token by its spelling, as opposed to plain text that happens to spell the same."""


def markup(template: str) -> list[str]:
    """Split text of the protocol itself (never a user's) into Specials and plain text."""
    pieces = _SPECIAL_PATTERN.split(template)
    return [Special(piece) if piece in SPECIALS else piece for piece in pieces if piece]


class Tokenizer:
    """The checkpoint's tokenizer. Plain text never becomes a token that structures the sequence."""

    def __init__(self, folder: str | Path, vocabulary: int | None = None):
        """Read `tokenizer.json`, or where it is missing vocab.json and merges.txt through transformers.

        vocabulary: how many tokens the model knows. Raises CheckpointError.
        """
        self._backend = _backend(Path(folder))
        self._backend.encode_special_tokens = True  # a special token spelled in plain text is read letter by letter
        found = {special: self._backend.token_to_id(special) for special in SPECIALS}
        self.ids: dict[str, int] = {special: index for special, index in found.items() if index is not None}
        if unknown := [special for special in SPECIALS if special not in self.ids]:
            raise CheckpointError(f"{folder}: the tokenizer lacks {', '.join(unknown)}; it is another model's")
        highest = max(self._backend.get_vocab(with_added_tokens=True).values())
        if vocabulary is not None and highest >= vocabulary:
            raise CheckpointError(
                f"{folder}: the tokenizer counts to {highest}, config.json's vocab_size is {vocabulary}; "
                "it is another model's, fetch the tokenizer files again"
            )
        self._structural = {self.ids[name] for name in (TURN_START, TURN_END, IMAGE_START, IMAGE_SLOT, IMAGE_END)}

    @cached_property
    def key(self) -> str:
        """Equal for tokenizers that read the same."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    def encode(self, pieces: Iterable[str]) -> list[int]:
        """Ids of Specials and plain text in order. Plain pieces that touch are tokenised as one text.

        Raises PromptError if the tokenizer reads structure into plain text. All of it must be Unicode.
        """
        ids: list[int] = []
        plain = ""
        for piece in (*pieces, Special("")):
            if not isinstance(piece, Special):
                plain += piece
                continue
            if plain:
                ids += self._plain(plain)
                plain = ""
            if piece:
                ids.append(self.ids[piece])
        return ids

    def _plain(self, text: str) -> list[int]:
        ids = self._backend.encode(text, add_special_tokens=False).ids
        found = self._structural.intersection(ids)
        if found:
            spelled = next(name for name, index in self.ids.items() if index in found)
            raise PromptError(
                f"the prompt spells the special token {spelled}, which would break it; write it differently"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special tokens are left out (<think> and </think> are text)."""
        return self._backend.decode(list(ids), skip_special_tokens=True)


def _backend(folder: Path):
    from tokenizers import Tokenizer as Backend

    if (folder / "tokenizer.json").is_file():
        kind = None
        try:
            raw = (folder / "tokenizer.json").read_bytes()  # the library opens names in UTF-8 alone, which not all are
            kind = stand_in(raw)
            return Backend.from_buffer(raw.removeprefix(BOM_UTF8))
        except Exception as error:  # the library raises bare Exception for a file it cannot parse
            raise CheckpointError(
                f"{folder / 'tokenizer.json'}: not readable: "
                f"{f'it is {kind}' if kind else f'{str(error)[:200]}; fetch the file again'}"
            ) from error
    if not (folder / "vocab.json").is_file() or not (folder / "merges.txt").is_file():
        raise CheckpointError(f"{folder}: no tokenizer; it needs tokenizer.json, or vocab.json and merges.txt")
    from transformers import Qwen2TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]  # made when asked for

    try:
        return Qwen2TokenizerFast.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
    except Exception as error:  # whatever the libraries raise for a file they cannot parse
        raise CheckpointError(f"{folder}: vocab.json or merges.txt not readable ({error}); fetch them again") from error
