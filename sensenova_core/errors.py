"""What can be wrong with what a caller handed in. Every message names the value and the remedy."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

# How torch and the libraries below it say that memory ran out, where the error has no type of its own.
_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")
# What to do about results that are no numbers.
NOT_FINITE = "try dtype float32 or another attention backend, lower strengths of LoRAs, or check all files for damage"


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
        problem = self.problem or f"is {self.value!r}"
        if self.setting:
            problem = f"{self.subject.replace('{}', named(self.setting) or self.setting)} {problem}"
        hints = [text.replace("{}", name) for setting, text in self.hints.items() if (name := named(setting))]
        return "; ".join(filter(None, (problem, self.remedy, *hints)))

    def __str__(self) -> str:
        return printable(self.in_words())


def printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


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
    if not math.isfinite(number) or not low <= number <= high or number <= over:
        raise SettingsError(setting=name, subject=subject, value=value, remedy=f"give {expected}")


def check_count(name: str, value: object, *, least: int, most: int | None = None) -> None:
    """Raise SettingsError unless `value` is a whole number from `least` (to `most`)."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        expected = f"a whole number from {least}" + ("" if most is None else f" to {most}")
        raise SettingsError(setting=name, value=value, remedy=f"give {expected}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise SettingsError unless `value` is one of the choices."""
    if value not in choices:
        remedy = f"choose one of {', '.join(choices)}"
        raise SettingsError(f"{value!r} is unknown", remedy, setting=name, value=value)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's, torch's or of a device's libraries means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
