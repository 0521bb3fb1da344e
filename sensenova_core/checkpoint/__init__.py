"""Checkpoint files -> named tensors -> parameters."""

from .checkpoint import Checkpoint, open_checkpoint
from .files import locate
from .fit import check_tensors
from .headers import read_headers
from .lora import Lora, lora_file, lora_states, read_lora
from .merging import merge
from .names import checkpoint_name
from .tensors import Packed, TensorHeader
from .weights import Weights, assign

__all__ = [
    "Checkpoint",
    "Lora",
    "Packed",
    "TensorHeader",
    "Weights",
    "assign",
    "check_tensors",
    "checkpoint_name",
    "locate",
    "lora_file",
    "lora_states",
    "merge",
    "open_checkpoint",
    "read_headers",
    "read_lora",
]
