"""Checkpoint files -> named tensors -> parameters."""

from .headers import TensorHeader, read_headers
from .names import checkpoint_name
from .weights import check_names_and_shapes, drop_weights, load_weights

__all__ = ["TensorHeader", "check_names_and_shapes", "checkpoint_name", "drop_weights", "load_weights", "read_headers"]
