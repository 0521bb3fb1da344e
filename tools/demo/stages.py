"""How training goes on from simple to hard: what scenes, tasks and times there are in each of its parts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

TASKS = ("picture", "think", "conversation", "edit", "merge", "story", "idea", "reading")


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    until: where it ends, as a part of all steps, 0 .. 1. shapes: how often scenes have one, two and three. whole: how
    often captions leave nothing open. tasks: how often each one comes beside text to image, which comes at every step.
    square: whether all pictures are 128 x 128. think: how often a step also reasons before it draws. mean_time: of the
    logit of the times, whose spread is learning.SPREAD_OF_TIME. guided: whether it is the guided picture that is
    learnt, see learning.guided.
    """

    until: float
    shapes: tuple[float, float, float]
    whole: float
    tasks: Mapping[str, float]
    square: bool
    think: float
    mean_time: float
    guided: bool


# Outlines are seen after t = 0.3 and are learnt first; what goes where is decided under 0.15, and takes longest.
UNGUIDED = (
    Stage(
        until=0.25,
        shapes=(1.0, 0.0, 0.0),
        whole=0.8,
        tasks={"conversation": 0.2, "edit": 0.3, "reading": 0.5},
        square=True,
        think=0.0,
        mean_time=-0.6,
        guided=False,
    ),
    Stage(
        until=0.5,
        shapes=(0.6, 0.3, 0.1),
        whole=0.2,
        tasks={"conversation": 0.15, "edit": 0.25, "merge": 0.05, "story": 0.07, "idea": 0.03, "reading": 0.45},
        square=False,
        think=0.25,
        mean_time=-0.6,
        guided=False,
    ),
    Stage(
        until=0.8,
        shapes=(0.3, 0.4, 0.3),
        whole=0.2,
        tasks={"conversation": 0.2, "edit": 0.33, "merge": 0.1, "story": 0.1, "idea": 0.02, "reading": 0.25},
        square=False,
        think=0.25,
        mean_time=-1.6,
        guided=False,
    ),
)
LAST = replace(UNGUIDED[-1], until=1.0, mean_time=-0.4, guided=True)
STAGES = (*UNGUIDED, LAST)


def stage_at(progress: float) -> Stage:
    """progress: 0 .. 1 of all steps."""
    return next((stage for stage in STAGES if progress < stage.until), LAST)
