"""What is held between runs, and while a run goes on: the right things, and no more."""

import gc

import pytest
import torch

import sensenova_core
from sensenova_core import DecodingSettings, DocumentSettings, SamplingSettings, SettingsError
from sensenova_core.errors import SenseNovaError
from sensenova_core.settings import Guidance
from tests.support.golden_set import checkpoint
from tests.support.pictures import picture
from tests.support.watch import thought_through


def test_the_prefixes_of_one_edit_stay_together_whatever_their_size(engine, monkeypatch):
    engine.remembered.prefixes.limit_bytes = 1
    conditioning = engine.encode("x", [picture(), picture(seed=1)])
    read = []
    open_all = engine.reader.open_all
    monkeypatch.setattr(engine.reader, "open_all", lambda some: read.extend(some) or open_all(some))
    for seed in (1, 2, 3):
        list(engine.sample(conditioning, width=64, height=64, steps=1, cfg=4, img_cfg=2, seed=seed))
    assert len(read) == 3
    list(engine.sample(engine.encode("y"), width=64, height=64, steps=1))
    assert engine.remembered.prefixes.get(conditioning.sequences["condition"].key) is None


def test_a_document_lets_go_of_what_it_drew_with_before_it_reads_the_picture(engine, monkeypatch):
    image_start, most = engine.tokenizer.ids["<img>"], []
    real = engine.reader.embed_drawn

    def embed_drawn(pixels, grid):
        gc.collect()
        storages = {
            thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes()
            for thing in gc.get_objects()
            if issubclass(type(thing), torch.Tensor)
            and (thing.device.type, thing.layout, thing.dim()) == ("cpu", torch.strided, 4)
        }
        most.append(sum(storages.values()))
        return real(pixels, grid)

    monkeypatch.setattr(engine.reader, "embed_drawn", embed_drawn)
    sampling = SamplingSettings(128, 128, 1, Guidance(4.0, 2.0))
    tokens = iter([image_start] * 4 + [engine.tokenizer.ids["<|im_end|>"]])
    list(engine.interleave("x", (), settings=DocumentSettings(sampling), choose=lambda logits, chosen: next(tokens)))
    drawing = 3 * 2 * 1000 * 32 * 4  # at least: a key and a value buffer for each of three branches
    assert max(most) - min(most) < drawing


def test_a_conditioning_of_another_model_is_refused_by_thinking_too(engines):
    conditioning = engines("tiny-a3b").encode("x")
    for use in (lambda: engines("tiny-u15").think(conditioning), lambda: engines("tiny-u15").sample(conditioning)):
        with pytest.raises(SettingsError, match="encoded for another model; encode it with the model that draws"):
            use()


def test_reasoning_ends_when_the_memory_is_given_back(engine):
    conditioning = engine.encode("x")
    with pytest.raises(SenseNovaError, match="given back during this run"):
        for _ in engine.think(conditioning, DecodingSettings(10)):
            engine.release()
    assert thought_through(engine.think(conditioning, DecodingSettings(2))).think_text is not None


def test_a_model_that_writes_an_image_slot_reads_it_as_text_again_later(engine):
    slot = engine.tokenizer.ids["<IMG_CONTEXT>"]
    tokens = iter([slot, engine.tokenizer.ids["</think>"]])
    thought = thought_through(engine.think(engine.encode("x"), choose=lambda logits, chosen: next(tokens)))
    *_, first = engine.sample(thought, width=64, height=64, steps=1)
    engine.release()
    *_, again = engine.sample(thought, width=64, height=64, steps=1)
    assert torch.allclose(first.image(), again.image(), atol=1e-5)


@pytest.mark.parametrize("sample", [False, True])
def test_logits_that_are_not_numbers_are_an_error(sample):
    engine = sensenova_core.load(checkpoint("tiny-u15"))
    engine.model.understanding.lm_head.weight.data = torch.full_like(
        engine.model.understanding.lm_head.weight, torch.nan
    )
    with pytest.raises(SenseNovaError, match=r"logits hold nan.*try dtype float32"):
        list(engine.understand("x", settings=DecodingSettings(3, sample=sample)))


def test_a_conversation_keeps_the_budget_of_each_image(engine):
    budgets = [65_536 // 4, None]
    conversation = engine.conversation("x", [picture(), picture(seed=1)], budgets)
    first, second = conversation.images
    assert first.pixels[0].numel() <= budgets[0] < second.pixels[0].numel()


def test_a_short_conversation_does_not_hold_the_buffers_of_a_long_one(engine):
    list(engine.understand("long " * 2000, settings=DecodingSettings(1)))
    list(engine.understand("hi", settings=DecodingSettings(1)))
    assert engine.remembered.conversation[1].room < 2000


ODD = [("L", (1, 1)), ("P", (40, 30)), ("LA", (33, 65)), ("I;16", (20, 20)), ("RGB", (32, 6400)), ("RGBA", (64, 48))]


@pytest.mark.parametrize(("mode", "size"), ODD, ids=str)
def test_odd_pictures_are_drawn_from_and_asked_about(engine, mode, size):
    image = picture(*size).convert("L" if mode == "I;16" else mode)
    image = image.convert("I").point(lambda level: level * 257).convert("I;16") if mode == "I;16" else image
    *_, step = engine.sample(engine.encode("x", [image]), width=64, height=64, steps=1)
    assert step.image().isfinite().all()
    *_, answer = engine.understand("what?", [image], settings=DecodingSettings(2))
    assert answer.ended in ("cut", "end")
