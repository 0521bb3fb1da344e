"""Checkpoint files -> named tensors -> parameters."""

from .headers import TensorHeader, read_headers
from .names import checkpoint_name
from .weights import Weights, assign

__all__ = ["TensorHeader", "Weights", "assign", "checkpoint_name", "read_headers"]
