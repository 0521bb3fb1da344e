"""A tensor that says it is on cuda:0 and has its numbers on the CPU; and what each operation comes to on a card."""

import ctypes
import math
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .card import Card, Memory

CUDA, CPU, META = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")
WHOLE = {"scaled_dot_product_attention", "rms_norm", "grouped_mm"}  # one kernel on a card, several operations elsewhere
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "grouped_mm", "_grouped_mm"}
COPIES = {"cat", "clone", "repeat", "stack", "constant_pad_nd", "contiguous"}
NO_KERNEL = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh"}
OVERWRITTEN = {"fill_", "zero_"}  # which do not read what they write to
KERNELS = {"sort": 4, "topk": 2, "nonzero": 4, "embedding_bag": 4, "_embedding_bag_forward_only": 4, "convolution": 2}
WAITING = {"nonzero", "masked_select", "equal"}  # the host must know how many there are, or whether
KEPT = 4 * 2**20  # bytes of whole numbers that keep their values where there are only sizes


def take_guard() -> None:
    """Have torch take "cuda" for a device of which none has to be chosen, as it does meta. Raises OSError or ValueError
    where its library is not what this knows."""
    torch._C._ensureCUDADeviceGuardSet()  # of a build for CUDA that finds no card
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 20).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14  # as c10/core/DeviceType.h numbers them
    guards[cuda] = guards[cuda] or guards[meta]  # a build for the CPU has none


class CardTensor(Tensor):
    """inner: its numbers, on the CPU, or on the meta device where only sizes matter. memory: of the card, shared by all
    views of it."""

    inner: Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, inner: Tensor, memory: Memory):
        place = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        self = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=CUDA, **place)
        self.inner, self.memory = inner, memory
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        """By way of the CPU, as torch does it for a card; it refuses that for subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        [card, *_] = (leaf.memory.card for leaf in leaves_of(args, kwargs) if isinstance(leaf, CardTensor))
        return dispatch(card, func, args, kwargs or {})

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        Tensor.data.__set__(self, value)
        self.inner, self.memory = value.inner, value.memory

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def data_ptr(self):
        return self.inner.data_ptr()

    def record_stream(self, stream):
        self.memory.recorded.add(stream.name)

    def __repr__(self, **_):
        return f"CardTensor({tuple(self.shape)}, {self.dtype})"


class Seeing(TorchDispatchMode):
    """Sees what is made on the card out of nothing, or out of tensors on the CPU."""

    def __init__(self, card: Card):
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(self.card, func, args, kwargs or {})


def mapped(function: Callable, tree: Any) -> Any:
    """Arguments of an operation with `function` of each in its place; they are nested in lists, tuples and dicts."""
    if isinstance(tree, (list, tuple)):
        return type(tree)([mapped(function, each) for each in tree])
    return {name: mapped(function, each) for name, each in tree.items()} if isinstance(tree, dict) else function(tree)


def leaves_of(*trees: Any) -> list[Any]:
    found: list[Any] = []
    mapped(found.append, trees)
    return found


def dispatch(card: Card, func, args: tuple, kwargs: dict) -> Any:
    if not any(isinstance(leaf, CardTensor) or _is_cuda(leaf) for leaf in leaves_of(args, kwargs)):
        return func(*args, **kwargs)
    name = func._schema.name.partition("::")[2]
    if name in SPECIAL:
        return SPECIAL[name](card, func, args, kwargs)
    if name not in WHOLE and _is_composed(func):
        with Seeing(card):
            return func.decompose(*args, **kwargs)
    return _carried_out(card, func, args, kwargs)


def _is_cuda(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == "cuda"


@cache
def _is_composed(func) -> bool:
    return func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)


@cache
def _written_by(func) -> tuple[tuple[int, str], ...]:
    """(position, name) of the arguments that an operation writes to."""
    arguments = enumerate(func._schema.arguments)
    return tuple((index, each.name) for index, each in arguments if each.alias_info and each.alias_info.is_write)


def _check_devices(name: str, tensors: Iterable[Tensor]) -> None:
    """As CUDA's kernels do: only single numbers may lie on the CPU."""
    if any(not isinstance(each, CardTensor) and each.dim() for each in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu! (in {name})")


def _carried_out(card: Card, func, args: tuple, kwargs: dict) -> Any:
    """Do an operation on the CPU, and note what it would be on a card."""
    name, tensors = func._schema.name.partition("::")[2], _tensors((args, kwargs))
    _check_devices(name, tensors)
    result = func(*_bare(card, args, tensors), **_bare(card, kwargs, tensors))
    own = {id(each.inner): each for each in tensors if isinstance(each, CardTensor)}
    memories = {each.inner.untyped_storage()._cdata: each.memory for each in own.values()}
    made: list[Tensor] = []

    def on_card(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or id(leaf) in own:
            return own.get(id(leaf), leaf)
        memory = memories.get(leaf.untyped_storage()._cdata)
        if memory is None:
            made.append(placed(card, leaf, name))
            return made[-1]
        return CardTensor(leaf, memory)

    out = mapped(on_card, result)
    written = _tensors([args[at] if at < len(args) else kwargs.get(key) for at, key in _written_by(func)])
    if name not in NO_KERNEL and (made or written):
        unread = written if name in OVERWRITTEN or func._schema.overload_name == "out" else []
        reads = [each for each in own.values() if not any(each is other for other in unread)]
        kind, flops = _cost(name, tensors, [*made, *written])
        note(card, name, kind, reads=reads, writes=[*made, *written], flops=flops, kernels=KERNELS.get(name, 1))
    if name in WAITING:
        card.wait_for_stream(name)
    return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in leaves_of(tree) if isinstance(leaf, Tensor)]


def _bare(card: Card, tree: Any, tensors: list[Tensor]) -> Any:
    """Arguments as the CPU takes them, or as the meta device does where one of the tensors has no numbers."""
    sizes_only = any(bare(each).is_meta for each in tensors)

    def leaf_of(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return bare(leaf).to(META) if sizes_only else bare(leaf)
        return CPU if _is_cuda(leaf) else leaf

    return mapped(leaf_of, tree)


def bare(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, CardTensor) else tensor


def placed(card: Card, inner: Tensor, name: str) -> CardTensor:
    """A tensor in new memory of the card. Where there are only sizes, it loses its numbers."""
    counts = not inner.is_floating_point() and inner.nbytes <= KEPT
    if card.meta and not inner.is_meta and not counts:
        inner = torch.empty_strided(inner.shape, inner.stride(), dtype=inner.dtype, device=META)
    return CardTensor(inner, card.new(inner.untyped_storage().nbytes(), name))


def touched(tensor: CardTensor) -> tuple[Memory, int]:
    """Memory, and how many bytes of it: what is expanded is there once."""
    lengths = (length for length, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not length)
    return tensor.memory, math.prod(lengths) * tensor.itemsize


def note(card: Card, name: str, kind: str, *, reads: Iterable[Tensor], writes: Iterable[Tensor], **cost: Any) -> None:
    card.launch(name, kind, reads=map(touched, reads), writes=map(touched, writes), **cost)


def _cost(name: str, tensors: list[Tensor], outs: list[Tensor]) -> tuple[str, float]:
    """Kind, and floating-point operations."""
    if name == "convolution":
        return "products", 2.0 * outs[0].numel() * tensors[1][0].numel()
    if name in PRODUCTS:
        return "products", 2.0 * outs[0].numel() * tensors[name in ("addmm", "baddbmm")].shape[-1]
    return ("copy" if name in COPIES else "elementwise"), 0.0


# What is special about a card


def _copied_to(card: Card, func, args: tuple, kwargs: dict) -> Tensor:
    """`to` another type or device."""
    source, device = args[0], kwargs.get("device") or args[0].device
    options = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking")}
    if device == META:
        return torch.empty_like(bare(source), dtype=kwargs.get("dtype"), device=META)
    inner = func(bare(source), **options)
    if device.type == "cuda":
        target = placed(card, inner, "a copy")
    else:
        target = torch.zeros(inner.shape, dtype=inner.dtype) if inner.is_meta else inner
    _moved(card, source, target, non_blocking=kwargs.get("non_blocking", False))
    return target


def _copied_into(card: Card, func, args: tuple, kwargs: dict) -> Tensor:
    target, source, *rest = args
    if not (bare(target).is_meta or bare(source).is_meta):
        bare(target).copy_(bare(source))
    _moved(card, source, target, non_blocking=bool(rest and rest[0]) or kwargs.get("non_blocking", False))
    return target


def _moved(card: Card, source: Tensor, target: Tensor, *, non_blocking: bool) -> None:
    """Note a copy. The host waits for one with pageable memory, and for one that changes the type on the way."""
    cast = source.dtype != target.dtype
    if isinstance(source, CardTensor) and isinstance(target, CardTensor):
        note(card, "cast" if cast else "copy", "elementwise" if cast else "copy", reads=[source], writes=[target])
    elif isinstance(target, CardTensor):
        uses = card.locked(source)
        card.launch("to the card", "transfer", writes=[touched(target)], host=uses)
        if uses is None or cast or not non_blocking:
            card.wait_for_stream("a copy to the card")
    elif isinstance(source, CardTensor):
        card.launch("to the host", "transfer", reads=[touched(source)])
        card.wait_for_stream("a copy to the host")


def _number(card: Card, func, args: tuple, kwargs: dict) -> Any:
    """A single number for the host."""
    _moved(card, args[0], torch.empty(()), non_blocking=False)
    inner = args[0].inner
    return inner.new_ones((), device=CPU).item() if inner.is_meta else func(inner)


def _indexed(card: Card, func, args: tuple, kwargs: dict) -> Any:
    """Rows by their indexes, which may lie on the CPU; a mask becomes indexes first, and the host waits for those."""
    name, first, indexes = func._schema.name.partition("::")[2], args[0], list(args[1])
    for place, each in enumerate(indexes):
        if isinstance(each, Tensor) and not isinstance(each, CardTensor):
            indexes[place] = placed(card, each.clone(), "indexes")
            _moved(card, each, indexes[place], non_blocking=False)
        if isinstance(each, Tensor) and each.dtype == torch.bool:
            card.launch("nonzero", "elementwise", kernels=KERNELS["nonzero"])
            card.wait_for_stream(f"{name} by a mask")
    if name == "index":
        return _carried_out(card, func, (first, indexes), kwargs)
    values = args[2]
    _check_devices(name, _tensors((first, indexes, values)))
    if not first.inner.is_meta:
        func(first.inner, [each if each is None else bare(each) for each in indexes], bare(values), *args[3:])
    memory, _ = touched(first)  # of which as much is written as there are values
    card.launch(name, "copy", reads=[touched(values)], writes=[(memory, touched(values)[1])])
    return first


def kernel_of(card: Card, query: Tensor, key: Tensor, *, mask: Tensor | None, causal: bool, grouped: bool) -> str:
    """Which of torch's kernels attends: flash, efficient, or math, which makes the whole matrix of scores."""
    half, width, modern = query.dtype != torch.float32, query.shape[-1], card.model.capability >= (8, 0)
    square = not causal or query.shape[2] == key.shape[2]
    if half and modern and mask is None and square and width % 8 == 0 and width <= 256:
        return "flash"
    taken = modern or query.dtype != torch.bfloat16
    return "efficient" if taken and not grouped and width % (8 if half else 4) == 0 else "math"


def _attention(card: Card, func, args: tuple, kwargs: dict) -> Tensor:
    named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    query, key, value, mask = (named.get(name) for name in ("query", "key", "value", "attn_mask"))
    causal = named.get("is_causal", False)
    given = [each for each in (query, key, value, mask) if each is not None]
    _check_devices("attention", given)
    kernel = kernel_of(card, query, key, mask=mask, causal=causal, grouped=named.get("enable_gqa", False))
    batch, heads, new, width = query.shape
    scores = batch * heads * new * key.shape[2]
    if query.inner.is_meta:
        inner = torch.empty(batch, new, heads, width, dtype=query.dtype, device=META).transpose(1, 2)
    else:
        inner = func(*_bare(card, args, given), **_bare(card, kwargs, given))
    padded = new * -(-key.shape[2] // 8) * 8 * query.itemsize
    scratch = {"flash": 0, "efficient": 0 if mask is None else 2 * padded, "math": 2 * 4 * scores}[kernel]
    card.scratch(4 * batch * heads * new + scratch)
    if kernel == "math":
        card.faults["attention makes the whole matrix of scores"] += 1
    out = placed(card, inner, f"attention ({kernel})")
    flops = 4.0 * scores * width / (2 if causal else 1)
    note(card, f"attention ({kernel})", "attention", reads=given, writes=[out], flops=flops)
    return out


SPECIAL: dict[str, Callable] = {
    "_to_copy": _copied_to,
    "copy_": _copied_into,
    "_local_scalar_dense": _number,
    "index": _indexed,
    "index_put_": _indexed,
    "scaled_dot_product_attention": _attention,
}
