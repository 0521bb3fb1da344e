"""Tensors that say they are on a card, for what a card does otherwise; and what no card has to be waited for."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OnCard(Tensor):
    """Computes on the CPU."""

    is_cuda = True


class NoWaits(TorchFunctionMode):
    """Refuses masks as indexes: for the places that they stand for, a card is waited for."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in index):
                raise AssertionError("a mask as an index")
        return func(*args, **(kwargs or {}))
