"""Named tensors + tokens -> numbers."""

from ..settings import BACKENDS
from .attention import Kernel
from .feed_forward import MixtureOfExperts
from .quickest import attention_kernel
from .unified import GENERATION, UNDERSTANDING, SenseNovaU1
from .weights import InModule, Runner, Weights

__all__ = [
    "BACKENDS",
    "GENERATION",
    "UNDERSTANDING",
    "InModule",
    "Kernel",
    "MixtureOfExperts",
    "Runner",
    "SenseNovaU1",
    "Weights",
    "attention_kernel",
]
