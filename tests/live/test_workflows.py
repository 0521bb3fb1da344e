"""Every shipped workflow on a real server gives what the engine alone gives, to the bit."""

import re

import pytest
from PIL import Image, ImageChops

from tests.live import comfyui
from tests.live.workflows import AUTOMATIC, BUILT_IN, NAMES, sampled, tiny

CORRECTION = {"Loader": {"checkpoint": "talkative"}, "SelfCorrect": sampled(seed=1)}
DOCUMENT = {"Loader": {"checkpoint": "talkative"}, "Interleave": sampled(seed=1)}
PIXEL_HEAD = {"Loader": {"checkpoint": "tiny-u15"}}
GUIDED = {"cfg_norm": "channel", "img_cfg": 1.5, "cfg_end": 0.9}
REGIMES = [{"cfg": cfg, "img_cfg": img_cfg} for cfg, img_cfg in ((1, 1), (4, 4), (1, 2), (4, 2))]
DEMO, MODEST = {"Loader": {"checkpoint": BUILT_IN}}, {"Loader": {"checkpoint": "modest"}}
UNSIZED = {"width": 0, "height": 0, "crop": False}
TWO_SIZES = tiny("edit_two_references")
TWO_SIZES["3"]["inputs"]["image"] = "tall.png"
# Sums up in another order: test_ksampler.py. Ends in a node of ComfyUI that makes one picture of four: test_fresh.py.
OTHERS = {"ksampler", "compare_norms"}
CASES = {name: tiny(name) for name in NAMES if name not in OTHERS} | {
    "inpaint": tiny("inpaint", LoadImage={"image": "holed.png"}),
    "interleave": tiny("interleave", **DOCUMENT),
    "self_correct, revised": tiny("self_correct", **CORRECTION),
    "text_to_image, pixel head": tiny("text_to_image", **PIXEL_HEAD, FlowMatchSampler={"cfg_norm": "cfg_zero_star"}),
    "edit_two_references, pixel head": tiny("edit_two_references", **PIXEL_HEAD, FlowMatchSampler=GUIDED),
    "edit_two_references, two sizes": TWO_SIZES,
    "text_to_image, automatic size": tiny("text_to_image", **DEMO, Resolution={"size": AUTOMATIC}),
    "edit_one_image, automatic size": tiny("edit_one_image", **DEMO, FlowMatchSampler=UNSIZED),
    "interleave, automatic size": tiny("interleave", **MODEST, Interleave=sampled(seed=1) | {"size": AUTOMATIC}),
    **{f"edit_one_image {regime}": tiny("edit_one_image", FlowMatchSampler=regime) for regime in REGIMES},
    "think, at random": tiny("think", Think=sampled(seed=1)),
    "chat_two_turns, at random": tiny("chat_two_turns", Understand=sampled(seed=1) | {"repetition_penalty": 1.3}),
}


@pytest.fixture(scope="module")
def alone(installation, base, models) -> dict[str, dict]:
    return comfyui.shown_alone(installation, base, CASES)


@pytest.mark.parametrize("name", CASES)
def test_gives_what_the_engine_alone_gives(client, alone, name):
    run = client.run(CASES[name])
    assert run.outcome == "execution_success"
    assert alone[name]
    for node, expected in alone[name].items():
        if "text" in run.outputs[node]:
            assert [*map(_settled, run.outputs[node]["text"])] == [*map(_settled, expected)]
        else:
            assert _differences(client.images(run, node), expected) == [0] * len(expected)


def test_documents_hold_several_pictures(alone):
    assert len(alone["interleave"]["4"]) == 3
    assert alone["interleave"]["5"][0].count("<image>") == 3


def _settled(text: str) -> str:
    """Without what the machine has free just now, which a plan says."""
    return re.sub(r"(?m)^free     : .*$|of [\d.]+ GiB free", "", text)


def _differences(images: list[Image.Image], expected: list) -> list[int]:
    """How many levels each picture is off at most; expected as reference.py gives it."""
    differences = []
    for image, (width, height, pixels) in zip(images, expected, strict=True):
        other = Image.frombytes("RGB", (width, height), bytes.fromhex(pixels))
        assert image.size == other.size
        differences.append(max(most for _, most in ImageChops.difference(image, other).getextrema()))
    return differences
