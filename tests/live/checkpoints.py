"""Tiny checkpoints that behave as a test needs, made from other tiny ones by weighing the words they choose from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tools import tiny_checkpoint

DEEP_LAYERS = 10
LETTERS = set("abcdefghijklmnopqrstuvwxyz.Ġ")  # Ġ is a space


def talkative(source: Path, folder: Path) -> None:
    """Writes letters only, never ends by itself, and likes to draw in between."""
    _weigh(source, folder, lambda word: 2.3 if word == "<img>" else float(set(word) <= LETTERS))


def modest(source: Path, folder: Path, side: int) -> None:
    """Draws best at `side` x `side`."""
    shutil.copytree(source, folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_pixels": side * side}))


def brief(source: Path, folder: Path) -> None:
    """Ends its answers after a few tokens, and its greedy reasoning before the first."""
    _weigh(source, folder, lambda word: 3 if word == "<|im_end|>" else 1)


def deep(folder: Path) -> None:
    """Has layers enough for budgets to fall between them, and writes and draws as the talkative one does."""
    source = folder.with_name("source of deep")
    tiny_checkpoint.write(source, DEEP_LAYERS)
    talkative(source, folder)
    shutil.rmtree(source)


def _weigh(source: Path, folder: Path, weight: Callable[[str], float]) -> None:
    shutil.copytree(source, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    head = next(name for name in tensors if name.endswith("lm_head.weight"))
    for word, id in Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab().items():
        tensors[head][id] *= weight(word)
    save_file(tensors, file)
