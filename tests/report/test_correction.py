"""What is told of a picture and its revisions."""

import pytest

from sensenova_core import SamplingSettings
from sensenova_core.report.correction import Correction
from sensenova_core.settings import CorrectionSettings, CritiqueSettings
from sensenova_core.writing.document import Drawing, End
from tests.support.watch import saying


def gathered(engine, said: str, *, given: bool = False) -> Correction:
    """What comes of a self-correction in which the model says this; as it stood before the end is checked too."""
    settings = CorrectionSettings(SamplingSettings(32, 32, steps=2), CritiqueSettings(max_tokens=20), rounds=2)
    events = [*engine.self_correct("a star", settings=settings, choose=saying(engine, said))]
    correction = Correction(given=given)
    for event in events:
        if given and isinstance(event, Drawing) and event.index == 0:
            continue
        if isinstance(event, End):
            assert correction.ended == "" and not correction.text().endswith("]")
        correction.add(event)
    return correction


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("<|im_end|>", "Picture 1: [nothing to correct]"),
        (" all right <|im_end|>", "Picture 1: all right [nothing to correct]"),
        ("red<img><|im_end|>", "Picture 1: red [revised]\n\nPicture 2: [nothing to correct]"),
        (
            "a<img>b<img>c<img>",
            "Picture 1: a [revised]\n\nPicture 2: b [revised]\n\nPicture 3: c [it would revise this too; raise rounds]",
        ),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_every_critique_and_what_followed(engine, said, text, given):
    correction = gathered(engine, said, given=given)
    assert correction.text() == text
    assert len(correction.pictures) == len(correction.critiques) - given == text.count("Picture") - given
    assert {tuple(picture.shape) for picture in correction.pictures} <= {(1, 32, 32, 3)}


def test_a_critique_that_was_cut_says_what_to_raise(engine):
    assert gathered(engine, "x" * 200).text().endswith("[cut before it was decided; raise max_tokens]")
