"""What callers hand in that is nearly right, or nothing of the kind: it works, or one sentence says what to give."""

import math
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sensenova_core
from sensenova_core import (
    DEMO,
    DecodingSettings,
    DocumentSettings,
    Message,
    PromptError,
    SamplingSettings,
    SettingsError,
)
from sensenova_core.errors import QUOTED, CheckpointError, missing_package, printable, quoted
from sensenova_core.reading.prompt import PromptBuilder
from sensenova_core.settings import Guidance, LoadSettings
from tests.support.each import each

RED = Image.new("RGB", (64, 64), "red")


@pytest.fixture(scope="module")
def engine():
    return sensenova_core.load(DEMO)


@each("images", [RED, (RED,), iter([RED]), (image for image in [RED]), {0: RED}.values()])
def test_images_in_any_wrapping(engine, images):
    assert [image.original for image in engine.encode("blue", images).images] == [RED.size]


def test_no_images_and_generators_without_end(engine):
    assert engine.encode("blue", None).images == ()
    with pytest.raises(PromptError, match="11 images; give at most 10"):
        engine.encode("blue", (RED for _ in iter(int, 1)))


@each(
    "images",
    ["a.png", Path("a.png"), b"png", 5, {"a": RED}, np.zeros((8, 8, 3)), torch.zeros(1, 8, 8, 3), [None], ["a.png"]],
)
def test_what_is_no_image_is_named(engine, images):
    for call in engine.encode, engine.conversation, engine.interleave:
        with pytest.raises(PromptError, match=r"(images|Image-1) is a .*; give a"):
            call("blue", images)


@each("prompt", [Path("a.txt"), b"blue", None, 5, ["blue"], np.array("blue"), math.nan])
def test_what_is_no_prompt_is_named(engine, prompt):
    with pytest.raises(PromptError, match=r"the prompt is .*; give text") as refused:
        engine.encode(prompt)
    assert "\n" not in str(refused.value)
    with pytest.raises(PromptError, match=r"; give (text|Message)"):
        engine.conversation(prompt)


@each("messages", [[{"role": "user", "content": "What?"}], ["What?"], [None], [("user", "What?")]])
def test_what_is_no_message_is_named(engine, messages):
    with pytest.raises(PromptError, match=r"a message is .*; give Message\(role, text\)"):
        engine.conversation(messages)
    assert len(engine.conversation(Message("user", "What?")).ids) == len(engine.conversation("What?").ids)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int16, torch.tensor, np.array])
def test_whole_numbers_of_other_libraries(kind):
    settings = SamplingSettings(width=kind(64), height=kind(32), steps=kind(3), seed=kind(7))
    assert settings == SamplingSettings(width=64, height=32, steps=3, seed=7)
    assert all(type(value) is int for value in (settings.width, settings.steps, settings.seed))
    assert DocumentSettings(sizes=[[kind(64), kind(32)]]).sizes == ((64, 32),)
    assert DecodingSettings(max_tokens=kind(5), top_k=kind(2)).max_tokens == 5


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, torch.tensor, np.array])
def test_numbers_of_other_libraries(kind):
    assert Guidance(cfg=kind(0.5), interval=[kind(0.25), kind(0.5)]) == Guidance(cfg=0.5, interval=(0.25, 0.5))
    assert type(SamplingSettings(shift=kind(1.5)).shift) is float
    assert DecodingSettings(sample=np.bool_(True)).sample is True


@each(
    "value",
    [None, "8", 8.5, True, 10**400, -1, math.nan, [8], np.zeros(3), torch.zeros(2), 1j, Fraction(8), "\ud83d", b"8"],
)
def test_what_is_no_count_is_named(value):
    with pytest.raises(SettingsError, match=r"steps is .*; give a whole number from 1 to 10000") as refused:
        SamplingSettings(steps=value)
    assert str(refused.value).isprintable()


@each("value", [None, "8", True, 10**400, math.nan, math.inf, [8], np.zeros(3), 1j, Fraction(8), "\ud83d", b"8"])
def test_what_is_no_number_is_named(value):
    with pytest.raises(SettingsError, match=r"cfg is .*; give a finite number"):
        Guidance(cfg=value)


@each("value", ["false", None, 2, "", [True]])
def test_what_is_neither_true_nor_false(value):
    with pytest.raises(SettingsError, match=r"crop is .*; give True or False"):
        SamplingSettings(crop=value)


@each("value", ["x" * 10**6, "\ud83d", 5, None, ["auto"], torch.zeros(3), {"a": 1}])
def test_choices_of_any_kind(value):
    for name in "dtype", "vram_mode", "attention":
        with pytest.raises(SettingsError, match=f"{name} .* is unknown; choose one of auto") as refused:
            LoadSettings(**{name: value})
        assert str(refused.value).isprintable() and len(str(refused.value)) < 250


@each("name", ["\ud83d", "x" * 10**6, "", "meta", [], 10**30])
def test_devices_of_any_name(name):
    with pytest.raises(SettingsError, match="choose cpu, or a device this machine has") as refused:
        sensenova_core.load(DEMO, device=name)
    assert refused.value.__suppress_context__ and str(refused.value).isprintable() and len(str(refused.value)) < 500


@each("given", ["a red circle", None, {"prompt": "x"}])
def test_a_prompt_that_was_not_encoded(engine, given):
    for call in engine.sample, engine.think:
        with pytest.raises(SettingsError, match=r"the conditioning is .*; give what encode has made of a prompt"):
            call(given)


def test_settings_of_another_kind(engine):
    for call in engine.understand, engine.interleave, engine.self_correct:
        with pytest.raises(SettingsError, match=r"the settings are .*; give \w+Settings\(...\)"):
            call("What?", settings={"max_tokens": 3})
    with pytest.raises(SettingsError, match=r"width is 10+; give at most 16384 pixels"):
        engine.sample(engine.encode("blue"), width=10**9, height=64)


@each("loras", [5, [("a", 1, 2)], [None], {"a": 1.0}, [(1.0, "a")]])
def test_loras_of_any_kind(engine, loras):
    with pytest.raises(SettingsError, match=r"loras (is|has) .*; give (a list of )?\(file, strength\)"):
        engine.use_loras(loras)


@each("loras", ["no.safetensors", Path("no.safetensors"), ("no.safetensors", 0.5), ["no.safetensors"]])
def test_one_lora_is_meant_as_a_list_of_one(engine, loras):
    with pytest.raises(CheckpointError, match=r"no\.safetensors"):
        engine.use_loras(loras)


LONG = {
    "words": "a red circle and " * 600_000,
    "one letter": "x" * 10_000_000,
    "Chinese": "红色的圆圈" * 700_000,
    "spaces": " " * 10_000_000,
    "placeholders": "<image>" * 1_500_000,
}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("context", [8_192, 262_144])
def test_megabytes_are_refused_at_once(engine, kind, context):
    prompts = PromptBuilder(engine.tokenizer, context, 32)
    began = time.perf_counter()
    with pytest.raises(PromptError, match=r"letters, over what the model's|names .* more <image>") as refused:
        prompts.picture(LONG[kind])
    assert time.perf_counter() - began < 3  # 0.4 s on an idle machine
    assert len(str(refused.value)) < 250


def test_a_long_text_that_fits_is_read(engine):
    """Of many letters to a token: it is counted first, then taken."""
    spaces = PromptBuilder(engine.tokenizer, 300_000, 32).picture(("a red circle, " * 70_000)[:250_000])
    assert len(spaces.sequences["condition"].ids) > 10_000


@each(
    "value",
    [
        "\ud83d",
        "\x1b[2J",
        "\u202eabc",
        "\0",
        "a\nb",
        "x" * 10**7,
        b"x" * 10**7,
        10**5000,
        [["x" * 10**6]] * 10**5,
        torch.zeros(99, 99),
    ],
)
def test_quoted(value):
    text = quoted(value)
    assert 0 < len(text) <= QUOTED and text.isprintable()


def test_words_stay_as_they_are():
    assert printable("红色 é 😀\n\tpath/to") == "红色 é 😀\n\tpath/to"
    assert str(CheckpointError("a\ud83db\x1b[2J")) == "a\\ud83db\\x1b[2J"
    assert quoted("red") == "'red'" and quoted(5) == "5" and quoted((1, "a")) == "(1, 'a')"


@pytest.mark.parametrize(
    "name, package", [("PIL", "pillow"), ("tokenizers", "tokenizers"), ("huggingface_hub", "huggingface-hub")]
)
def test_a_missing_package_is_told_with_its_install_line(name, package):
    missing = ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert missing_package(missing).startswith(f"the package {package} is missing; run ")
    assert missing_package(missing).endswith(f" -m pip install --upgrade {package}")
    inner = ImportError("cannot import name 'x'", name=f"{name}.inner")
    assert f"the package {package} is too old or damaged" in missing_package(inner)
