"""Stored tensors -> numbers: as memory maps, or read to memory. No file is read that was changed since it was found."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .mapped_file import MappedFile, State, changed, file_state, state_of
from .names import checkpoint_name
from .tensors import Packed, TensorHeader

_CHUNK = 2**25  # bytes that one thread reads at a time
_THREADS = min(8, os.cpu_count() or 1)


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
        self._own_files = {file: file_state(file) for file in {header.file for header in (*headers.values(), *scales)}}
        self._files: dict[Path, State | None] = self._own_files
        for name, value in list(model.named_parameters()):
            assign(model, name, value.to(self.dtype(checkpoint_name(name))))
        self.start_threads()

    def start_threads(self) -> None:
        """Those that read; once more in a forked process, which has none of the first ones."""
        self._readers = ThreadPoolExecutor(_THREADS, thread_name_prefix="sensenova-read")

    def check_unchanged(self) -> None:
        """Raise CheckpointError for a file that is no longer what it was when it was found."""
        for file, state in self._files.items():
            if file_state(file) != state:
                raise changed(file)

    def borrow(self, headers: Mapping[str, TensorHeader], states: Mapping[Path, State | None]) -> None:
        """Read tensors of other files too, by names of their own, in place of those that were borrowed before.

        states: of their files when they were found, see `file_state`.
        """
        self._borrowed = dict(headers)
        self._files = self._own_files | states

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
        return header.format.dtype if as_stored else self.compute_dtype

    def mapped(
        self, names: Iterable[str], files: dict[Path, MappedFile] | None = None
    ) -> Iterator[tuple[str, Tensor | Packed]]:
        """(name, tensor) of each, in its stored type: the file itself, mapped to memory, of which nothing is copied.

        files: those that are mapped already; those that will be are added. Hold them as long as the tensors.
        """
        files = {} if files is None else files

        def stored(header: TensorHeader) -> Tensor:
            """Its bytes."""
            if header.file not in files:
                files[header.file] = MappedFile(header.file)
                if files[header.file].state != self._files[header.file]:
                    raise changed(header.file)
            size = header.format.nbytes(header.numel)
            held = files[header.file].storage[header.start : header.start + size]
            return torch.asarray(held, dtype=torch.uint8, device="cpu")

        for name in names:
            header = self._header(name)
            if name in self._borrowed:
                numbers = stored(header).view(header.format.numbers).view(header.shape)
                yield name, numbers.to(header.format.factor_dtype)
                continue
            if not header.packed:
                yield name, stored(header).view(header.format.dtype).view(header.shape)
                continue
            packed = Packed(header.format, header.shape, stored(header).view(header.rows, -1))
            if header.scale is not None:
                scale = stored(header.scale).view(header.scale.format.dtype).float().view(header.scale_shape)
                packed = replace(packed, scale=scale, tile=header.tile)
            yield name, packed

    def whole(self, name: str) -> Tensor | Packed:
        """A stored tensor, as `mapped` gives it, in memory of its own."""
        header = self._header(name)
        if header.packed and name not in self._borrowed:
            room = torch.empty(header.packed_bytes(header.shape), dtype=torch.uint8, device="cpu")
            into = header.packed_in(room, header.shape)
        else:
            dtype = header.format.factor_dtype if name in self._borrowed else header.format.dtype
            into = torch.empty(header.shape, dtype=dtype, device="cpu")
        finish(self.read(name, into))
        return into

    def rows(self, name: str, indexes: Tensor) -> Tensor | Packed:
        """Rows of a stored matrix, as they lie: int64 (rows,) on the CPU -> (rows, width). Reads no others."""
        header = self._header(name)
        raw, shape = self._raw_rows(header, header.width, indexes), (len(indexes), *header.shape[1:])
        if name in self._borrowed or not header.packed:
            numbers = raw.view(header.format.numbers).view(shape)
            return numbers.to(header.format.factor_dtype) if name in self._borrowed else numbers
        if header.scale is None:
            return Packed(header.format, shape, raw)
        tall, wide = header.tile
        scale = self._raw_rows(header.scale, header.scale_shape[1], indexes // tall)
        return Packed(header.format, shape, raw, scale.view(header.scale.format.dtype).float(), (1, wide))

    def _raw_rows(self, header: TensorHeader, width: int, indexes: Tensor) -> Tensor:
        """Bytes of rows of so many numbers: uint8 (rows, bytes of a row)."""
        wanted, places = indexes.unique(return_inverse=True)
        size = header.format.nbytes(width)
        raw = torch.empty(len(wanted), size, dtype=torch.uint8, device="cpu")
        view = memoryview(raw.view(-1).numpy())
        with self._opened(header.file) as stream:
            for place, row in enumerate(wanted.tolist()):
                _fill(stream, header.start + row * size, view[place * size : (place + 1) * size])
        return raw[places]

    def read(self, name: str, into: Tensor | Packed, first_row: int = 0) -> list:
        """Begin to fill a CPU tensor in the type it has, from a stored tensor's rows on; several threads do it.

        Returns futures whose `result()` must be awaited, and raises what went wrong. Reads the file and does not map
        it, so that its pages are never counted as this process's own.
        """
        header = self._header(name)
        start = header.start + first_row * header.format.nbytes(header.width)
        if not isinstance(into, Packed):
            return self._begin(header.file, start, header.format.numbers, into)
        reads = self._begin(header.file, start, torch.uint8, into.bytes)
        if into.scale is not None:
            reads += self._begin(header.scale.file, header.scale.start, header.scale.format.dtype, into.scale)
        return reads

    def _header(self, name: str) -> TensorHeader:
        return self.headers[name] if name in self.headers else self._borrowed[name]

    def _begin(self, file: Path, start: int, stored: torch.dtype, into: Tensor) -> list:
        flat, step = into.reshape(-1), _CHUNK // stored.itemsize
        return [
            self._readers.submit(self._read, file, start + begin * stored.itemsize, stored, [part])
            for begin, part in zip(range(0, flat.numel(), step), flat.split(step), strict=True)
        ]

    @torch.inference_mode()
    def _read(self, file: Path, start: int, stored: torch.dtype, holder: list[Tensor]) -> None:
        """holder: of the tensor to fill, which nothing in the pool holds any longer when this has ended."""
        into = holder.pop()
        raw = into if into.dtype == stored else torch.empty(into.numel(), dtype=stored, device="cpu")
        with self._opened(file) as stream:
            _fill(stream, start, memoryview(raw.view(torch.uint8).numpy()))
        if raw is not into:
            into.copy_(raw)

    @contextmanager
    def _opened(self, file: Path) -> Iterator[FileIO]:
        """A file to read from. Raises CheckpointError if it was changed before that, or meanwhile."""
        try:
            stream = open(file, "rb", buffering=0)  # noqa: SIM115  # so that errors of those who read are not taken for its
        except OSError as error:
            raise changed(file) from error
        with stream:
            self._check(file, stream)
            yield stream
            self._check(file, stream)

    def _check(self, file: Path, stream: FileIO) -> None:
        if state_of(os.fstat(stream.fileno())) != self._files[file]:
            raise changed(file)


def finish(reads: list) -> None:
    """Wait for what `StoredWeights.read` began: for all of it, as one that failed must not leave others writing to a
    buffer that is used again."""
    wait(reads)
    for each in reads:
        each.result()


def _fill(stream: FileIO, start: int, view: memoryview) -> None:
    stream.seek(start)
    while view:
        count = stream.readinto(view)
        if not count:
            raise CheckpointError(f"{stream.name} ends early; it was changed while it was read: load it again")
        view = view[count:]


def assign(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in the place of a parameter."""
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, nn.Parameter(value, requires_grad=False))


def _prevailing_dtype(headers: Mapping[str, TensorHeader]) -> torch.dtype:
    """The type that most bytes are stored in; bfloat16, as this family was published, where some are packed."""
    totals = Counter()
    for header in headers.values():
        if header.packed:
            return torch.bfloat16
        totals[header.format.dtype] += header.nbytes
    return totals.most_common(1)[0][0]
