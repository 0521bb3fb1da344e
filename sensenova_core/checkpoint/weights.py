"""Stored tensors -> numbers: as memory maps, or read to memory. No file is read that was changed since it was found."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .int8 import SCALE, as_multiplied, is_stored, make_int8
from .mapped_file import MappedFile, State, changed, file_state, state_of
from .names import checkpoint_name
from .tensors import Packed, TensorHeader

_CHUNK = 2**25  # bytes that one thread reads at a time
_THREADS = min(8, os.cpu_count() or 1)


class StoredWeights:
    """The stored tensors of one model, by the published names. Holds no weight itself."""

    def __init__(
        self,
        model: nn.Module,
        headers: Mapping[str, TensorHeader],
        dtype: torch.dtype | None,
        *,
        int8: Collection[str] = (),
    ):
        """Give a model on the meta device the types that it will run in. Reads no weight.

        dtype None runs in the prevailing stored type, or in bfloat16 where some are packed, and keeps norms as they are
        stored. int8: names of weights that are multiplied as INT8, see `int8.multiplied`; those that are not stored so
        are made so when they are made ready. The stored tensors must be exactly the model's, see `check_tensors`.
        """
        self.int8 = frozenset(int8)
        self.made_int8 = frozenset(name for name in int8 if not is_stored(headers[name]))
        make_int8(model, headers, self.int8)
        self.headers = as_multiplied(headers, self.int8)
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
        self._files = self._own_files | dict(states)

    @property
    def nbytes(self) -> int:
        """What all of them take in the types that they run in, or as they are stored where that is packed."""
        return sum(
            header.nbytes if header.packed or name in self.made_int8 else header.numel * self.dtype(name).itemsize
            for name, header in self.headers.items()
        )

    def dtype(self, name: str) -> torch.dtype:
        """What a tensor runs in."""
        if name in self.int8:
            return torch.int8
        if name.endswith(SCALE):
            return torch.float32
        header = self.headers[name]
        as_stored = self.keep_norms and "norm" in name and not header.packed
        return header.format.numbers if as_stored else self.compute_dtype

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
            held = files[header.file].storage[header.start : header.start + header.own_bytes]
            return torch.asarray(held, dtype=torch.uint8, device="cpu")

        for name in names:
            header = self._header(name)
            value = self._as_stored(name, stored(header).view(header.rows, -1), header.shape)
            if isinstance(value, Packed) and header.scale is not None:
                scale = stored(header.scale).view(header.scale.format.numbers).float()
                value = replace(value, scale=scale.view(header.scale.table), tile=header.tile, group=header.group)
            yield name, value

    def whole(self, name: str) -> Tensor | Packed:
        """A stored tensor, as `mapped` gives it, in memory of its own."""
        header = self._header(name)
        if header.packed and name not in self._borrowed:
            room = torch.empty(header.packed_bytes(header.shape), dtype=torch.uint8, device="cpu")
            into = header.packed_in(room, header.shape)
        else:
            dtype = header.format.factor_dtype if name in self._borrowed else header.format.numbers
            into = torch.empty(header.shape, dtype=dtype, device="cpu")
        finish(self.read(name, into))
        return into

    def rows(self, name: str, indexes: Tensor) -> Tensor | Packed:
        """Rows of a stored matrix, as they lie: int64 (rows,) on the CPU -> (rows, width). Reads no others."""
        header = self._header(name)
        raw = self._raw_rows(header, header.width, indexes)
        value = self._as_stored(name, raw, (len(indexes), *header.shape[1:]))
        if isinstance(value, Packed) and header.scale is not None:
            tall, wide = header.tile
            scale = self._raw_rows(header.scale, header.scale.table[1], indexes // tall)
            scale = scale.view(header.scale.format.numbers).float()
            value = replace(value, scale=scale, tile=(1, wide), group=header.group)
        return value

    def _as_stored(self, name: str, raw: Tensor, shape: tuple[int, ...]) -> Tensor | Packed:
        """Bytes of a tensor, or of rows of it: uint8 (rows, bytes of a row) -> what they are, without their scale."""
        stored = self._header(name).format
        if name in self._borrowed:
            return raw.view(stored.numbers).view(shape).to(stored.factor_dtype)
        return Packed(stored, shape, raw) if self.headers[name].packed else raw.view(stored.numbers).view(shape)

    def _raw_rows(self, header: TensorHeader, width: int, indexes: Tensor) -> Tensor:
        """Bytes of rows of so many numbers: uint8 (rows, bytes of a row)."""
        wanted, places = indexes.unique(return_inverse=True)
        size = header.format.nbytes(width)
        raw = torch.empty(len(wanted), size, dtype=torch.uint8, device="cpu")
        view = raw.view(-1).numpy().data
        with self._opened(header.file) as stream:
            for place, row in enumerate(wanted.tolist()):
                _fill(stream, header.start + row * size, view[place * size : (place + 1) * size])
        return raw[places]

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
        stored = header.format.numbers
        raw = into if into.dtype == stored else torch.empty(into.numel(), dtype=stored, device="cpu")
        with self._opened(header.file) as stream:
            _fill(stream, start, raw.view(torch.uint8).numpy().data)
        if raw is not into:
            into.copy_(raw)

    @contextmanager
    def _opened(self, file: Path) -> Iterator[FileIO]:
        """A file to read from. Raises CheckpointError if it was changed before that, or meanwhile."""
        try:
            stream = open(file, "rb", buffering=0)  # noqa: SIM115  # which fails here alone as a changed file
        except OSError as error:
            raise changed(file) from error
        with stream:
            self._check(file, stream)
            yield stream
            self._check(file, stream)

    def _check(self, file: Path, stream: FileIO) -> None:
        if state_of(os.fstat(stream.fileno())) != self._files[file]:
            raise changed(file)


def finish(reads: Collection[Future[None]]) -> None:
    """Wait for what `StoredWeights.read` began, and raise what went wrong.

    Waits for all of it: where one has failed, the others must not write on to a buffer that is used again.
    """
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
    totals: Counter[torch.dtype] = Counter()
    for header in headers.values():
        if header.packed:
            return torch.bfloat16
        totals[header.format.numbers] += header.nbytes
    return totals.most_common(1)[0][0]
