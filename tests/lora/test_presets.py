"""What a LoRA says of how it is to be sampled, and of the model that it was made for."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sensenova_core.lora import Lora
from sensenova_core.lora.presets import mismatch, preset_of
from tests.memory.test_activations import config


def lora(name: str = "x.safetensors", **metadata: str) -> Lora:
    return Lora(Path(name), {}, {}, metadata)


@pytest.mark.parametrize(
    "name, metadata, known_by",
    [
        ("SenseNova-U1-8B-MoT-8step-LoRA.safetensors", {}, "its file name"),
        ("u1_8_steps.safetensors", {}, "its file name"),
        ("SenseNova-U1.6-8B-MoT-LoRA-8step-V2.safetensors", {}, "its file name"),
        ("sensenova_u16_8stepV2.safetensors", {}, "its file name"),
        ("fast.safetensors", {"ss_output_name": "U1.5 8-step"}, "its metadata's ss_output_name"),
        (
            "fast.safetensors",
            {"base_model": "SenseNova-U1-8B-MoT-8step-preview"},
            "its metadata's base_model",
        ),
    ],
)
def test_an_8_step_lora_is_known(name, metadata, known_by):
    preset = preset_of([(lora(), 1.0), (lora(name, **metadata), 0.5)])
    assert (preset.steps, preset.cfg, preset.shift) == (8, 1.0, 3.0)
    assert str(preset) == f"8 steps, cfg 1, shift 3 (8 steps by {known_by})"


@pytest.mark.parametrize(
    "name", ["style.safetensors", "28step.safetensors", "8-stepping-stones.safetensors", "8stepvision", "8b.bin"]
)
def test_another_has_no_preset(name):
    assert preset_of([(lora(name, ss_comment="8 steps of training"), 1.0)]) is None


@pytest.mark.parametrize("strengths", [[0.0], [-1.0], [1.0, -1.0], [0.5, -0.7], [1, -1, 0]], ids=str)
def test_what_is_off_or_opposite_has_no_preset(strengths):
    eight, other = lora("U1-8step.safetensors"), lora("U1-8steps-too.safetensors")
    assert preset_of([(eight, strength) for strength in strengths]) is None
    assert preset_of([*((eight, strength) for strength in strengths), (eight, 2.0)]).steps == 8
    assert preset_of([*((eight, strength) for strength in strengths), (other, 0.1)]).steps == 8


@pytest.mark.parametrize(
    "name, metadata, pixel_head, model, said",
    [
        (
            "U1.5-8step.safetensors",
            {},
            False,
            "mine",
            r"made for U1\.5 \(by its file name\), and .* linear head, as U1 ",
        ),
        (
            "U1-8B-8step.safetensors",
            {},
            True,
            "mine",
            r"made for U1 \(by its file name\), and .* pixel head, as U1\.5 and U1\.6 do",
        ),
        ("x", {"base_model": "SenseNova-U1_5-8B"}, False, "U1", r"made for U1\.5 \(by its metadata's base_model\)"),
        ("U1-Infographic-8step", {}, False, "SenseNova-U1-8B-MoT", "made for U1-Infographic.* called SenseNova-U1-8B"),
        ("U1-8step", {}, False, "SenseNova-U1-8B-MoT-Infographic-V2", "made for U1, not its infographic version"),
        ("U1-8step", {"base_model": "SenseNova-U1.5-8B"}, True, "SenseNova-U1.5-8B", None),
        ("U1.6-8B-MoT-LoRA-8step-V2", {}, False, "mine", r"made for U1\.6 .* linear head, as U1 does"),
        ("U1-8step", {}, True, "SenseNova-U1.6-8B-MoT", r"made for U1 .* pixel head, as U1\.5 and U1\.6 do"),
        ("U1.5-8step", {}, True, "SenseNova-U1.6-8B-MoT", r"made for U1\.5 .* is called SenseNova-U1\.6-8B-MoT"),
        ("U1.6-8step", {}, True, "SenseNova-U1.5-8B-MoT", r"made for U1\.6 .* is called SenseNova-U1\.5-8B-MoT"),
        ("x", {"base_model": "sensenova/SenseNova-U1.6-8B-MoT"}, True, "U1_5", r"U1\.6 \(by its metadata's base_model"),
        ("U1.7-style", {}, True, "SenseNova-U1.6-8B-MoT", r"made for U1\.7 .* is called SenseNova-U1\.6"),
        ("U1.7-style", {}, True, "mine", None),  # of which no design is known
        ("U1.6-8B-MoT-LoRA-8step-V2", {}, True, "sensenova_u1.6_8b_mot_int8_convrot", None),
        ("U1.6-8step", {}, True, "mine", None),  # by its head it may be either
        ("U1.5-8step", {}, True, "U1-tuned", None),
        ("U1-8b-5b-8step", {}, False, "u1-8b", None),
        ("U1-Infographic-8step", {}, False, "my favourite", None),
        ("U1-Infographic-8step", {}, False, "SenseNova-U1-Infographic", None),
        ("u1-8b-mot-8step", {}, False, "SenseNova-U1-8B-MoT", None),
        ("flu15-style", {}, True, "SenseNova-U1.5", None),
        ("style", {"base_model": "mine"}, True, "SenseNova-U1.5", None),
    ],
)
def test_a_wrong_base_is_warned_of(name, metadata, pixel_head, model, said):
    warning = mismatch(lora(name, **metadata), replace(config(), pixel_head=pixel_head), model)
    if said is None:
        assert warning is None
    else:
        assert re.search(said, warning) and warning.startswith(f"{name} seems to be made for")
