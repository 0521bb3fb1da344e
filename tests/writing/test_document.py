"""What a document of text and pictures promises beyond the right numbers."""

import gc
import weakref

import pytest
import torch

import sensenova_core
from sensenova_core import Guidance, SamplingSettings, SettingsError
from sensenova_core.drawing import flow
from sensenova_core.settings import DecodingSettings, DocumentSettings
from sensenova_core.writing.document import Drawing, End, Text, Writer
from tests.support.pictures import picture
from tests.support.watch import calls, inputs, saying, tokens_read

STORY = "One day <img> it <img><img> was over.<|im_end|>"


def settings(cfg: float = 4.0, img_cfg: float = 2.0, **more) -> DocumentSettings:
    sampling = SamplingSettings(steps=2, guidance=Guidance(cfg, img_cfg), seed=more.pop("seed", 5))
    decoding = DecodingSettings(max_tokens=more.pop("max_tokens", 40))
    return DocumentSettings(**{"sampling": sampling, "sizes": ((64, 32),), "decoding": decoding, "system": ""} | more)


def write(engine, text: str = STORY, prompt: str = "a story", images=(), **more) -> list:
    made = settings(**more)
    return list(engine.interleave(prompt, images, settings=made, max_pixels=16_384, choose=saying(engine, text)))


def pictures(events) -> list[torch.Tensor]:
    return [event.step.pixels() for event in events if isinstance(event, Drawing) and event.step.index == 1]


def outline(events) -> list:
    """Texts joined, drawing steps as (image, step), and the end."""
    out: list = []
    for event in events:
        if isinstance(event, Text):
            if out and isinstance(out[-1], str):
                out[-1] += event.text
            else:
                out.append(event.text)
        else:
            out.append((event.index, event.step.index) if isinstance(event, Drawing) else event.reason)
    return out


def test_events_come_in_order(engine):
    story = ["One day ", (0, 0), (0, 1), " it ", (1, 0), (1, 1), (2, 0), (2, 1), " was over.", "end"]
    assert outline(write(engine)) == story


def test_text_comes_in_whole_characters(engine):
    events = write(engine, "一只橘色的猫 😀<|im_end|>", max_images=0)
    texts = [event.text for event in events[:-1]]
    assert "".join(texts) == "一只橘色的猫 😀" and len(texts) > 5
    assert not any("\ufffd" in text for text in texts)


def test_an_unfinished_character_is_not_lost_before_an_image(engine):
    half = engine.tokenizer.encode(["猫"])[:1]
    chosen = iter([*half, engine.tokenizer.ids["<img>"], engine.tokenizer.ids["<|im_end|>"]])
    events = list(engine.interleave("x", (), settings=settings(), choose=lambda *_: next(chosen)))
    assert outline(events) == ["\ufffd", (0, 0), (0, 1), "end"]


@pytest.mark.parametrize("most", [0, 1, 2])
def test_an_image_over_the_limit_ends_the_document(engine, most):
    events = write(engine, max_images=most)
    assert len(pictures(events)) == most and events[-1] == End("max_images")
    assert outline(events)[0] == "One day "


def test_an_image_at_the_limit_does_not(engine):
    assert outline(write(engine, max_images=3))[-2:] == [" was over.", "end"]


def test_the_token_limit_counts_text_alone(engine):
    tokens = len(engine.tokenizer.encode(["One day "]))
    events = write(engine, max_tokens=tokens)
    assert outline(events) == ["One day ", "max_tokens"]  # an <img> right after it is not looked at
    events = write(engine, max_tokens=tokens + 1)
    assert len(pictures(events)) == 1 and events[-1] == End("max_tokens")


def test_the_context_ends_the_document(copy_of):
    engine = sensenova_core.load(copy_of(config=lambda raw: raw["llm_config"].update(max_position_embeddings=60)))
    before = len(engine.prompts.document("a story", (), system="", think=False)[0].ids)
    events = write(engine, "x" * 200, max_tokens=200)
    assert events[-1] == End("context")
    assert before + len(engine.tokenizer.encode(["".join(event.text for event in events[:-1])])) <= 60


def test_each_image_has_its_size(engine):
    sizes = ((64, 32), (32, 96), (64, 64))
    shapes = [tuple(image.shape) for image in pictures(write(engine, sizes=sizes, max_images=3))]
    assert shapes == [(1, 3, height, width) for width, height in sizes]


def test_a_cropped_image_is_read_back_whole(engine):
    sampling = SamplingSettings(steps=2, guidance=Guidance(4.0, 2.0), seed=5, crop=True)
    cropped = write(engine, sampling=sampling, sizes=((50, 30),))
    shown = [event.step.image().shape for event in cropped if isinstance(event, Drawing)]
    assert set(shown) == {(1, 30, 50, 3)}
    for ours, whole in zip(pictures(cropped), pictures(write(engine)), strict=True):
        assert torch.equal(ours, whole)


def test_noise_is_one_stream(engine):
    """The second image goes on where the first stopped, and a seed gives the same document."""
    sizes = ((64, 32), (64, 64), (32, 32))
    with inputs(engine.model.generation.vision, torch.clone) as given:
        first = pictures(write(engine, sizes=sizes, max_images=3))
    stream = torch.Generator().manual_seed(5)
    for index, (width, height) in enumerate(sizes):
        grid = engine.config.grid(width=width, height=height)
        scale = flow.noise_scale(engine.config.noise, grid.tokens)
        noise = scale * torch.randn((1, 3, height, width), generator=stream)
        assert torch.equal(given[2 * index], grid.image_to_patches(noise))
    again, other = (pictures(write(engine, sizes=sizes, max_images=3, seed=seed)) for seed in (5, 6))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert (first[0] - other[0]).abs().max() > 0.1


def test_a_drawn_image_is_seen_by_what_follows(engine):
    first, other = (write(engine, seed=seed) for seed in (5, 6))

    def logits(seed):
        said = saying(engine, "a <img> b<|im_end|>")
        list(engine.interleave("x", (), settings=settings(seed=seed), choose=said))
        return said.logits

    before = len(engine.tokenizer.encode(["a "])) + 1  # the choice of <img> included
    for index, (one, two) in enumerate(zip(logits(5), logits(6), strict=True)):
        assert torch.equal(one, two) is (index < before)
    assert (pictures(first)[1] - pictures(other)[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    "cfg, img_cfg, branches",
    [(1, 1, ["full"]), (4, 1, ["full", "images"]), (3, 3, ["full", "nothing"]), (4, 2, ["full", "images", "nothing"])],
)
def test_only_what_guidance_needs_is_read(engine, cfg, img_cfg, branches):
    """Beginnings once; then text in the full branch alone, an image's <img>, tokens and </img> in those that see it."""
    sequences = engine.prompts.document("x", (), system="", think=False)
    lengths = {"full": len(sequences[0].ids), "images": len(sequences[1].ids), "nothing": 13}
    with tokens_read(engine) as read, calls(engine.model.generation.decoder) as drawn:
        write(engine, "a<img><|im_end|>", "x", cfg=cfg, img_cfg=img_cfg)
    opened, rest = read[: len(branches)], read[len(branches) :]
    assert opened == [lengths[branch] for branch in branches]
    seeing = 2 if "images" in branches else 1
    assert rest == [1, *[1] * seeing, *[2 + 1] * seeing]  # "a"; <img>; two tokens of the image and </img>
    assert drawn == [len(branches)] * 2


def test_memory_grows_by_what_is_written(engine):
    """Text, and the tokens of each image and two more; nothing else is kept while the document goes on."""
    made, text = settings(), "One day <img> it <img> was"
    sequences = engine.prompts.document(
        "a story", engine.encode("", [picture()], max_pixels=16_384).images, system="", think=True
    )
    with torch.inference_mode():
        unconditional = engine.prompts.unconditional()
        said = saying(engine, text + "<|im_end|>")
        writer = Writer(
            engine.reader, engine.prompts, sequences, unconditional=unconditional, settings=made, choose=said
        )
        sizes, held = [], []
        for event in writer.events():
            if isinstance(event, Drawing):
                held.append(engine.remembered.prefixes.nbytes)
            sizes.append({name: context.tokens for name, context in writer.contexts.items()})
    tokens = sum(len(engine.tokenizer.encode([piece])) for piece in text.split("<img>"))
    drawn = 2 * (2 + 2)  # two images of 64 x 32
    assert sizes[-1] == {
        "condition": len(sequences[0].ids) + tokens + drawn,
        "images_only": len(sequences[1].ids) + drawn,
    }
    assert held == [engine.reader.prefix(unconditional).nbytes] * 4
    assert engine.remembered.conversation is None
    for context in writer.contexts.values():
        assert context.room - context.tokens < 512


def test_nothing_is_held_after_a_document(engine):
    events = engine.interleave("a story", (), settings=settings(), choose=saying(engine, STORY))
    for event in events:
        if isinstance(event, Drawing):
            break
    watched = weakref.ref(events)
    before = engine.remembered.prefixes.nbytes
    del events, event
    gc.collect()
    assert watched() is None and engine.remembered.prefixes.nbytes == before
    assert outline(write(engine))[-1] == "end"


def test_nothing_happens_before_the_first_event_is_asked_for(engine):
    engine.release()
    engine.interleave("a story", (), settings=settings())
    assert engine.model.device.type == "meta"


def test_sampled_documents_follow_their_seed(engine):
    def text(seed):
        decoding = DecodingSettings(max_tokens=12, sample=True, temperature=1.0, seed=seed)
        events = engine.interleave("x", (), settings=settings(decoding=decoding, max_images=0))
        return "".join(event.text for event in events if isinstance(event, Text))

    assert text(1) == text(1) != text(2)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"max_images": -1}, "max_images is -1; give a whole number from 0"),
        ({"sampling": SamplingSettings(batch_size=2)}, "batch_size is 2; a document's images are drawn one by one"),
        ({"sizes": ((64, 64),) * 2, "max_images": 3}, "2 sizes for up to 3 images"),
        ({"sampling": SamplingSettings(guidance=Guidance(norm="cfg_zero_star"))}, "cfg_zero_star is for text to image"),
    ],
    ids=str,
)
def test_settings_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        DocumentSettings(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"max_images": "2"}, {"max_images": 1.5}, {"sizes": ((64,),)}, {"sizes": (64,)}], ids=str
)
def test_malformed_settings_are_refused(engines, wrong):
    with pytest.raises(SettingsError):
        engines("tiny-u15").interleave("x", (), settings=DocumentSettings(**wrong))


def test_a_size_between_tokens_is_refused_at_the_call(engines):
    with pytest.raises(SettingsError, match=r"height is 50; this model draws multiples of 32, such as 64"):
        engines("tiny-u15").interleave("x", (), settings=settings(sizes=((64, 64), (64, 50)), max_images=2))
