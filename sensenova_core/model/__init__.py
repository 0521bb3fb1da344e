"""Named tensors + tokens -> numbers."""

from ..settings import BACKENDS
from .attention import Kernel, attention_kernel
from .feed_forward import MixtureOfExperts
from .unified import SenseNovaU1

__all__ = ["BACKENDS", "Kernel", "MixtureOfExperts", "SenseNovaU1", "attention_kernel"]
