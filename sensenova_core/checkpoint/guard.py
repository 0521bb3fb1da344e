"""Reading mapped files that may shrink: what is missing reads as zeros and is told afterwards, where the system would
end the process (SIGBUS).

No check beforehand could do, for a file may be truncated in the middle of a product. So the signal is handled: the
thread that stumbled gets an empty page in the place of the missing one, and goes on. It stands in a kernel of torch,
which has let go of the interpreter. Only on Linux; Windows refuses to truncate what is mapped.
"""

import ctypes
import mmap
import signal
import sys

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_SIGINFO = 4  # SA_SIGINFO
_ADDRESS = 16  # where siginfo_t has the address, of 64-bit systems
_PRIVATE_FIXED_ANONYMOUS = 0x32


class _Action(ctypes.Structure):
    """sigaction(2)."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class Guarded:
    """A stretch of mapped memory. lost: whether a page of it was missing when it was read."""

    def __init__(self, address: int, size: int):
        self.address = address
        self.size = size
        self.lost = False
        if size and _guard is not None:
            _guard.install()
            _guard.stretches[address] = self

    def close(self) -> None:
        if _guard is not None and _guard.stretches.get(self.address) is self:
            del _guard.stretches[self.address]


class _Guard:
    """The handler of the process. What it has no stretch for is left to the handler before it."""

    def __init__(self):
        self.stretches: dict[int, Guarded] = {}
        self._library = ctypes.CDLL(None)
        self._library.mmap.restype = ctypes.c_void_p
        self._library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        self._before = _Action()
        self._own = _HANDLER(self._handle)

    def install(self) -> None:
        """Unless it is there, or others have taken its place since."""
        present = _Action()
        own = ctypes.cast(self._own, ctypes.c_void_p).value
        self._library.sigaction(signal.SIGBUS, None, ctypes.byref(present))
        if present.handler != own:
            self._before = present
            action = _Action(handler=own, flags=_SIGINFO)
            self._library.sigaction(signal.SIGBUS, ctypes.byref(action), None)

    def _handle(self, number: int, information: int, context: int) -> None:
        address = ctypes.c_void_p.from_address(information + _ADDRESS).value or 0
        for first, stretch in list(self.stretches.items()):
            end = -(-(first + stretch.size) // mmap.PAGESIZE) * mmap.PAGESIZE
            if first <= address < end:
                stretch.lost = True
                page = address // mmap.PAGESIZE * mmap.PAGESIZE
                rights = mmap.PROT_READ | mmap.PROT_WRITE
                self._library.mmap(page, end - page, rights, _PRIVATE_FIXED_ANONYMOUS, -1, 0)
                return
        self._library.sigaction(number, ctypes.byref(self._before), None)  # who is asked when this returns


_guard = _Guard() if sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8 else None
