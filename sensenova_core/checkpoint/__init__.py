"""Checkpoint files -> named tensors -> parameters."""

from .check import check_tensors
from .checkpoint import Checkpoint, open_checkpoint
from .files import locate
from .names import OUTPUT_HEAD, checkpoint_name
from .tensors import Packed, TensorHeader
from .weights import StoredWeights, assign

__all__ = [
    "OUTPUT_HEAD",
    "Checkpoint",
    "Packed",
    "StoredWeights",
    "TensorHeader",
    "assign",
    "check_tensors",
    "checkpoint_name",
    "locate",
    "open_checkpoint",
]
