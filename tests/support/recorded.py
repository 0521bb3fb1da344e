"""A CUDA graph's like without a card: what was computed is computed again, on the same tensors and nothing else."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorded(TorchDispatchMode):
    """Notes every operation while it is on. `replay` does them again: numbers from Python stay what they were, as in a
    graph, and results go where they went before."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        read = {storage(each) for each in tensors((args, kwargs))}
        made = [each if storage(each) not in read else None for each in tensors(result)]  # None: a view, or in place
        self.calls.append((function, args, kwargs or {}, made))
        return result

    def replay(self) -> None:
        for function, args, kwargs, made in self.calls:
            for old, new in zip(made, tensors(function(*args, **kwargs)), strict=True):
                if old is not None:
                    old.copy_(new)


class Recording:
    """A Capture. replays: how many there were, of all that was captured."""

    def __init__(self):
        self.captured, self.replays = 0, 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        with Recorded() as recorded:
            work()
        self.captured += 1

        def replay() -> None:
            self.replays += 1
            recorded.replay()

        return replay


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage(value: Tensor) -> int:
    return value.untyped_storage()._cdata
