"""Checkpoint files -> named tensors -> parameters."""

from .checkpoint import Checkpoint, open_checkpoint
from .files import locate
from .headers import read_headers
from .names import checkpoint_name
from .tensors import Packed, TensorHeader
from .weights import Weights, assign

__all__ = [
    "Checkpoint",
    "Packed",
    "TensorHeader",
    "Weights",
    "assign",
    "checkpoint_name",
    "locate",
    "open_checkpoint",
    "read_headers",
]
