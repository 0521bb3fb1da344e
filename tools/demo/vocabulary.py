"""The demo's tokenizer: byte-level BPE of the family's kind, trained on the words of `texts` and the system messages.

Merges of words come first, so a word is one token wherever it stands; merges of the system messages follow and cross
words, so that these long texts, which every prompt begins with, cost a few tokens instead of hundreds.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from sensenova_core.reading.prompt import NO_THINKING, system_message
from sensenova_core.reading.tokenizer import Special, markup
from tools.demo import texts
from tools.demo.family import SPECIALS, add_specials, byte_level
from tools.demo.scenes import scene

MOST_TOKENS = 2048
WORD_WEIGHT = 2000  # over the count of any pair of letters in the system messages
SAMPLES = 4000


def trained_tokenizer() -> Tokenizer:
    """The same each time."""
    tokenizer = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_TOKENS - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    add_specials(tokenizer)
    return tokenizer


def _corpus() -> Iterator[str]:
    words = _words()
    for word in sorted(words):
        yield from [word] * WORD_WEIGHT
    for _ in range(3):
        yield from _protocol_pieces()


def _protocol_pieces() -> list[str]:
    """Plain text between special tokens, as prompts begin with it."""
    pieces = []
    for name in ("GEN", "INTERLEAVE"):
        pieces += markup(f"<|im_start|>system\n{system_message(name)}<|im_end|>\n{NO_THINKING}")
    return [piece for piece in pieces if not isinstance(piece, Special)]


def _words() -> Counter:
    """Every word of the generated language: with the space before it, or as a line's first, or a Chinese one."""
    chinese = sorted(texts.words(), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, chinese)) + r"| ?[A-Za-z]+(?:-\d:?)?|[^\sA-Za-z]|\s+")
    found = Counter({"user\n": 1, "assistant\n": 1, "system\n": 1, "\n\n": 1, "Image-1:": 1, "\nImage-2:": 1})
    for text in _texts():
        found.update(pattern.findall(text))
    return found


def _texts() -> Iterator[str]:
    rng = random.Random(0)
    for index in range(SAMPLES):
        zh = index % 4 == 3
        made = scene(rng, 1 + index % 3)
        yield texts.caption(rng, made, zh).text
        yield texts.plan(made, zh)
        asked = texts.question(rng, made, zh)
        yield asked.asked
        yield asked.answer
        yield texts.asked(rng, texts.edit(rng, made), zh)
        merged = texts.merge(rng, made, scene(rng, 1))
        if merged is not None:
            yield texts.asked(rng, merged, zh)
        told = texts.story(rng, scene(rng, 1), 1 + index % 3)
        yield from (told.asked, *told.texts, told.ending)
