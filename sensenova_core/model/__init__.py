"""Named tensors + tokens -> numbers."""

from .attention import BACKENDS, Kernel, attention_kernel
from .unified import SenseNovaU1

__all__ = ["BACKENDS", "Kernel", "SenseNovaU1", "attention_kernel"]
