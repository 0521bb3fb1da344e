"""A plan as a picture: what lies on the card in each phase, what in system memory, and how much there is to use."""

from collections.abc import Sequence

from PIL import Image

from ..memory import Plan, in_words
from ..memory.forecast import Forecast, InPlace
from .bars import Bar, Chart, Piece, picture

STAYS, STREAMS, OTHER, WORK = "#4C78A8", "#72B7B2", "#54A24B", "#F58518"
READY, FIXED, LOCKED, FILES, LIBRARIES = "#EECA3B", "#9D755D", "#B279A2", "#BAB0AC", "#FF9DA6"


def forecast_picture(forecasts: Sequence[Forecast]) -> Image.Image:
    """Of runs one after the other."""
    made = ((each.task, each.plan) for each in forecasts)
    return picture(
        [
            chart
            for task, plan in made
            for chart in (charts_in_place(task, plan) if isinstance(plan, InPlace) else charts_of(plan))
        ]
    )


def charts_of(plan: Plan) -> list[Chart]:
    """Bytes: a bar of the card for each phase, and one of system memory, which has a scale of its own."""
    limit = None if plan.limits.device is None else (float(plan.limits.device), "to use:")
    bars = []
    for phase in plan.phases.values():
        pieces = (
            Piece(f"{len(phase.resident)} parts that stay", len(phase.resident) * phase.slot_bytes, STAYS),
            Piece(f"{phase.ring} buffers to stream through", phase.ring * phase.slot_bytes, STREAMS),
            Piece("the other expert", phase.other_expert_units * phase.other_slot_bytes, OTHER),
            Piece("one layer made ready", phase.unpacking_bytes, READY),
            Piece("small weights", phase.fixed_bytes, FIXED),
            Piece("the task itself", phase.activation_bytes, WORK),
            Piece("libraries", phase.library_bytes, LIBRARIES),
        )
        bars.append(Bar(f"{phase.name}, on the card", _some(pieces), limit))
    locked = plan.page_locked_bytes - plan.staging
    pieces = (Piece("parts kept page-locked", locked, LOCKED), Piece("buffers to read files", plan.staging, STREAMS))
    system = Bar("page-locked, in system memory", _some(pieces), (float(plan.system_free), "free:"))
    return [Chart(plan.task, tuple(bars), _bytes), Chart("", (system,), _bytes)]


def charts_in_place(task: str, made: InPlace) -> list[Chart]:
    """Bytes of a model that runs where it lies: of system memory, and of its files."""
    pieces = (Piece("the task itself", made.work, WORK), Piece("one layer made ready", made.unpacking, READY))
    free = None if made.free is None else (float(made.free), "free:")
    files = Bar("weights, read where they lie", (Piece("in their files", made.stored, FILES),))
    return [Chart(task, (Bar("system memory", _some(pieces), free),), _bytes), Chart("", (files,), _bytes)]


def _bytes(amount: float) -> str:
    return in_words(round(amount))


def _some(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    return tuple(piece for piece in pieces if piece.amount)
