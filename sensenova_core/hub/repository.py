"""What the files of a Hugging Face repository are called, and how its JSON is read. Imports nothing heavy."""

import json
import re
from pathlib import Path
from typing import Any

CONFIG_JSON = "config.json"
INDEX_NAME = "model.safetensors.index.json"  # the usual one
INDEX = ".safetensors.index.json"  # ends the name of any
PEFT_FILE = "adapter_model.safetensors"  # a LoRA, as PEFT calls it
PEFT_CONFIG = "adapter_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
MAX_JSON = 2**24  # bytes of a config, or of an index
FETCH = "fetch the file again"
# How files begin that stand in for others, whatever they are called, in small letters.
STAND_INS = {
    b"version https://git-lfs": "Git LFS's note of where the file is; run `git lfs pull`, or fetch the file itself",
    b"<!doctype": "a web page; fetch the file itself",
    b"<html": "a web page; fetch the file itself",
    b"<?xml": "a web page or a server's answer; fetch the file itself",
}
# The stem of a part of a checkpoint: what all parts begin with, which it is, and of how many.
SHARD = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})$")
_COMMENT = re.compile(rb"^\s*(//|#|/\*)", re.MULTILINE)


def read_json(path: Path) -> Any:
    """Raises ValueError for what is no JSON, or is too much of it: what it is instead, and what to do.

    A byte order mark is no part of the text, and says how its letters are written.
    """
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path.stat().st_size:,} bytes, which is no file of this kind; {FETCH}")
    raw = path.read_bytes()
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError(f"nested without end; {FETCH}") from error
    except ValueError as error:
        raise ValueError(_no_json(raw, error)) from None  # which holds the whole text


def stand_in(begins: bytes | bytearray) -> str | None:
    """What a file is that begins so and stands in for another, and what to do; None for nothing of the kind."""
    text = bytes(begins[:64]).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((kind for start, kind in STAND_INS.items() if text.startswith(start)), None)


def _no_json(raw: bytes, error: ValueError) -> str:
    if not raw.strip():
        return f"the file is empty; {FETCH}"
    if not raw.strip(b"\0"):
        return f"nothing but zeros, as a broken copy leaves; {FETCH}"
    if kind := stand_in(raw):
        return f"it is {kind}"
    if not isinstance(error, json.JSONDecodeError):
        return f"its letters are not in UTF-8; save it as UTF-8, or {FETCH}"
    where = f"{error.msg} in line {error.lineno}, column {error.colno}"
    if _COMMENT.search(raw):
        return f"JSON has no comments, and there is one ({where}); remove them"
    if raw.rstrip()[-1:] not in b"}]":
        return f"it does not end as JSON does ({where}); {FETCH}"
    return f"{where}; mend it there, or {FETCH}"
