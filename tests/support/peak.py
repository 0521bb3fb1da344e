"""How much memory tensors take at once: counted tensor by tensor, so that a model without storage can be measured."""

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """Counts the storages on one kind of device that are made while it is on, until they are given back.

    now, most: bytes. Caches and workspaces of a device's own libraries are not seen.
    """

    def __init__(self, device: str):
        super().__init__()
        self.device, self.now, self.most = device, 0, 0
        self._known: set[int] = set()

    def leave_out(self, values: Iterable[torch.Tensor]) -> None:
        """Do not count the storages of these, which lie elsewhere: in a mapped file, for one."""
        self._known |= {value.untyped_storage()._cdata for value in values}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.device.type == self.device:
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
