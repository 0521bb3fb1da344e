"""Checkpoint files -> named tensors -> parameters."""

from .gguf_file import read_gguf_headers
from .headers import read_headers
from .names import checkpoint_name
from .tensors import Packed, TensorHeader
from .weights import Weights, assign

__all__ = ["Packed", "TensorHeader", "Weights", "assign", "checkpoint_name", "read_gguf_headers", "read_headers"]
