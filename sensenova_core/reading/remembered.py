"""What has been read and would have to be read again, until its memory is wanted."""

from collections import OrderedDict
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from .prefix import Context, Prefix
from .prompt import TokenSequence

PREFIX_CACHE_BYTES = 2 * 2**30  # a 2048 x 2048 reference of the 8B models takes 0.7 GB
EMBEDDING_CACHE_BYTES = 2**28  # the same reference as embedded tokens takes 34 MB


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


class RecentlyUsed(Generic[Value]):
    """The most recently used results, by what they were made from. Dropped whole by its owner when memory is wanted."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self._values: OrderedDict[str, Value] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Value | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: str, value: Value, needed: Collection[str] = ()) -> None:
        """Add `value`, forgetting the least recently used while there is more than the limit.

        needed: keys that are used together with this one, and stay whatever the limit.
        """
        self._values[key] = value
        self._values.move_to_end(key)
        self.trim(self.limit_bytes, (key, *needed))

    def trim(self, limit_bytes: int, needed: Collection[str]) -> None:
        """Forget the least recently used, but none of those needed, while there is more than a limit of all."""
        for other in [other for other in self._values if other not in needed]:
            if self.nbytes <= limit_bytes:
                return
            del self._values[other]

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in list(self._values.values()))  # others may be added meanwhile

    def nbytes_of(self, keys: Collection[str]) -> int:
        """Of those of the keys that are there."""
        return sum(self._values[key].nbytes for key in set(keys) & self._values.keys())

    def clear(self) -> None:
        self._values.clear()


class Remembered:
    """By content: prefixes and embedded images; and the last conversation, which its next turn goes on from."""

    def __init__(self):
        self.prefixes: RecentlyUsed[Prefix] = RecentlyUsed(PREFIX_CACHE_BYTES)
        self.embeddings: RecentlyUsed[Tensor] = RecentlyUsed(EMBEDDING_CACHE_BYTES)
        self.conversation: tuple[TokenSequence, Context] | None = None

    @property
    def nbytes(self) -> int:
        return self.prefixes.nbytes + self.embeddings.nbytes + self._conversation_bytes

    @property
    def _conversation_bytes(self) -> int:
        conversation = self.conversation
        return 0 if conversation is None else conversation[1].nbytes

    def trim(self, limit: int, needed: Collection[str], *, conversation: bool) -> None:
        """Forget what a run does not need until no more than so many bytes are left beside what it does.

        needed: keys of prefixes. conversation: whether the run may go on with the one that is remembered.
        """
        if not conversation:
            if self._conversation_bytes > limit:
                self.conversation = None
            limit -= self._conversation_bytes
        self.embeddings.trim(limit, ())
        limit -= self.embeddings.nbytes
        self.prefixes.trim(min(limit + self.prefixes.nbytes_of(needed), PREFIX_CACHE_BYTES), needed)

    def forget(self) -> None:
        self.prefixes.clear()
        self.embeddings.clear()
        self.conversation = None
