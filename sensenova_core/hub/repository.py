"""What the files of a Hugging Face repository are called, and how its JSON is read. Imports nothing heavy."""

import json
from pathlib import Path
from typing import Any

CONFIG_JSON = "config.json"
INDEX_NAME, INDEX = "model.safetensors.index.json", ".safetensors.index.json"  # the usual one, and how any name ends
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
MAX_JSON = 2**24  # bytes of a config, or of an index


def read_json(path: Path) -> Any:
    """Raises ValueError for what is no JSON, or is too much of it."""
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path.stat().st_size:,} bytes, which is no file of this kind")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested without end") from error
