"""Reasoning before a picture against the reference implementation: tokens, text, logits, and the picture drawn from it.

A case says which choices were set from outside, so that reasoning ends in each of the three ways.
"""

from types import SimpleNamespace

import pytest
import torch

from sensenova_core.settings import DecodingSettings
from tests.support.golden_run import BRANCHES, drawn_case
from tests.support.golden_set import Forced, cases, images, relative_error

PICTURE = 1e-4  # worst measured: 5.7e-6
COMPONENT = 1e-5
OURS = {theirs: ours for ours, theirs in BRANCHES.items()}
CASES = [case for kind in ("t2i", "edit") for case in cases(kind) if case["params"]["think_mode"]]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case["name"])
def thought(request, engines) -> SimpleNamespace:
    """One case thought and drawn. tokens: those that entered the context."""
    case = request.param
    engine, forced, pieces = engines(case["checkpoint"]), Forced(case["think"]["forced_tokens"]), []
    asked = engine.encode(case["prompt"], images(case) if "images" in case else ())
    settings = DecodingSettings(max_tokens=case["params"]["max_think_tokens"])
    for thought in engine.think(asked, settings, forced):
        pieces.append(thought.piece)
    conditioning = thought.conditioning
    limit, turn_end = settings.max_tokens, engine.tokenizer.ids["<|im_end|>"]
    tokens = [token for token in case["think"]["tokens_used"][:limit] if token != turn_end]
    drawn = drawn_case(engine, case, conditioning)
    return SimpleNamespace(**vars(drawn), asked=asked, pieces=pieces, forced=forced, tokens=tokens)


def test_every_ending_is_covered():
    """In the whole set; the selection holds one that closes its reasoning."""
    endings = {case["think"]["tokens_used"][-1] for case in CASES}
    assert 508 in endings and (len(CASES) < 3 or len(endings) > 2)


def test_what_is_read_before_reasoning(thought):
    sequence = thought.engine.prompts.thinking(thought.asked)
    assert sequence.ids.tolist() == thought.golden["input_ids_cond"].tolist()
    assert sequence.positions.tolist() == thought.golden["indexes_cond"].tolist()


def test_other_branches_see_no_reasoning(thought):
    others = [name for name in ("uncond", "img_cond") if f"input_ids_{name}" in thought.golden]
    for theirs in others:
        sequence = thought.conditioning.sequences[OURS[theirs]]
        assert sequence.ids.tolist() == thought.golden[f"input_ids_{theirs}"].tolist()
        assert sequence.positions.tolist() == thought.golden[f"indexes_{theirs}"].tolist()
        assert sequence.last_t + 1 == thought.golden[f"image_indexes_{theirs}"][0, 0]
    assert len(others) == (thought.settings["cfg"] > 1)


def test_choices(thought):
    steps = thought.case["think"]["decode_steps"]
    assert thought.forced.natural == [step["natural"] for step in steps[: len(thought.forced.natural)]]
    assert len(steps) - len(thought.forced.natural) in (0, 1)  # the one after the limit is not asked for


def test_logits(thought):
    ours = torch.stack(thought.forced.logits)
    assert relative_error(ours, thought.golden["decode_logits"][: len(ours)]) < COMPONENT


def test_tokens_and_positions_after_reasoning(thought):
    appended, sequence = thought.case["think"]["appended_after_think"], thought.conditioning.sequences["condition"]
    expected = [*thought.golden["input_ids_cond"].tolist(), *thought.tokens, *appended["ids"]]
    assert sequence.ids.tolist() == expected
    assert int(sequence.positions[0, -len(appended["ids"])]) == appended["first_t_index"]
    assert sequence.last_t == appended["last_t_index"]
    assert thought.golden["image_indexes_cond"][0, 0] == sequence.last_t + 1


def test_text(thought):
    assert thought.conditioning.think_text == thought.case["expected"]["think_text"]
    assert "".join(thought.pieces) == thought.conditioning.think_text


def test_image(thought):
    assert relative_error(thought.steps[-1].pixels(), thought.golden["image"]) < PICTURE
