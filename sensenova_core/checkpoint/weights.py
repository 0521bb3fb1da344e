"""Stored tensors -> numbers: as memory maps, or read straight into a buffer that the caller keeps."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .headers import map_file
from .names import checkpoint_name
from .tensors import Packed, TensorHeader

_CHUNK = 2**25  # bytes that one thread reads at a time
_THREADS = min(8, os.cpu_count() or 1)

State = tuple[int, int, int]  # of a file: its size in bytes, its time of change in ns, and its inode


class StoredWeights:
    """The stored tensors of one model, by the published names. Holds no weight itself."""

    def __init__(self, model: nn.Module, headers: Mapping[str, TensorHeader], dtype: torch.dtype | None):
        """Give a model on the meta device the types that it will run in. Reads no weight.

        dtype None runs in the prevailing stored type, or in bfloat16 where some are packed, and keeps norms as they are
        stored. The stored tensors must be exactly the model's, see `check_tensors`.
        """
        self.headers = headers
        self._borrowed: dict[str, TensorHeader] = {}
        self.compute_dtype = dtype or _prevailing_dtype(headers)
        self.keep_norms = dtype is None
        scales = [header.scale for header in headers.values() if header.scale is not None]
        self._files = {file: file_state(file) for file in {header.file for header in (*headers.values(), *scales)}}
        for name, value in list(model.named_parameters()):
            assign(model, name, value.to(self.dtype(checkpoint_name(name))))
        self._readers = ThreadPoolExecutor(_THREADS, thread_name_prefix="sensenova-read")

    def borrow(self, headers: Mapping[str, TensorHeader], states: Mapping[Path, State | None]) -> None:
        """Read tensors of other files too, by names of their own, in place of those that were borrowed before.

        states: of their files when they were found, see `file_state`.
        """
        self._borrowed = dict(headers)
        self._files |= states

    @property
    def nbytes(self) -> int:
        """What all of them take in the types that they run in, or as they are stored where that is packed."""
        return sum(
            header.nbytes if header.packed else header.numel * self.dtype(name).itemsize
            for name, header in self.headers.items()
        )

    def dtype(self, name: str) -> torch.dtype:
        """What a tensor runs in."""
        header = self.headers[name]
        as_stored = self.keep_norms and "norm" in name and not header.packed
        return header.format.numbers if as_stored else self.compute_dtype

    def mapped(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor | Packed]]:
        """(name, tensor) of each, in its stored type: the file itself, mapped to memory, of which nothing is copied."""
        files: dict[Path, torch.UntypedStorage] = {}

        def stored(header: TensorHeader) -> Tensor:
            """Its numbers, or the bytes of its blocks, one after another."""
            if header.file not in files:
                self._check_unchanged(header.file)
                files[header.file] = map_file(header.file)
            held = files[header.file][header.start : header.start + header.own_bytes]
            return torch.asarray(held, dtype=torch.uint8, device="cpu").view(header.format.numbers)

        for name in names:
            header = self._header(name)
            if name in self._borrowed:
                yield name, stored(header).view(header.shape).to(header.format.factor_dtype)
            elif not header.packed:
                yield name, stored(header).view(header.shape)
            else:
                packed = Packed(header.format, header.shape, stored(header).view(torch.uint8).view(header.rows, -1))
                if header.scale is not None:
                    scale = stored(header.scale).float().view(header.scale.table)
                    packed = replace(packed, scale=scale, tile=header.tile)
                yield name, packed

    def read(self, name: str, into: Tensor | Packed, first_row: int = 0) -> list[Future[None]]:
        """Begin to fill a CPU tensor in the type it has, from a stored tensor's rows on; several threads do it.

        Returns futures whose `result()` must be awaited, and raises what went wrong. Reads the file and does not map
        it, so that its pages are never counted as this process's own.
        """
        header = self._header(name)
        start = header.start + first_row * header.format.nbytes(header.width)
        if not isinstance(into, Packed):
            return self._begin(header, start, into)
        reads = self._begin(header, start, into.bytes.view(header.format.numbers))
        if header.scale is not None and into.scale is not None:
            reads += self._begin(header.scale, header.scale.start, into.scale)
        return reads

    def _header(self, name: str) -> TensorHeader:
        return self.headers[name] if name in self.headers else self._borrowed[name]

    def _begin(self, header: TensorHeader, start: int, into: Tensor) -> list[Future[None]]:
        flat = into.reshape(-1)
        size = header.format.numbers.itemsize
        step = _CHUNK // size
        return [
            self._readers.submit(self._read, header, start + begin * size, [part])
            for begin, part in zip(range(0, flat.numel(), step), flat.split(step), strict=True)
        ]

    @torch.inference_mode()
    def _read(self, header: TensorHeader, start: int, holder: list[Tensor]) -> None:
        """holder: of the tensor to fill, which nothing in the pool holds any longer when this has ended."""
        into = holder.pop()
        file = header.file
        stored = header.format.numbers
        raw = into if into.dtype == stored else torch.empty(into.numel(), dtype=stored, device="cpu")
        view = raw.view(torch.uint8).numpy().data
        self._check_unchanged(file)
        with open(file, "rb", buffering=0) as stream:
            stream.seek(start)
            while view:
                count = stream.readinto(view)
                if not count:
                    raise CheckpointError(f"{file} ends early; it was changed while it was read: load it again")
                view = view[count:]
        if raw is not into:
            into.copy_(raw)

    def _check_unchanged(self, file: Path) -> None:
        if file_state(file) != self._files[file]:
            raise CheckpointError(f"{file} was changed or removed after it was loaded; load it again")


def assign(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in the place of a parameter."""
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, nn.Parameter(value, requires_grad=False))


def file_state(file: Path) -> State | None:
    """What tells a file from another in its place, also from an older one with its old time; None for no file."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _prevailing_dtype(headers: Mapping[str, TensorHeader]) -> torch.dtype:
    """The type that most bytes are stored in; bfloat16, as this family was published, where some are packed."""
    totals: Counter[torch.dtype] = Counter()
    for header in headers.values():
        if header.packed:
            return torch.bfloat16
        totals[header.format.numbers] += header.nbytes
    return totals.most_common(1)[0][0]
