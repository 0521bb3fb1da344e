"""Whether the tensors of a checkpoint are those of the model that its config describes, and what is wrong in words."""

from collections.abc import Mapping

from ..errors import CheckpointError
from .formats import FORMATS
from .tensors import TensorHeader

_SHOWN = 8  # names listed of each kind of mismatch
_LETTERS = 200  # of each, with what is wrong with it


def check_tensors(expected: Mapping[str, tuple[int, ...]], headers: Mapping[str, TensorHeader], where: str) -> None:
    """Raise one CheckpointError naming every missing, extra, misshapen or unreadable tensor. Reads no weight.

    expected: the shapes of the model's parameters, by their published names. where: the checkpoint, for the message.
    """
    missing = [name for name in expected if name not in headers]
    extra = [name for name in headers if name not in expected]
    misshapen = [
        f"{name} is {list(headers[name].shape)}, the config asks for {list(shape)}"
        for name, shape in expected.items()
        if name in headers and headers[name].shape != shape
    ]
    foreign = [f"{name} is {header.dtype}" for name, header in headers.items() if header.dtype not in FORMATS]
    known = {name: header for name, header in headers.items() if name in expected and header.dtype in FORMATS}
    torn = [
        f"{name} is {header.dtype} in rows of {header.width}, not in whole blocks of {header.format.block}"
        for name, header in known.items()
        if header.width % header.format.block
    ]
    misscaled = [
        f"{name} is {list(header.shape)}, its scale {header.scale.dtype} {list(header.scale.shape)}; readable are one "
        "number, one for each row, or one for each 128 x 128"
        for name, header in known.items()
        if header.scale is not None and not header.scale_fits
    ]
    kinds = {
        "missing": missing,
        "not part of the model": extra,
        "of another shape": misshapen,
        f"of another type than {', '.join(FORMATS)}": foreign,
        "torn": torn,
        "of an unknown scale": misscaled,
    }
    if problems := in_short(kinds):
        raise CheckpointError(
            f"{where}: the tensors do not fit the config (are both from the same checkpoint, and is the download "
            f"complete?): {problems}"
        )


def in_short(problems: Mapping[str, list[str]]) -> str:
    """What is wrong, by kind, each with how many and the first of them; "" for nothing."""
    return "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in problems.items() if names)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:_LETTERS] for name in names[:_SHOWN]) + more
