"""ComfyUI's memory management on a pretended card, with DynamicVRAM and without, on either allocator: see
pretended_card.py."""

import json

import pytest

from tests.live import comfyui
from tests.support.geometries import geometry, write_checkpoint

MIDDLE = {
    "num_hidden_layers": 5,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    """Layers of 14 MB each: other than the smallest things, the allocator gives each a segment of its own."""
    config = geometry(0)
    config["llm_config"] |= MIDDLE
    return write_checkpoint(tmp_path_factory.mktemp("middle"), config)


@pytest.mark.parametrize("allocator, dynamic", [("torch", "off"), ("driver", "on")])
def test_models_take_turns_on_a_card_that_fills_up(installation, middle, allocator, dynamic):
    """The other model gets its room and ours comes back, one picture throughout; /free frees all; a run goes on where
    somebody else took memory that ComfyUI believed to be free."""
    arguments = ("tests/live/pretended_card.py", installation.folder, middle, allocator, dynamic)
    seen = json.loads(comfyui.run_python(installation, *arguments).splitlines()[-1])
    assert seen["whole"] and seen["gave some"] and seen["other"] == [True, True]
    assert seen["freed"] == [0, 0, True] and seen["left"] == [0, 0] and seen["within"]
    assert len(seen["told"]) == 1 and "memory ran out" in seen["told"][0]
    assert len(seen["pictures"]) == 5 and len(set(seen["pictures"])) == 1
    assert not seen["races"] and not seen["faults"]
