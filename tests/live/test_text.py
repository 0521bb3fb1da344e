"""What the model writes, on a real server: shown while it comes, cached, cut, interrupted, and carried on."""

from itertools import pairwise

import pytest

from sensenova_core.memory.plan_text import IN_PLACE
from tests.live.client import Client, Run
from tests.live.workflows import changed, node_id, sampled, tiny

TOKENS = 1000
TALKATIVE = {"checkpoint": "talkative"}
THINK = tiny("think", Loader=TALKATIVE, Think={"max_tokens": TOKENS})
ASK = tiny("understand", Loader=TALKATIVE, Understand={"max_tokens": TOKENS} | sampled(seed=1))
CHAT = tiny("chat_two_turns", Loader=TALKATIVE, Understand=sampled(seed=1))
WRITERS = {"Think": THINK, "Understand": ASK}
ENDLESS = {"max_tokens": 20_000}
STOPS_IN = 3  # seconds, on a busy machine; the whole runs take more than ten times as long


@pytest.fixture(scope="module", params=WRITERS)
def written(request, server) -> tuple[str, Run]:
    """A writing node's id, and a run in which it writes much."""
    with Client(server.url) as client:
        return node_id(WRITERS[request.param], request.param), client.run(WRITERS[request.param])


def test_text_grows_on_the_node(written):
    node, run = written
    plan, *texts = run.texts(node)
    assert plan == IN_PLACE
    assert len(set(texts)) >= 3
    for one, other in pairwise(texts):
        assert other.startswith(one)


def test_all_of_it_is_handed_on(written):
    node, run = written
    [text] = run.outputs[_preview(run)]["text"]
    assert run.texts(node)[-1].strip().startswith(text.strip())


def test_progress_counts_tokens(written):
    node, run = written
    values = [data["value"] for data in run.of("progress", node)]
    assert values == sorted(values)
    assert values[-1] == TOKENS
    assert {data["max"] for data in run.of("progress", node)} == {TOKENS}


def test_answer_cut_by_the_limit_says_so_on_the_node(client):
    run = client.run(changed(ASK, Understand={"max_tokens": 30}))
    answer, said = _text(run), run.texts(node_id(ASK, "Understand"))[-1].strip()
    assert said.startswith(answer)
    assert "[cut by max_tokens" in said.removeprefix(answer)


def test_answer_that_ended_says_nothing(client):
    run = client.run(changed(ASK, Loader={"checkpoint": "brief"}))
    assert run.texts(node_id(ASK, "Understand"))[-1] == _text(run)


def test_reasoning_may_be_empty(client):
    run = client.run(changed(THINK, Loader={"checkpoint": "brief"}))
    assert run.outcome == "execution_success", run.error
    assert _text(run) == ""


def test_reasoning_that_new_reasoning_replaces_is_warned_of(client):
    node = node_id(THINK, "Think")
    run = client.run(changed(THINK, TextEncode={"thinking": "because"}, Think={"max_tokens": 30}))
    assert run.outcome == "execution_success", run.error
    first, _, *_, last = run.texts(node)
    assert first.startswith("Warning: the conditioning has reasoning already") and last.startswith(first)
    assert _text(run).strip() in last and "Warning" not in _text(run)
    fresh = client.run(changed(THINK, Think={"max_tokens": 30}))
    assert not any("Warning" in text for text in fresh.texts(node))


def test_another_seed_draws_by_the_same_reasoning(client):
    client.run(THINK)
    run = client.run(changed(THINK, FlowMatchSampler={"seed": 7}))
    assert run.executed == [node_id(THINK, "FlowMatchSampler"), node_id(THINK, "SaveImage")]


def test_other_reasoning_draws_another_picture(client):
    runs = [client.run(changed(THINK, Think={"max_tokens": 30} | sampled(seed))) for seed in (1, 2)]
    assert _text(runs[0]) != _text(runs[1])
    assert _picture(client, THINK, runs[0]) != _picture(client, THINK, runs[1])


def test_edited_reasoning_is_drawn_by(client):
    edited = tiny("think_edited")
    one = client.run(edited)
    other = client.run(changed(edited, PrimitiveStringMultiline={"value": "A moon instead of a sun."}))
    assert other.executed == [node_id(edited, name) for name in ("PrimitiveStringMultiline", "TextEncode")] + [
        node_id(edited, name) for name in ("FlowMatchSampler", "SaveImage")
    ]
    assert _picture(client, edited, one) != _picture(client, edited, other)


def test_second_question_goes_on_from_the_first(client):
    first, _, second, answer = list(CHAT)[3:]
    client.run(CHAT)
    run = client.run(_asking(second, "And who took it?"))
    assert run.executed == [second, answer]
    elsewhere = client.run(_asking(first, "What is far away?"))
    assert elsewhere.executed[-1] == answer
    assert elsewhere.outputs[answer]["text"] != client.run(CHAT).outputs[answer]["text"]


@pytest.mark.parametrize("writer", WRITERS)
def test_interruption_while_writing(client, writer):
    node, short = node_id(WRITERS[writer], writer), changed(WRITERS[writer], **{writer: {"max_tokens": 30}})
    before = _text(client.run(short))
    long = changed(short, **{writer: ENDLESS})
    run, _, seconds = client.interrupted(long, lambda message: message.type == "progress_text")
    [interruption] = run.of("execution_interrupted")
    assert interruption["node_id"] == node
    assert seconds < STOPS_IN

    after = _text(client.run(changed(short, **{writer: {"max_tokens": 31}})))
    assert after.startswith(before)


def _asking(node: str, question: str) -> dict:
    asked = changed(CHAT)
    asked[node]["inputs"]["question"] = question
    return asked


def _preview(run: Run) -> str:
    return next(id for id, output in run.outputs.items() if "text" in output)


def _text(run: Run) -> str:
    return run.outputs[_preview(run)]["text"][0]


def _picture(client: Client, workflow: dict, run: Run) -> bytes:
    return client.images(run, node_id(workflow, "SaveImage"))[0].tobytes()
