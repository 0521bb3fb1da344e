"""Answers about images and text against the reference implementation."""

from types import SimpleNamespace

import pytest
import torch

from sensenova_core.reading.prompt import Message
from sensenova_core.settings import DecodingSettings
from tests.support.golden_set import Forced, cases, images, relative_error, tensors

COMPONENT = 1e-5


def having(tensor: str):
    """Only the cases that hold this tensor."""
    chosen = [case for case in cases("chat") if tensor in case["tensors"]]
    return pytest.mark.parametrize("answered", chosen, indirect=True, ids=lambda case: case["name"])


def conversation(case) -> list[Message]:
    pairs = [message for pair in case["history"] or [] for message in zip(("user", "assistant"), pair, strict=True)]
    return [Message(role, text) for role, text in [*pairs, ("user", case["question"])]]


@pytest.fixture(scope="module", params=cases("chat"), ids=lambda case: case["name"])
def answered(request, engines) -> SimpleNamespace:
    case = request.param
    engine, greedy = engines(case["checkpoint"]), Forced({})
    engine.remembered.forget()  # other cases begin the same
    asked = engine.conversation(conversation(case), images(case))
    settings = DecodingSettings(max_tokens=case["params"]["max_new_tokens"])
    answers = list(engine.understand(asked, settings=settings, choose=greedy))
    return SimpleNamespace(
        case=case, golden=tensors(case), engine=engine, asked=asked, answers=answers, logits=torch.stack(greedy.logits)
    )


def test_ids_and_positions(answered):
    assert answered.asked.ids.tolist() == answered.golden["input_ids"].tolist()
    assert answered.asked.positions.tolist() == answered.golden["indexes"].tolist()
    grids = [[2 * image.grid.rows, 2 * image.grid.columns] for image in answered.asked.images]  # in patches
    assert grids == answered.case["grid_hw"]


@having("vit_embeds")
def test_embedded_images(answered):
    with torch.inference_mode():
        ours = torch.cat([answered.engine.reader.embed(image) for image in answered.asked.images])
    assert relative_error(ours[answered.golden["vit_embeds_rows"].long()], answered.golden["vit_embeds"]) < COMPONENT


def test_logits(answered):
    assert relative_error(answered.logits[0], answered.golden["prefill_last_logits"]) < COMPONENT
    assert relative_error(answered.logits, answered.golden["step_logits"][: len(answered.logits)]) < COMPONENT


def test_answer(answered):
    last, expected = answered.answers[-1], answered.golden["generated_ids"].tolist()
    turn_end = answered.engine.tokenizer.ids["<|im_end|>"]
    assert [*last.ids, turn_end] == expected if expected[-1] == turn_end else list(last.ids) == expected
    assert last.text == answered.case["expected"]["response"]
    assert last.ended == ("end" if expected[-1] == turn_end else "cut")


def test_answers_grow(answered):
    assert [len(answer.ids) for answer in answered.answers[:-1]] == list(range(1, len(answered.answers)))
    assert "".join(answer.piece for answer in answered.answers).strip() == answered.answers[-1].text
