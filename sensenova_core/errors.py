"""What can be wrong with what a caller handed in. Every message names the value and the remedy."""

import math

# How torch and the libraries below it say that memory ran out, where the error has no type of its own.
_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")
# What to do about results that are no numbers.
NOT_FINITE = "try dtype float32 or another attention backend, lower strengths of LoRAs, or check all files for damage"


class SenseNovaError(Exception):
    """Base of every error this package raises on purpose."""


class CheckpointError(SenseNovaError):
    """A checkpoint that is missing, damaged or of another architecture."""


class PromptError(SenseNovaError, ValueError):
    """A prompt the model cannot be given."""


class SettingsError(SenseNovaError, ValueError):
    """A setting out of its range."""


def check_number(name: str, value: object, expected: str, low: float = -math.inf, over: float = -math.inf) -> None:
    """Raise SettingsError unless `value` is a finite number from `low` and over `over`; `expected` says so in words."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < low or value <= over:
        raise SettingsError(f"{name} is {value!r}; give {expected}")


def check_count(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise SettingsError unless `value` is a whole number from `least` (to `most`)."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        raise SettingsError(
            f"{name} is {value!r}; give a whole number from {least}{'' if most is None else f' to {most}'}"
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python's, torch's or of a device's libraries means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
