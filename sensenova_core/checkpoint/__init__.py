"""Checkpoint files -> named tensors -> parameters."""

from .headers import STORED_DTYPES, TensorHeader, read_headers
from .names import checkpoint_name
from .weights import check_names_and_shapes, drop_weights, load_weights

__all__ = [
    "STORED_DTYPES",
    "TensorHeader",
    "check_names_and_shapes",
    "checkpoint_name",
    "drop_weights",
    "load_weights",
    "read_headers",
]
