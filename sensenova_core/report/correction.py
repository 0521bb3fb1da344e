"""A picture, its critiques and its revisions: gathered from the events of a self-correction, and told in words."""

from collections.abc import Mapping

from torch import Tensor

from ..writing.document import Drawing, End, Event, Text

REVISED = "revised"
# Why a self-correction ended -> what that means for its last picture.
DECIDED = {
    "end": "nothing to correct",
    "max_rounds": "it would revise this too; raise rounds",
    "max_tokens": "cut before it was decided; raise max_tokens",
    "context": "cut before it was decided: the model's context is full",
}


class Correction:
    """Grows with the events of a self-correction.

    pictures: those drawn so far, each (1, height, width, 3) in 0 .. 1 in system memory. critiques: what was written of
    each picture, one that was given included. ended: why it ended, "" while it goes on.
    """

    def __init__(self, *, given: bool = False):
        """given: whether it goes on from a picture drawn before."""
        self.pictures: list[Tensor] = []
        self.critiques: list[str] = [""] if given else []
        self.ended = ""

    def add(self, event: Event) -> None:
        if isinstance(event, Text):
            self.critiques[-1] += event.text
        elif isinstance(event, Drawing) and event.step.index + 1 == event.step.total:
            self.pictures.append(event.step.image().cpu())
            self.critiques.append("")
        elif isinstance(event, End):
            self.ended = event.reason

    def text(self, decided: Mapping[str, str] = DECIDED) -> str:
        """Every critique with what followed from it. decided: words for the ends, as DECIDED."""
        told = []
        for number, critique in enumerate(self.critiques, 1):
            follows = REVISED if number < len(self.critiques) else decided.get(self.ended, "")
            told.append(" ".join(filter(None, (f"Picture {number}:", critique.strip(), follows and f"[{follows}]"))))
        return "\n\n".join(told)
