"""Checkpoint files -> named tensors -> parameters."""

from .headers import TensorHeader, read_headers
from .names import checkpoint_name
from .weights import Weights

__all__ = ["TensorHeader", "Weights", "checkpoint_name", "read_headers"]
