"""Put a model under ComfyUI's memory management on a pretended card, and print what became of it.

    python pretended_card.py COMFYUI CHECKPOINT ALLOCATOR DYNAMIC

Run by ComfyUI's interpreter, which takes the card for an NVIDIA one. ALLOCATOR: torch or driver. DYNAMIC: whether
DynamicVRAM is on; other models say that they are dynamic then, and are loaded as ever.
"""

import hashlib
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from unittest.mock import patch

import torch

from tests.pretend.allocator import MIB, Allocator, Pool
from tests.pretend.card import Card
from tests.pretend.driver import pretended

folder, checkpoint, allocator, dynamic = sys.argv[1:5]
sys.argv[1:] = ["--reserve-vram", "0"]  # what ComfyUI reads
sys.path.insert(0, folder)

REPOSITORY = Path(__file__).parents[2]
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
SIDE = 128  # of pictures
GIB = 2**30


def pack_named(name: str):
    """The pack as ComfyUI imports it: a module of it."""
    if "pack" not in sys.modules:
        place = {"submodule_search_locations": [str(REPOSITORY)]}
        spec = importlib.util.spec_from_file_location("pack", REPOSITORY / "__init__.py", **place)
        sys.modules["pack"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"pack.{name}")


class Turns:
    """Our model and another one on one card."""

    def __init__(self, card: Card):
        import comfy.model_management as mm
        from comfy.model_patcher import ModelPatcher

        class Other(ModelPatcher):
            def is_dynamic(self) -> bool:
                return dynamic == "on"

        self.card, self.mm, self.core = card, mm, pack_named("sensenova_core")
        # Of which this tokenizer would make 1200 tokens, which would take all the time.
        pack_named("sensenova_core.reading.prompt").system_message = lambda kind: kind
        engine = self.core.load(checkpoint, device=CUDA, vram_mode="auto", place=False)
        self.model = pack_named("nodes.loaded").LoadedEngine(engine)
        self.other = Other(torch.nn.Linear(4096, 4096, bias=False).requires_grad_(requires_grad=False), CUDA, CPU)
        self.pictures: list[str] = []

    def draw(self) -> None:
        settings = self.core.SamplingSettings(SIDE, SIDE, steps=2)
        *_, last = self.model.sample(self.model.engine.encode("a cat"), settings)
        self.pictures.append(hashlib.sha1(last.image().cpu().numpy().tobytes()).hexdigest())

    def run_other(self) -> bool:
        """Whether it is on the card whole, and computes there."""
        self.mm.load_models_gpu([self.other])
        with torch.inference_mode():
            ones = torch.ones(1, 4096, device=CUDA)
            made = torch.nn.functional.linear(ones, self.other.model.weight)
        return self.other.loaded_size() == self.other.model_size() and made.device == CUDA

    def empty(self) -> None:
        """As /free does."""
        self.mm.unload_all_models()
        self.mm.soft_empty_cache()

    def held(self) -> list[int]:
        """Bytes of weights and of what was read."""
        return [self.model.patcher.loaded_size(), self.model.engine.remembered.nbytes]


def main() -> dict[str, object]:
    pool = Pool if allocator == "driver" else Allocator
    card = Card(capacity=8 * GIB, allocator=pool)
    core = pack_named("sensenova_core.checkpoint")
    with (
        pretended(card, core.StoredWeights),
        patch.object(torch.version, "cuda", "12.8"),
        patch.object(torch.cuda, "current_device", lambda: CUDA),  # a number is none to a torch without a card
    ):
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.memory_management
        import comfy.model_management as mm

        comfy.memory_management.aimdo_enabled = dynamic == "on"
        turns = Turns(card)
        try:
            seen = watched(turns, mm)
        finally:
            turns.model.engine.release()
    return seen | {"races": list(card.order.races), "faults": list(card.faults)}


def watched(turns: Turns, mm) -> dict[str, object]:
    card, engine, seen = turns.card, turns.model.engine, {}
    turns.draw()
    whole, seen["whole"] = turns.held()[0], turns.held()[0] > 0
    # Room for both, but for half of our weights.
    card.allocator.capacity = int(mm.minimum_inference_memory() + 1.1 * turns.other.model_size() + whole / 2)
    seen["other"] = [turns.run_other()]
    seen["gave some"] = 0 <= turns.held()[0] < whole
    turns.draw()
    seen["other"].append(turns.run_other())
    turns.draw()
    turns.empty()
    seen["freed"] = [*turns.held(), card.allocator.reserved <= 64 * MIB]
    turns.draw()
    turns.empty()
    # Somebody else takes memory that ComfyUI believes to be free.
    told: list[str] = []
    engine.memory.tell = told.append
    card.allocator.capacity = card.allocator.reserved + whole
    with patch.object(torch.cuda, "mem_get_info", lambda device=None: (8 * GIB, 8 * GIB)):
        turns.draw()
    seen["told"] = told
    seen["within"] = card.allocator.reserved <= card.allocator.capacity
    turns.empty()
    return seen | {"left": turns.held(), "pictures": turns.pictures}


if __name__ == "__main__":
    print(json.dumps(main()))
