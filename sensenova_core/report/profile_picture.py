"""A profile as a picture: where the time went, and the plan of the last run."""

from PIL import Image

from ..engine import Engine
from .bars import Bar, Chart, Piece, picture
from .plan_picture import charts_of
from .profile import Profile

COLOURS = {
    "loading": "#9D755D",
    "reading": "#4C78A8",
    "writing": "#54A24B",
    "drawing": "#F58518",
    "everything else": "#BAB0AC",
}
WAITING = "#E45756"


def profile_picture(profile: Profile, engine: Engine) -> Image.Image:
    charts = [time_chart(profile)]
    if (plan := engine.memory.last_plan) is not None:
        charts += charts_of(plan)
    return picture(charts)


def time_chart(profile: Profile) -> Chart:
    """Seconds: of each kind of work a bar, all to one scale, and of copies that were waited for, which are among it."""
    phases = {kind: profile.spent[kind] for kind in ("reading", "writing", "drawing")}
    rest = max(0.0, profile.generation_seconds - sum(phases.values()))
    spent = {"loading": profile.load_seconds, **phases, "everything else": rest}
    bars = [Bar(kind, (Piece(kind, each, COLOURS[kind]),)) for kind, each in spent.items() if each]
    if waiting := profile.spent["waiting"]:
        among = "of these, waiting for copies"
        bars.append(Bar(among, (Piece(among, waiting, WAITING),)))
    heading = f"Where the time went: {in_seconds(profile.generation_seconds)}, and {in_seconds(profile.load_seconds)}"
    return Chart(f"{heading} to load", tuple(bars), in_seconds)


def in_seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"
