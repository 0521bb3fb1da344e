"""What is known to be done before what: a clock for every actor, a stream of the card or a thread of the host."""

from collections import Counter
from math import inf

Seen = dict[str, int]  # actor -> how many pieces of its work are known to be done
Work = tuple[str, str]  # what is done, and where in the engine
Part = tuple[float, float]
WHOLE = (0.0, inf)


class Uses:
    """Of one piece of memory: the last use by each actor, reading and writing apart, and each part of it apart. A part:
    the first byte, and the one after the last. Memory of the card is used whole."""

    def __init__(self, name: str, nbytes: int):
        self.name, self.nbytes = name, nbytes
        self.last: dict[tuple[str, bool, Part], tuple[int, Work]] = {}  # (actor, writes, part) -> when, and what it did

    def unknown_to(self, seen: Seen, *, part: Part = WHOLE, reads_too: bool) -> list[str]:
        """Uses of a part that are not known to be done: all of them, or those that write."""
        return [
            in_words(what, actor)
            for (actor, wrote, (start, end)), (tick, what) in self.last.items()
            if tick > seen.get(actor, 0) and (wrote or reads_too) and start < part[1] and part[0] < end
        ]


class Order:
    """races: pairs of uses of one piece of memory, one of them writing, of which neither is known to come first."""

    def __init__(self):
        self.clocks: dict[str, Seen] = {}
        self.races: Counter[str] = Counter()

    def clock(self, actor: str) -> Seen:
        return self.clocks.setdefault(actor, {actor: 0})

    def tick(self, actor: str) -> int:
        """Another piece of work of an actor; its number."""
        clock = self.clock(actor)
        clock[actor] += 1
        return clock[actor]

    def learn(self, actor: str, seen: Seen) -> None:
        """Whatever `actor` does from now on comes after all that was seen."""
        clock = self.clock(actor)
        for other, tick in seen.items():
            if tick > clock.get(other, 0):
                clock[other] = tick

    def use(self, uses: Uses, actor: str, what: Work, *, writes: bool, part: Part = WHOLE) -> None:
        """A use by the actor's latest piece of work."""
        clock = self.clock(actor)
        for before in uses.unknown_to(clock, part=part, reads_too=writes):
            self.races[f"{uses.nbytes} bytes of {uses.name}: {before}, and {in_words(what, actor)}"] += 1
        uses.last[actor, writes, part] = (clock[actor], what)

    def end(self, uses: Uses, seen: Seen, what: str) -> None:
        """The memory goes to somebody else, who knows of nothing but what was seen."""
        for before in uses.unknown_to(seen, reads_too=True):
            self.races[f"{uses.nbytes} bytes of {uses.name}: {before}, and {what}"] += 1


def in_words(what: Work, actor: str) -> str:
    return f"{what[0]} at {what[1]} on {actor}"
