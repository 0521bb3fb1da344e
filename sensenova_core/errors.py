"""What can be wrong with what a caller handed in. Every message names the value and the remedy."""

import errno
import math
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

# How torch and the libraries below it say that memory ran out, where the error has no type of its own.
_OUT_OF_SYSTEM_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "annot allocate memory")
_OUT_OF_MEMORY = (
    *_OUT_OF_SYSTEM_MEMORY,
    *("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED"),
)
# What to do about results that are no numbers.
NOT_FINITE = "try dtype float32 or another attention backend, lower strengths of LoRAs, or check all files for damage"


QUOTED = 100  # characters of a value that a message may hold
# What moves a terminal's cursor, or turns the letters around that follow it; line ends and tabs stay.
_UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 4 * QUOTED  # cut further below
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 20
# imported -> installed, where these differ
_PACKAGES = {"PIL": "pillow", "huggingface_hub": "huggingface-hub", "websocket": "websocket-client"}


class SenseNovaError(Exception):
    """Base of every error this package raises on purpose. Its words can be printed anywhere: half a letter of a file's
    name that is no text, which no terminal takes, is written as an escape."""

    def __str__(self) -> str:
        return printable(super().__str__())


class CheckpointError(SenseNovaError):
    """A checkpoint that is missing, damaged or of another architecture."""


class PromptError(SenseNovaError, ValueError):
    """A prompt the model cannot be given."""


class SettingsError(SenseNovaError, ValueError):
    """A setting out of its range, or settings that exclude each other.

    setting: its name in the engine, such as "steps"; "" where no single one is at fault. value: what it was. problem:
    what is wrong, as a sentence goes on after the setting's name; "is <value>" unless given. remedy: what to do.
    subject: what of the setting is meant, such as "an end of {}". hints: setting -> a further remedy, in which {}
    stands for its name, for those who have that setting.
    """

    def __init__(
        self,
        problem: str = "",
        remedy: str = "",
        *,
        setting: str = "",
        value: object = None,
        subject: str = "{}",
        hints: Mapping[str, str] = MappingProxyType({}),
    ):
        self.setting, self.value, self.subject = setting, value, subject
        self.problem, self.remedy, self.hints = problem, remedy, dict(hints)
        super().__init__(problem, remedy)

    def in_words(self, named: Callable[[str], str | None] = lambda setting: setting) -> str:
        """The message, with settings called as `named` calls them; None for one that its reader does not have."""
        problem = self.problem or f"is {quoted(self.value)}"
        if self.setting:
            problem = f"{self.subject.replace('{}', named(self.setting) or self.setting)} {problem}"
        hints = [text.replace("{}", name) for setting, text in self.hints.items() if (name := named(setting))]
        return "; ".join(filter(None, (problem, self.remedy, *hints)))

    def __str__(self) -> str:
        return printable(self.in_words())


def printable(text: str) -> str:
    """The same with escapes for what no terminal prints, or what would change how the rest is shown."""
    return _UNPRINTABLE.sub(lambda letter: ascii(letter[0])[1:-1], text)


def quoted(value: object) -> str:
    """A value as a message shows it: in one line, as Python writes it, and cut after 100 characters."""
    try:
        # Of a text only what may be shown is looked at: it may be megabytes.
        text = repr(value[: QUOTED + 1]) if isinstance(value, str | bytes) else _SHORT.repr(value)
    except Exception:  # a number of too many digits, or another package's class that cannot say what it is
        text = f"a {type(value).__name__}"
    text = printable(" ".join(text.splitlines()))
    return text if len(text) <= QUOTED else text[: QUOTED - 3] + "..."


def plain(value: Any) -> Any:
    """A number of numpy's or a tensor of no axes as Python's own number; those in lists and tuples, which become
    tuples, likewise. Anything else as it is."""
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if isinstance(value, str) or getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (RuntimeError, ValueError, TypeError):  # a tensor without values
        return value


def missing_package(error: ImportError) -> str:
    """What to do where an import has failed, in a sentence."""
    module = (error.name or "").partition(".")[0]
    package = _PACKAGES.get(module, module)
    if not package:
        return f"an import failed ({printable(str(error))[:QUOTED]}); install the requirements again"
    kind = "is missing" if isinstance(error, ModuleNotFoundError) and error.name == module else "is too old or damaged"
    return f"the package {package} {kind}; run {install_line(package)}"


def install_line(package: str) -> str:
    """The command that installs a package for the Python that runs this, ComfyUI's own where that does."""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    alone = " -s" if sys.flags.no_user_site else ""  # as the portable ComfyUI is started: else pip counts a user's own
    return f"{python}{alone} -m pip install --upgrade {package}"


def check_number(
    name: str,
    value: object,
    expected: str,
    *,
    low: float = -math.inf,
    over: float = -math.inf,
    high: float = math.inf,
    subject: str = "{}",
) -> None:
    """Raise SettingsError unless `value` is a finite number in range; `expected` says the range in words.

    low, high: its ends, included; over: a lower end that is not. subject: see SettingsError.
    """
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    try:
        finite = math.isfinite(number)
    except OverflowError:  # of hundreds of digits
        finite = False
    if not finite or not low <= number <= high or number <= over:
        raise SettingsError(setting=name, subject=subject, value=value, remedy=f"give {expected}")


def check_count(name: str, value: object, *, least: int, most: int | None = None) -> None:
    """Raise SettingsError unless `value` is a whole number from `least` (to `most`)."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        expected = f"a whole number from {least}" + ("" if most is None else f" to {most}")
        raise SettingsError(setting=name, value=value, remedy=f"give {expected}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise SettingsError unless `value` is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        remedy = f"choose one of {', '.join(choices)}"
        raise SettingsError(f"{quoted(value)} is unknown", remedy, setting=name, value=value)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's, torch's or of a device's libraries means that memory ran out."""
    if out_of_system_memory(error) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def out_of_system_memory(error: BaseException) -> bool:
    """Whether it was the machine's, and not a card's."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_SYSTEM_MEMORY)


@contextmanager
def memory_in_words(told: Callable[[BaseException], SenseNovaError]) -> Iterator[None]:
    """Raise what `told` makes of an error that means that memory ran out, in its place."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not out_of_memory(error):
            raise
        raise told(error) from None


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
