"""A token as one graph: the numbers of the plain way, wherever text is written, and what ends a graph."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch

import sensenova_core
from sensenova_core import DecodingSettings, Engine, Guidance, Message, SamplingSettings
from sensenova_core.model.attention import BLOCK_TOKENS
from sensenova_core.model.capture import again, capture_on
from sensenova_core.settings import DocumentSettings
from sensenova_core.writing import pen
from sensenova_core.writing.document import Drawing
from sensenova_core.writing.token_graph import TokenGraph
from tests.support.golden_set import checkpoint, relative_error
from tests.support.instructions import few_instructions  # noqa: F401  # for all tests here
from tests.support.loras import matrices, write_lora
from tests.support.pictures import picture
from tests.support.recorded import Recording
from tests.support.watch import last_of, saying, thought_through

TOLERANCE = 1e-5


class Heard:
    """Chooses given tokens, or the likeliest, and remembers the logits that it chose from."""

    def __init__(self, told: Callable[[int], int] | None = None):
        self.told, self.logits = told, []

    def __call__(self, logits: torch.Tensor, chosen: list[int]) -> int:
        self.logits.append(logits)
        return int(logits.argmax()) if self.told is None else self.told(len(chosen))


def letters(index: int) -> int:
    return 32 + index % 90


def asked(engine: Engine, tokens: int, question: object = "what is it?", images=(), **how) -> torch.Tensor:
    """The logits that each token of an answer was chosen from."""
    heard = Heard(**{"told": letters} | how)
    list(engine.understand(question, images, settings=DecodingSettings(tokens), choose=heard))
    return torch.stack(heard.logits)


def engine_of(name: str = "tiny-u15", capture=None, **settings) -> Engine:
    engine = sensenova_core.load(checkpoint(name), **settings)
    engine.reader.capture = capture
    return engine


@pytest.mark.parametrize("settings", [{}, {"vram_mode": "full", "max_memory": "64GiB"}], ids=["in place", "in buffers"])
def test_an_answer_over_the_ends_of_blocks(settings):
    recording = Recording()
    plain = asked(engine_of(**settings), BLOCK_TOKENS + 40)
    assert relative_error(asked(engine_of(capture=recording, **settings), BLOCK_TOKENS + 40), plain) < TOLERANCE
    assert recording.captured == 2
    # But the first few, one at the end of a block, and those that were tried.
    assert recording.replays - 2 == BLOCK_TOKENS + 40 - pen.ENOUGH - 1


def test_the_plain_form_is_the_work_itself():
    plain = asked(engine_of(), 30)
    assert relative_error(asked(engine_of(capture=again), 30), plain) < TOLERANCE


def test_bfloat16_within_its_noise():
    """Tiny models' logits move by a few percent where sums are rounded otherwise."""
    recording = Recording()
    plain = asked(engine_of(dtype="bfloat16"), 40)
    assert relative_error(asked(engine_of(capture=recording, dtype="bfloat16"), 40), plain) < 0.05
    assert recording.replays > 30


def test_a_conversation_with_images_goes_on():
    recording = Recording()
    first = [Message("user", "<image> what is it?")]
    second = [*first, Message("assistant", "".join(map(chr, map(letters, range(30))))), Message("user", "<image> and?")]
    told = []
    for engine in (engine_of(), engine_of(capture=recording)):
        images = [picture(64, 64), picture(96, 64)]
        told.append(torch.cat([asked(engine, 30, first, images[:1]), asked(engine, 30, second, images)]))
    assert relative_error(told[1], told[0]) < TOLERANCE
    assert recording.captured == 2


def test_the_likeliest_tokens_and_samples_are_the_same():
    sampled = DecodingSettings(40, sample=True, temperature=1.5, top_k=50, top_p=0.9, repetition_penalty=1.2, seed=3)
    for settings in (DecodingSettings(40), sampled):
        recording = Recording()
        answers = []
        for capture in (None, recording):
            *_, answer = engine_of(capture=capture).understand("what is 2+2?", settings=settings)
            answers.append(answer.ids)
        assert answers[0] == answers[1] and len(answers[0]) == 40
        assert recording.replays > 30


def test_reasoning_and_the_picture_after_it():
    recording = Recording()
    drawn = []
    for capture in (None, recording):
        engine = engine_of(capture=capture)
        asked_for = engine.encode("a red circle")
        thought = thought_through(engine.think(asked_for, DecodingSettings(30), choose=Heard(letters)))
        drawn.append(last_of(engine.sample(thought, width=64, height=64, steps=2)))
    assert relative_error(drawn[1], drawn[0]) < 1e-4 and not torch.equal(*drawn)
    assert recording.replays == 30 - pen.ENOUGH + 1


def test_a_document_with_two_growing_branches():
    """Text, a picture that is read into both, and text again, which another graph writes."""
    text = "a" * 20 + "<img>" + "b" * 20 + "<img>" + "c" * 20 + "<|im_end|>"
    settings = DocumentSettings(SamplingSettings(64, 32, 2, Guidance(4.0, 2.0)), sizes=((64, 32),), system="")
    recording = Recording()
    drawn = []
    for capture in (None, recording):
        engine = engine_of(capture=capture)
        events = engine.interleave("a tale", [picture(64, 64)], settings=settings, choose=saying(engine, text))
        drawn.append([event.step.pixels() for event in events if isinstance(event, Drawing)])
    assert len(drawn[0]) == 4
    assert all(relative_error(new, old) < 1e-4 for new, old in zip(drawn[1], drawn[0], strict=True))
    assert recording.captured == 3


def test_loras_on_and_off_between_runs(tmp_path):
    """With one, layers are made ready for every pass, and none is captured; without it they lie as before."""
    path = tmp_path / "lora.safetensors"
    write_lora(path, matrices(checkpoint("tiny-u15"), lambda name: "layers" in name), 0)
    told, recording = [], Recording()
    for capture in (None, recording):
        engine = engine_of(capture=capture, vram_mode="full", max_memory="64GiB")
        for loras in ((), ((path, 0.5),), ()):
            engine.use_loras(loras)
            engine.remembered.forget()
            told.append(asked(engine, 20))
    assert relative_error(torch.cat(told[3:]), torch.cat(told[:3])) < TOLERANCE
    assert not torch.equal(told[0], told[1]) and torch.equal(told[0], told[2])
    assert recording.captured == 2


def test_memory_that_is_given_back_between_tokens():
    """Layers come to other buffers then: what was captured before is not replayed."""
    plain, recording = asked(engine_of(), 40), Recording()
    engine = engine_of(capture=recording, vram_mode="full", max_memory="64GiB")

    def told(index: int) -> int:
        if index in (15, 25):
            engine.memory.residency.shrink(engine.memory.sizes.slot)
        return letters(index)

    assert relative_error(asked(engine, 40, told=told), plain) < TOLERANCE
    assert recording.captured >= 2


def test_weights_that_were_placed_anew_end_a_graph():
    engine = engine_of(capture=again, vram_mode="full", max_memory="64GiB")
    states = []

    def told(index: int) -> int:
        states.append(engine.memory.residency.at_rest)
        if index == 12:
            engine.memory.residency.fixed.place(engine.device)
        return letters(index)

    asked(engine, 20, told=told)
    assert states[11] is not None and states[11] != states[13] and states[13] == states[19]


@pytest.mark.parametrize("mode", ["balanced", "low"])
def test_layers_that_stream_are_not_captured(mode):
    recording = Recording()
    engine = engine_of(capture=recording, vram_mode=mode)
    assert torch.equal(asked(engine, 20), asked(engine_of(vram_mode=mode), 20))
    assert recording.captured == 0 and engine.memory.residency.at_rest is None


def test_mixtures_are_not_captured():
    recording = Recording()
    assert torch.equal(asked(engine_of("tiny-a3b", recording), 20), asked(engine_of("tiny-a3b"), 20))
    assert recording.captured == 0


def refused(work):
    raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors")


def nothing(work):
    return lambda: None


def test_what_cannot_be_captured_is_written_plainly(caplog):
    engine = engine_of(capture=refused)
    assert torch.equal(asked(engine, 20), asked(engine_of(), 20))
    assert engine.reader.capture is None
    assert [record.message for record in caplog.records].count(caplog.messages[0]) == 1
    assert "operation not permitted" in caplog.messages[0] and "\n" not in caplog.messages[0]


def test_a_graph_that_is_wrong_writes_nothing(monkeypatch, caplog):
    made = TokenGraph.capture
    monkeypatch.setattr(TokenGraph, "capture", lambda graph, capture: (made(graph, capture), graph.logits.zero_()))
    engine = engine_of(capture=nothing)
    assert torch.equal(asked(engine, 20), asked(engine_of(), 20))
    assert engine.reader.capture is None and "something else" in caplog.text


def test_logits_that_somebody_keeps_do_not_change():
    engine, seen = engine_of(capture=again), []

    def choose(logits, chosen):
        seen.append((logits, logits.clone()))
        return letters(len(chosen))

    list(engine.understand("what?", settings=DecodingSettings(20), choose=choose))
    assert all(torch.equal(*pair) for pair in seen)


def test_nothing_of_a_graph_stays_after_a_run(monkeypatch):
    engine, made, begin = engine_of(capture=Recording()), [], TokenGraph.__init__

    def noted(graph, *args):
        begin(graph, *args)
        made.append(weakref.ref(graph))

    monkeypatch.setattr(TokenGraph, "__init__", noted)
    asked(engine, 20)
    gc.collect()
    assert made and all(graph() is None for graph in made)


def test_only_cards_capture(monkeypatch):
    assert capture_on(torch.device("cpu")) is None and engine_of().activations.captured == 0
    monkeypatch.setattr("sensenova_core.engine.capture_on", lambda device: again)
    captures, eager = (sensenova_core.load(checkpoint("tiny-u15"), enforce_eager=off) for off in (False, True))
    assert captures.reader.capture is again and eager.reader.capture is None
    assert captures.activations.captured > eager.activations.captured == 0
    tasks = [engine.writing_task(10, 10).reading.activations for engine in (captures, eager)]
    assert tasks[0] - tasks[1] == captures.activations.captured
