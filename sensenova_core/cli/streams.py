"""Standard streams that may be closed, or whose readers may go away: the work goes on, unheard."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# How systems say that nobody reads any more: pipes, closed descriptors, terminals that were closed; EINVAL is Windows.
GONE = (errno.EPIPE, errno.EBADF, errno.EIO, errno.ENXIO, errno.ECONNRESET, errno.EINVAL, errno.ESHUTDOWN)


class Lasting:
    """A text stream that drops what it cannot write. error: a full disk, say; no reader that has gone."""

    def __init__(self, stream):
        self._stream, self.error = stream, None

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeError:
            raise
        except (OSError, ValueError) as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        """From now on into nothing, with what the stream still holds: else Python fails at it when it exits."""
        if isinstance(error, OSError) and error.errno not in GONE and self.error is None:
            self.error = error
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)
        except (OSError, ValueError, AttributeError):  # it has no descriptor, or is closed
            return


class Streams:
    """Standard output and standard error of a run."""

    def __init__(self, output: Lasting, error: Lasting):
        self.output, self.error = output, error

    def status(self) -> int:
        """1, said on standard error, where standard output has lost something; a reader who has had enough has not."""
        self.output.flush()
        if self.output.error is None:
            return 0
        print(f"sensenova: error: standard output: {self.output.error.strerror}", file=sys.stderr)
        return 1


@contextmanager
def lasting() -> Iterator[Streams]:
    """sys.stdin, stdout and stderr are all there in here, and the latter two fail nobody."""
    _fill_descriptors()
    before = sys.stdin, sys.stdout, sys.stderr
    made = [open(os.devnull, mode, encoding="utf-8") if stream is None else stream  # noqa: SIM115
            for stream, mode in zip(before, "rww", strict=True)]  # fmt: skip
    for stream in made[1:]:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the letters of an answer must not end it
    streams = Streams(Lasting(made[1]), Lasting(made[2]))
    sys.stdin, sys.stdout, sys.stderr = made[0], streams.output, streams.error
    try:
        yield streams
    finally:
        streams.output.flush()
        streams.error.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _fill_descriptors() -> None:
    """Have no file that is opened later get the number of a standard stream that is closed, and its messages."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
