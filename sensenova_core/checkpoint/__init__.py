"""Checkpoint files -> named tensors -> parameters."""

from .gguf_file import read_gguf_headers
from .headers import read_headers
from .lora import Lora, file_state, lora_file, read_lora
from .merging import merge
from .names import checkpoint_name
from .tensors import Packed, TensorHeader
from .weights import Weights, assign

__all__ = [
    "Lora",
    "Packed",
    "TensorHeader",
    "Weights",
    "assign",
    "checkpoint_name",
    "file_state",
    "lora_file",
    "merge",
    "read_gguf_headers",
    "read_headers",
    "read_lora",
]
