"""What comes into a node, checked before the node looks at it: a graph over the API may put anything anywhere."""

import inspect
from collections.abc import Callable
from functools import cache, wraps
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..sensenova_core.errors import (
    PromptError,
    SenseNovaError,
    SettingsError,
    missing_package,
    plain,
    quoted,
)
from .progress import own_board
from .sockets import (
    Chat,
    Conditioning,
    Document,
    Model,
    Preset,
    References,
)

Execute = TypeVar("Execute", bound=Callable[..., Any])
# What a parameter is annotated with -> what belongs there.
WANTED: dict[type, str] = {
    Model.Type: "connect the model of a Loader or LoRA node",
    Conditioning.Type: "connect the conditioning of Text Encode or Think",
    References: "connect the images of Image Condition",
    Chat: "connect the history of Understand",
    Preset.Type: "connect the preset of a LoRA node",
    Document.Type: "connect the document of Interleave",
    str: "give text",
    bool: "give true or false",
    int: "give a whole number",
    float: "give a number",
}
UNSEEN: dict[str, Any] = {}  # of a choice that ComfyUI does not know, and leaves out


def checked(execute: Execute) -> Execute:
    """A node's `execute` that is only called with what its parameters are annotated with, numbers of numpy included.

    Raises SettingsError, or PromptError for a text, which name the input and what belongs there; SenseNovaError where a
    package is missing.
    """

    @wraps(execute)
    def door(cls: type, **given: Any) -> Any:
        wanted, needed = _parameters(execute)
        for name in needed - given.keys():
            raise SettingsError(f"{name} is missing", WANTED[wanted[name][0]] if name in wanted else f"connect {name}")
        for name in given.keys() & wanted.keys():
            given[name] = plain(given[name]) if wanted[name][0] in (int, float, bool) else given[name]
            _check(name, given[name], wanted[name])
        try:
            with own_board():
                return execute(cls, **given)
        except ImportError as error:  # of what is only needed now
            raise SenseNovaError(missing_package(error)) from None

    return door  # pyright: ignore[reportReturnType]  # takes what `execute` takes, by name


def check_choice(name: str, value: dict | None) -> str | bool:
    """For `validate_inputs`: whether a choice that has inputs of its own is made on the node. ComfyUI looks at no link
    that stands in its place, and one to nothing would end its worker."""
    return True if value is not None else f"{name} is a link, and cannot be one; choose from its list"


def _check(name: str, value: object, kinds: tuple[type, ...]) -> None:
    right = isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
    if right and (not isinstance(value, bool) or bool in kinds):
        return
    remedy = WANTED[kinds[0]]
    said = "is nothing" if value is None else f"is {quoted(value)}"
    if kinds[0] is str:
        raise PromptError(f"{name} {said}; {remedy}")
    raise SettingsError(f"{name} {said}", remedy)


@cache
def _parameters(execute: Callable) -> tuple[dict[str, tuple[type, ...]], frozenset[str]]:
    """(name -> the types it may have, of those in WANTED; the names that must be there)."""
    hints = get_type_hints(inspect.unwrap(execute))
    parameters = [each for each in inspect.signature(execute).parameters.values() if each.kind != each.VAR_KEYWORD]
    wanted = {each.name: _kinds(hints[each.name]) for each in parameters if each.name in hints}
    needed = (each.name for each in parameters if each.default is each.empty and each.name != "cls")
    return {name: kinds for name, kinds in wanted.items() if kinds[0] in WANTED}, frozenset(needed)


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types of an annotation, `X | None` and `dict[str, X]` included; what is wanted comes first."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for each in get_args(hint) for kind in _kinds(each))
    return (get_origin(hint) or hint,)
