"""The order in which a phase asks for units: pass after pass in the same order, and then what the next phase wants."""

from .plan import Phase
from .units import Key


class Passes:
    """The passes of one phase.

    left: how many have not begun; None when nobody knows. following: the units that are wanted after the last of them.
    """

    def __init__(self, expert: str, phase: Phase, following: tuple[Key, ...] = ()):
        self.expert, self.phase, self.following = expert, phase, following
        self.left = phase.passes

    def begin(self) -> None:
        """Count a pass that begins; there may be more of them than were planned."""
        if self.left:
            self.left -= 1

    def distances(self, index: int) -> dict[Key, int]:
        """What is wanted from the unit of that index on, the nearest first; each with how many units come before it.

        The rest of this pass, and then once around, or what follows after the last pass. What is missing here is not
        wanted again, as far as the plan tells.
        """
        stop = max(len(self.phase.unit_bytes), index + 1)  # a unit that was not planned is wanted all the same
        rest = [(self.expert, later) for later in range(index, stop)]
        again = [(self.expert, earlier) for earlier in range(index)]
        return {key: ahead for ahead, key in enumerate([*rest, *(self.following if self.left == 0 else again)])}
