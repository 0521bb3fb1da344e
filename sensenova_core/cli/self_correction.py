"""`sensenova generate --self-correct`: the model judges its picture by the prompt and draws it again."""

import sys
from typing import TYPE_CHECKING, Any

from ..errors import SettingsError
from ..settings import CorrectionSettings, CritiqueSettings, DecodingSettings, settings_of
from .jobs import Job
from .models import open_images
from .options import add_settings

if TYPE_CHECKING:
    from ..engine import Engine
    from ..report.correction import Correction
    from ..report.profile import Profile

ENDINGS = {
    "max_rounds": "it would revise this picture too; give --self-correct more rounds",
    "max_tokens": "--max-critique-tokens reached before it was decided",
    "context": "the model's context is full",
}


def add_options(parser) -> None:
    rounds = settings_of(CorrectionSettings)["rounds"]
    parser.add_argument(
        "--self-correct",
        type=int,
        nargs="?",
        const=rounds.default,
        metavar="ROUNDS",
        help="let the model compare its picture with the prompt, and draw it again so often at most while it finds "
        f"something wrong (without a number: {rounds.default}); every picture is saved, the last is the result",
    )
    add_settings(parser, CritiqueSettings, "max_critique_tokens")


def check_options(options) -> None:
    """Raise SettingsError for what contradicts --self-correct."""
    if options.self_correct is not None and options.think:
        raise SettingsError("--self-correct and --think exclude each other; give one of the two")


def settings_for(job: Job, decoding: DecodingSettings) -> CorrectionSettings:
    """Raises SettingsError for a job whose picture cannot be corrected, such as a batch."""
    if job.init_image is not None:
        raise SettingsError("--self-correct begins from noise; leave --init-image out, or --self-correct")
    return CorrectionSettings(job.settings, decoding, job.rounds)


def corrected(engine: "Engine", profile: "Profile", job: Job, *, decoding: DecodingSettings) -> "Correction":
    """Draw a job's picture and its revisions; critiques are printed on standard error while they are written."""
    from ..report.correction import Correction
    from ..report.profile import Watched
    from .events import shown

    budget = job.source.options.max_pixels
    settings = settings_for(job, decoding)
    events = engine.self_correct(job.prompt, open_images(job.paths), settings=settings, max_pixels=budget)
    correction = Correction()
    for event in shown(Watched(events, profile), texts=sys.stderr):
        correction.add(event)
    print(f"\n[{ENDINGS[correction.ended]}]" if correction.ended in ENDINGS else "", file=sys.stderr)
    return correction


def told_of_each(correction: "Correction") -> list[dict[str, Any]]:
    """What the metadata of each picture says: its round, the critique that it follows from, and of the last one what
    the model says of it and why it is the last."""
    told: list[dict[str, Any]] = [{"round": 0}]
    told += [{"round": round, "critique": critique} for round, critique in enumerate(correction.critiques[:-1], 1)]
    told[-1] |= {"last_critique": correction.critiques[-1], "ended": correction.ended}
    return told
