"""A picture that the model reads back, judges and draws again: a document's loop, from another beginning."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sensenova_core
from sensenova_core import CorrectionSettings, Guidance, PromptError, SamplingSettings, SettingsError
from sensenova_core.drawing import flow
from sensenova_core.reading import prompt as prompts
from sensenova_core.settings import CritiqueSettings
from sensenova_core.writing.document import Drawing, End, Text, Writer
from sensenova_core.writing.opening import Opening, drawn_pixels
from tests.support.golden_set import relative_error
from tests.support.pictures import picture
from tests.support.watch import draw, saying

FIXED = "the star is blue, not red<img>now it is right<|im_end|>"
STEPS = 2


def settings(cfg: float = 4.0, img_cfg: float = 2.0, **more) -> CorrectionSettings:
    sampling = SamplingSettings(64, 32, steps=STEPS, guidance=Guidance(cfg, img_cfg), seed=more.pop("seed", 5))
    decoding = CritiqueSettings(max_tokens=more.pop("max_tokens", 60))
    return CorrectionSettings(**{"sampling": sampling, "decoding": decoding} | more)


def correct(engine, text: str = FIXED, prompt: str = "a red star", images=(), **more) -> list:
    first = more.pop("first", None)
    return list(
        engine.self_correct(
            prompt, images, settings=settings(**more), first=first, max_pixels=16_384, choose=saying(engine, text)
        )
    )


def pictures(events) -> list[torch.Tensor]:
    return [event.step.pixels() for event in events if isinstance(event, Drawing) and event.step.index == STEPS - 1]


def outline(events) -> list:
    """Texts joined, indices of finished pictures, and the end."""
    out: list = []
    for event in events:
        if isinstance(event, Text) and out and isinstance(out[-1], str):
            out[-1] += event.text
        elif isinstance(event, Text):
            out.append(event.text)
        elif isinstance(event, Drawing) and event.step.index == STEPS - 1:
            out.append(event.index)
    return [*out, events[-1]]


def written(engine, text: str, *, opening: Opening | None = None, images=(), **more) -> tuple[Writer, list]:
    """A Writer on the sequences of a self-correction that has said `text`, and its events."""
    read = engine._references(images, 16_384)
    full, images_only, _ = engine.prompts.self_correction("a red star", read)
    writer = Writer(
        engine.reader,
        engine.prompts,
        (full, images_only),
        unconditional=engine.prompts.unconditional(),
        settings=settings(**more).document,
        choose=saying(engine, text),
        opening=opening,
    )
    return writer, list(writer.events())


def check_same(one: tuple[Writer, list], other: tuple[Writer, list]) -> None:
    """Contexts by branch (keys, values, time), what was read last, and all revisions, to the bit."""
    (writer, events), (same, others) = one, other
    assert writer.contexts.keys() == same.contexts.keys()
    for name, context in writer.contexts.items():
        prefix, expected = context.prefix(), same.contexts[name].prefix()
        assert (context.tokens, prefix.last_t) == (same.contexts[name].tokens, expected.last_t)
        for ours, theirs in zip((*prefix.keys, *prefix.values), (*expected.keys, *expected.values), strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(writer.pen.logits(), same.pen.logits())
    ours, theirs = pictures(events), pictures(others)
    assert len(ours) <= len(theirs)
    for drawn, expected in zip(reversed(ours), reversed(theirs), strict=False):
        assert torch.equal(drawn, expected)


@pytest.mark.parametrize("name", ["tiny-u15", "tiny-a3b"])
@pytest.mark.parametrize("guidance", [(1, 1), (4, 1), (3, 3), (4, 2)])
@pytest.mark.parametrize("references", [0, 2])
def test_it_is_the_document_of_the_same_tokens(engines, name, guidance, references):
    """One that begins with text, and is made to ask for its picture at once."""
    engine, (cfg, img_cfg) = engines(name), guidance
    given = {"images": [picture(seed=seed) for seed in range(references)], "cfg": cfg, "img_cfg": img_cfg}
    with torch.inference_mode():
        document = written(engine, f"<img>{FIXED}", **given)
        check_same(written(engine, FIXED, opening=Opening(), **given), document)
    assert len(pictures(document[1])) == 2


@pytest.mark.parametrize("references", [0, 1])
def test_going_on_from_a_picture_is_having_drawn_it(engine, references):
    given = {"images": [picture()][:references]}
    with torch.inference_mode():
        whole = written(engine, FIXED, opening=Opening(), **given)
        first = pictures(whole[1])[0]
        gone_on = written(engine, FIXED, opening=Opening(first), **given)
        check_same(gone_on, whole)
    assert [event.index for event in gone_on[1] if isinstance(event, Drawing)] == [1] * STEPS


def test_a_picture_as_it_is_shown_differs_by_the_clamp_alone(engine):
    whole = correct(engine)
    *_, shown = (event.step.image() for event in whole if isinstance(event, Drawing) and event.index == 0)
    clamped = pictures(whole)[0].clamp(-1, 1)
    assert torch.allclose(drawn_pixels(shown, 32), clamped, rtol=0, atol=1e-6)
    events = correct(engine, first=shown, sampling=replace(settings().sampling, width=96, height=96))
    assert outline(events) == outline(whole)[1:]
    assert pictures(events)[0].shape == (1, 3, 32, 64)  # of its size, whatever the settings say
    with torch.inference_mode():
        _, expected = written(engine, FIXED, opening=Opening(clamped))
    assert relative_error(pictures(events)[0], pictures(expected)[0]) < 1e-5


def test_events_come_in_order(engine):
    assert outline(correct(engine)) == [0, "the star is blue, not red", 1, "now it is right", End("end")]


@pytest.mark.parametrize("given", [False, True])
def test_nothing_wrong_draws_nothing_again(engine, given):
    first = torch.rand(1, 32, 64, 3) if given else None
    events = correct(engine, "all is right<|im_end|>", first=first, rounds=3)
    assert outline(events) == [*([] if given else [0]), "all is right", End("end")]
    assert outline(correct(engine, "<|im_end|>", first=first))[-1] == End("end")


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("given", [False, True])
def test_rounds_are_counted_from_the_first_picture(engine, rounds, given):
    first = torch.rand(1, 32, 64, 3) if given else None
    events = correct(engine, "a<img>" * 4, first=first, rounds=rounds)
    drawn = [event for event in outline(events) if isinstance(event, int)]
    assert drawn == [*range(int(given), rounds + 1)] and events[-1] == End("max_rounds")


def test_the_token_limit_is_of_all_critiques_together(engine):
    tokens = len(engine.tokenizer.encode(["wrong"]))
    assert outline(correct(engine, "wrong<img>wrong", max_tokens=tokens + 1, rounds=2))[:3] == [0, "wrong", 1]
    assert outline(correct(engine, "wrong<img>wrong", max_tokens=tokens, rounds=2)) == [0, "wrong", End("max_tokens")]


def test_noise_is_one_stream_whether_the_first_was_drawn_or_given(engine):
    """Else a revision would begin with the very noise of the picture that it is to change."""
    stream = flow.noise_stream(5)
    noises = [flow.starting_noise(stream, batch=1, height=32, width=64) for _ in range(2)]
    seen = []
    hook = engine.model.generation.vision.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    correct(engine)
    drawn, _, revised, _ = seen
    seen.clear()
    correct(engine, first=torch.rand(1, 32, 64, 3))
    hook.remove()
    grid = engine.config.grid(width=64, height=32)
    scale = flow.noise_scale(engine.config.noise, grid.tokens)
    assert torch.equal(drawn, grid.image_to_patches(scale * noises[0]))
    assert torch.equal(revised, grid.image_to_patches(scale * noises[1])) and torch.equal(seen[0], revised)


def test_a_critique_sees_the_picture(engine):
    def logits(first):
        said = saying(engine, "a<|im_end|>")
        list(engine.self_correct("x", settings=settings(), first=first, choose=said))
        return said.logits[0]

    assert not torch.equal(logits(torch.zeros(1, 32, 64, 3)), logits(torch.ones(1, 32, 64, 3)))


def test_another_seed_is_another_picture(engine):
    one, again, other = (pictures(correct(engine, seed=seed)) for seed in (5, 5, 6))
    assert all(map(torch.equal, one, again))
    assert (one[0] - other[0]).abs().max() > 0.1 and (one[1] - other[1]).abs().max() > 0.1


@pytest.fixture
def protocol(monkeypatch):
    """Has the engine go by another SELF_CORRECT, as one who edits protocol.json does."""
    texts = dict(prompts._protocol())

    def use(**words: str) -> None:
        monkeypatch.setattr(prompts, "_protocol", lambda: texts | {f"SELF_CORRECT.{k}": v for k, v in words.items()})

    return use


def test_the_words_are_data(engine, protocol):
    file = Path(prompts.__file__).with_name("protocol.json")
    words = json.loads(file.read_text(encoding="utf-8"))["SELF_CORRECT"]
    assert words.keys() == {"about", "system", "prompt", "after_picture"} and "{prompt}" in words["prompt"]
    protocol(system="Check <img>.", prompt="Draw {prompt} now", after_picture="Well<think>?")
    full, images_only, after = engine.prompts.self_correction("a {prompt}", ())
    ids, encode = engine.tokenizer.ids, engine.tokenizer.encode
    assert ids["<img>"] in full.ids.tolist()  # special tokens of the protocol's own words
    text = engine.tokenizer.decode(full.ids.tolist())
    assert "Check" in text and "Draw a {prompt} now" in text
    assert images_only.ids.tolist() == engine.prompts.document("", (), system="", think=False)[1].ids.tolist()
    assert after == [*encode(["Well"]), ids["<think>"], *encode(["?"])]


def test_asked_as_for_a_picture_the_first_is_the_sampler_s(engine, protocol):
    protocol(system=prompts.system_message("GEN"))
    expected = draw(engine, "a red star", width=64, height=32, steps=STEPS)
    assert relative_error(pictures(correct(engine, img_cfg=1.0))[0], expected) < 1e-5


def test_what_follows_a_picture_is_read_after_each_and_by_the_critique_alone(engine, protocol):
    after = (*engine.tokenizer.encode(["Is it right?"]),)
    with torch.inference_mode():
        plain, _ = written(engine, FIXED, opening=Opening())
        asked, events = written(engine, FIXED, opening=Opening(after=after))
        assert asked.full.tokens == plain.full.tokens + 2 * len(after)
        assert asked.contexts["images_only"].tokens == plain.contexts["images_only"].tokens
        protocol(after_picture="Is it right?")
        assert all(map(torch.equal, pictures(correct(engine)), pictures(events)))


def test_several_references_are_numbered_as_an_edit_s(engine):
    given = [picture(seed=seed) for seed in range(2)]
    read = engine.encode("", given, max_pixels=16_384).images
    full, images_only, _ = engine.prompts.self_correction("both in one", read)
    assert "Image-1:" in engine.tokenizer.decode(full.ids.tolist()) and len(images_only.images) == 2


@pytest.mark.parametrize("name", ["picture 1 of a self-correction", "picture 2 of a self-correction"])
def test_it_is_planned_before_every_picture(engine, monkeypatch, name):
    started, start = [], engine.memory.start
    monkeypatch.setattr(engine.memory, "start", lambda task, *more: started.append(task.name) or start(task, *more))
    correct(engine)
    assert [each.split(",")[0] for each in started].count(name) >= 1


def test_modes_of_memory_give_the_same(engine):
    streamed = sensenova_core.load(engine.path, vram_mode="low")
    assert all(map(torch.equal, pictures(correct(engine)), pictures(correct(streamed))))


def test_nothing_happens_before_the_first_event_is_asked_for(engine):
    engine.release()
    engine.self_correct("a red star", settings=settings(), first=torch.rand(1, 32, 64, 3))
    assert engine.model.device.type == "meta"


def test_the_context_is_looked_at_before_anything_is_drawn(copy_of):
    engine = sensenova_core.load(copy_of(config=lambda raw: raw["llm_config"].update(max_position_embeddings=1200)))
    with pytest.raises(PromptError, match=r"its picture of 1024 x 512 come to .* tokens, .* over the model's 1,200"):
        sampling = replace(settings().sampling, width=1024, height=512)
        engine.self_correct("a red star", settings=settings(sampling=sampling))


@pytest.mark.parametrize("empty", ["", " \n "])
def test_without_a_prompt_there_is_nothing_to_compare_with(engines, empty):
    with pytest.raises(PromptError, match="the prompt is empty, and pictures are compared with it"):
        engines("tiny-u15").self_correct(empty, settings=settings())


@pytest.mark.parametrize(
    "first, message",
    [
        ("a.png", "the picture to correct is 'a.png'; give a picture as the model drew it"),
        (torch.zeros(1, 32, 64, 3, dtype=torch.uint8), "the picture to correct is .*; give a picture"),
        (torch.zeros(32, 64, 3), r"has the shape '?\(32, 64, 3\)'?; give"),
        (torch.zeros(1, 32, 64, 4), r"has the shape '?\(1, 32, 64, 4\)'?; give"),
        (torch.zeros(0, 32, 64, 3), "has the shape"),
        (torch.zeros(3, 32, 64, 3), "a batch of 3 pictures is to be corrected; give them one by one"),
        (torch.zeros(1, 30, 64, 3), "the picture to correct is 64 x 30, and this model draws multiples of 32; give it"),
        (torch.full((1, 32, 64, 3), torch.nan), "holds numbers that are no brightness"),
        (torch.full((1, 32, 64, 3), 128.0), "holds numbers that are no brightness"),
    ],
    ids=str,
)
def test_a_picture_that_is_none_is_refused_at_the_call(engines, first, message):
    with pytest.raises(SettingsError, match=message):
        engines("tiny-u15").self_correct("a red star", settings=settings(), first=first)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"rounds": 0}, "rounds is 0; give a whole number from 1"),
        ({"rounds": 1.5}, "rounds is 1.5; give a whole number"),
        ({"sampling": SamplingSettings(batch_size=2)}, "batch_size is 2; a picture that is corrected is drawn alone"),
        ({"sampling": SamplingSettings(guidance=Guidance(norm="cfg_zero_star"))}, "cfg_zero_star is for text to image"),
    ],
    ids=str,
)
def test_settings_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        CorrectionSettings(**wrong)


def test_a_size_between_tokens_is_refused_at_the_call(engines):
    with pytest.raises(SettingsError, match="height is 50; this model draws multiples of 32"):
        sampling = replace(settings().sampling, height=50)
        engines("tiny-u15").self_correct("a red star", settings=settings(sampling=sampling))
