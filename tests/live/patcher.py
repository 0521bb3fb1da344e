"""Put the pack's model patcher through ComfyUI's memory management, and print what became of the weights.

    python patcher.py COMFYUI CHECKPOINT LORA

Run by ComfyUI's interpreter. A server shows none of this: on the CPU ComfyUI sets no limit and evicts nothing. A card
is played by cpu:0, the same memory under a name that ComfyUI takes for another device, and a count of what is on it.
"""

import gc
import hashlib
import importlib.util
import json
import mmap
import sys
import threading
import time
import weakref
from pathlib import Path
from unittest import mock

folder, checkpoint, lora = sys.argv[1:4]
sys.argv[1:] = ["--cpu", "--reserve-vram", "0.5"]  # what ComfyUI reads
sys.path.insert(0, folder)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management as mm  # noqa: E402
import torch  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
GIB = 2**30
CPU, CARD = torch.device("cpu"), torch.device("cpu", 0)
RESERVED = int((0.5 + 0.8) * GIB)  # by --reserve-vram; by ComfyUI, for whatever computes
PLACEMENTS = {
    "mapped": {},
    "balanced": {"vram_mode": "balanced"},
    "low": {"vram_mode": "low"},
    "some stay": {"max_memory": "some"},
    "some page-locked": {"vram_mode": "balanced", "max_memory": "0=1GiB,cpu=1GiB"},
    "all may stay": {"max_memory": "100GiB"},
}
STAYING = 4  # layers, in "some stay"
STATES = ("NORMAL_VRAM", "LOW_VRAM", "NO_VRAM", "HIGH_VRAM")
ASKED = (1, 1.0, 1.5, 3.0, 1e6)  # to be freed: a byte, and buffers


def load_pack():
    """nodes/loaded.py inside its package, as ComfyUI imports it."""
    spec = importlib.util.spec_from_file_location("pack", REPOSITORY / "__init__.py", submodule_search_locations=[])
    spec.submodule_search_locations.append(str(REPOSITORY))
    pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return importlib.import_module("pack.nodes.loaded"), importlib.import_module("pack.sensenova_core")


wire, core = load_pack()
SETTINGS = core.SamplingSettings(512, 512, steps=2, guidance=core.Guidance(1.0))  # drawing takes more than reading


def loaded(device: torch.device = CPU, vram_mode: str = "auto", max_memory: str = "auto"):
    """What the Loader gives. max_memory "some": so that STAYING layers stay while a picture is drawn."""
    if max_memory == "some":
        engine = core.load(checkpoint, device=device, dtype="auto", vram_mode="balanced", place=False)
        sizes = engine.memory.sizes
        needed = task(engine).most_activations + sizes.fixed + (3 + STAYING) * sizes.slot
        max_memory = f"{needed / 1024 + 1:.0f}KiB"
    return wire.LoadedEngine(
        core.load(checkpoint, device=device, dtype="auto", vram_mode=vram_mode, max_memory=max_memory, place=False)
    )


def task(engine):
    return engine.drawing_task(engine.encode("a cat"), SETTINGS)


def draw(model, ready: bool = True) -> str:
    """The picture, as a digest."""
    sample = model.sample if ready else model.engine.denoise
    *_, last = sample(model.engine.encode("a cat"), SETTINGS)
    return hashlib.sha1(last.image().numpy().tobytes()).hexdigest()


def buffers(engine) -> int:
    """How many buffers for a unit there really are, host's and device's: by what Python still knows of tensors."""
    slot = engine.memory.sizes.slot
    on_pages = (-(-slot // mmap.PAGESIZE) + 1) * mmap.PAGESIZE  # one that has its pages to itself
    storages = [one.untyped_storage() for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    return len(
        {storage.data_ptr() for storage in storages if storage.nbytes() in (slot, on_pages) and storage.device != _META}
    )


_META = torch.device("meta")


def on_card(engine) -> int:
    """Buffers on the device, by the engine's own count."""
    sizes, weights = engine.memory.sizes, engine.memory.residency
    return (weights.nbytes - sizes.fixed * weights.placed) // sizes.slot


def contract(model) -> dict[str, object]:
    """Each method that ComfyUI calls, asked directly."""
    engine, patcher = model.engine, model.patcher
    residency, sizes = engine.memory.residency, engine.memory.sizes
    store = getattr(residency, "store", None)
    seen = {"at first": patcher.loaded_size(), "at first on": str(patcher.current_loaded_device())}
    drawn = [draw(model)]
    seen["size"] = 0 < patcher.loaded_size() <= patcher.model_size()
    held = patcher.loaded_size()
    model.make_ready(lambda: task(engine))
    seen["kept when ready again"] = patcher.loaded_size() == held
    patcher.detach(unpatch_all=False)
    seen["kept by bookkeeping"] = patcher.loaded_size() == held
    if store:
        seen["counted"] = on_card(engine) + store.nbytes // sizes.slot == buffers(engine)
        seen["allowed"] = []
        for count in (0, 1, 5, 7, 100, 5, 0):
            before = patcher.loaded_size()
            gained = patcher.partially_load(CPU, sizes.fixed + count * sizes.slot - before)
            right = gained == patcher.loaded_size() - before and on_card(engine) <= count
            drawn.append(draw(model, ready=False))
            staying = len(engine.memory.last_plan.phases["generation"].resident)
            seen["allowed"].append([count, right, on_card(engine), staying])
    seen["freed"] = []
    for size in ASKED:
        drawn.append(draw(model))
        asked = size if size == 1 else int(size * sizes.slot)
        before = patcher.loaded_size() + engine.remembered.nbytes
        freed = patcher.partially_unload(CPU, asked)
        true = freed == before - patcher.loaded_size() - engine.remembered.nbytes
        enough = freed >= asked or patcher.loaded_size() <= sizes.fixed
        seen["freed"].append(
            [true, enough, store is None or on_card(engine) + store.nbytes // sizes.slot == buffers(engine)]
        )
    drawn.append(draw(model))
    seen["host buffers"] = store.nbytes // sizes.slot if store else 0
    patcher.detach()
    seen["detached"] = [patcher.loaded_size(), engine.remembered.nbytes, store.nbytes if store else 0, buffers(engine)]
    seen["detached from"] = str(patcher.current_loaded_device())
    drawn.append(draw(model))
    mm.unload_all_models()
    seen["unloaded"] = [residency.nbytes, engine.remembered.nbytes, buffers(engine)]
    seen["pictures"] = sorted({*drawn, draw(model)})
    return seen


def dropped(model) -> dict[str, object]:
    """What is left of a model that nobody holds any more, without a garbage collection."""
    gc.collect()
    gc.disable()
    draw(model)
    engine = model.engine
    parts = {
        name: weakref.ref(part)
        for name, part in {
            "engine": engine,
            "model": engine.model,
            "weights": engine.memory.residency,
            "reader": engine.reader,
        }.items()
    }
    before = len(mm.loaded_models())
    del model, engine
    alive = [name for name, part in parts.items() if part() is not None]
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("sensenova") for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    threads = sorted({thread.name.rpartition("_")[0] for thread in threading.enumerate() if "sensenova" in thread.name})
    gc.enable()
    return {"known": [before, len(mm.loaded_models())], "alive": alive, "threads": threads}


class Card:
    """For a `with` block in which ComfyUI believes to have a card, on which there is nothing but what these have."""

    def __init__(self, state: mm.VRAMState, *patchers: ModelPatcher):
        self.state, self.patchers, self.capacity = state, patchers, 0

    @property
    def used(self) -> int:
        engines = [patcher.model.engine for patcher in self.patchers if isinstance(patcher, wire.EnginePatcher)]
        read = sum(engine.remembered.nbytes for engine in engines)
        return read + sum(patcher.loaded_size() for patcher in self.patchers)

    def free(self, device: torch.device | None = None, torch_free_too: bool = False):
        free = self.capacity - self.used
        return (free, free) if torch_free_too else free

    def __enter__(self) -> "Card":
        believed = {
            "get_free_memory": self.free,
            "is_device_cpu": lambda device: device == CPU,
            "get_torch_device": lambda: CARD,
            "vram_state": self.state,
            "MIN_WEIGHT_MEMORY_RATIO": 0.0,  # as for NVIDIA cards
        }
        self.belief = mock.patch.multiple(mm, **believed)
        self.belief.start()
        return self

    def __exit__(self, *exception) -> None:
        mm.unload_all_models()
        self.belief.stop()


def on_a_card(state: mm.VRAMState) -> dict[str, object]:
    """[buffers that there is room for, those taken and layers that stay in two runs], and the pictures."""
    model = loaded(CARD, max_memory="100GiB")
    engine, sizes, rows, pictures = model.engine, model.engine.memory.sizes, [], set()
    for room in (0, 1, 3, 8, 12, 100, 8):
        with Card(state, model.patcher) as card:
            draw(model)  # what is read stays: beside the weights
            mm.unload_all_models()
            taken, staying = set(), set()
            for _ in range(2):
                read = engine.remembered.nbytes
                card.capacity = RESERVED + read + sizes.fixed + room * sizes.slot + sizes.slot // 2
                pictures.add(draw(model))
                taken.add(on_card(engine))
                staying.add(len(engine.memory.last_plan.phases["generation"].resident))
            rows.append([room, sorted(taken), sorted(staying)])
    return {"rows": rows, "pictures": sorted(pictures)}


def larger_picture() -> list[int]:
    """Buffers on a card with room for eight, before and after something needs the room of three beside the weights."""
    model = loaded(CARD, max_memory="100GiB")
    engine, sizes = model.engine, model.engine.memory.sizes
    with Card(mm.VRAMState.NORMAL_VRAM, model.patcher) as card:
        draw(model)
        card.capacity = RESERVED + engine.remembered.nbytes + sizes.fixed + 8 * sizes.slot + sizes.slot // 2
        draw(model)
        before = on_card(engine)
        beside = RESERVED - mm.extra_reserved_memory() + 3 * sizes.slot
        model.make_ready(
            lambda: core.memory.Task("large", core.memory.Work(int(beside / core.memory.plan.FRAGMENTATION)))
        )
        return [before, on_card(engine)]


def beside_another(count: int | None) -> dict[str, object]:
    """Ours; a big one that needs what we read and so many of our buffers, or all we have; ours; the other; ours."""
    model = loaded(CARD, max_memory="100GiB")
    other = ModelPatcher(torch.nn.Linear(2048, 2048, bias=False), CARD, CPU)
    engine, slot, size = model.engine, model.engine.memory.sizes.slot, other.model_size()
    with Card(mm.VRAMState.NORMAL_VRAM, model.patcher, other) as card:
        card.capacity = 100 * GIB
        pictures = [draw(model)]
        before = on_card(engine)
        needed = model.patcher.loaded_size() if count is None else count * slot - slot // 2
        card.capacity = card.used + RESERVED + int(1.1 * size) - engine.remembered.nbytes - needed
        mm.load_models_gpu([other])
        seen = {"lost": before - on_card(engine), "left": model.patcher.loaded_size() > 0}
        seen["fits"] = card.free() >= mm.minimum_inference_memory()
        seen["other"] = [other.loaded_size() == size]
        pictures.append(draw(model))
        seen["fits again"] = card.free() >= mm.minimum_inference_memory() - engine.remembered.nbytes
        mm.load_models_gpu([other])
        seen["other"].append(other.loaded_size() == size)
        pictures.append(draw(model))
        mm.unload_all_models()
        seen["unloaded"] = [model.patcher.loaded_size(), engine.remembered.nbytes, buffers(engine)]
        return seen | {"had": before, "pictures": sorted({*pictures})}


def taking_turns() -> dict[str, object]:
    """A wire without and one with a LoRA, of one model, on a card with room for eight buffers."""
    model = loaded(CARD, max_memory="100GiB")
    other, engine = model.with_lora(Path(lora), 1.0), model.engine
    with Card(mm.VRAMState.NORMAL_VRAM, model.patcher) as card:
        draw(model)
        sizes = engine.memory.sizes
        card.capacity = RESERVED + engine.remembered.nbytes + sizes.fixed + 8 * sizes.slot + sizes.slot // 2
        pictures, seen = {"off": [], "on": []}, {"dropped": [], "within": []}
        for _ in range(3):
            for name, wire in (("off", model), ("on", other)):
                pictures[name].append(draw(wire))
                seen["dropped"].append(engine.memory.residency.times_dropped)
                seen["within"].append(card.free() >= 0 and model.patcher.loaded_size() <= model.patcher.model_size())
        mm.unload_all_models()
        left = [model.patcher.loaded_size(), engine.remembered.nbytes, buffers(engine)]
    return seen | {"unloaded": left, "drawn": {name: sorted(set(drawn)) for name, drawn in pictures.items()}}


def main() -> dict[str, object]:
    seen = {"taking turns": taking_turns()}
    for name, options in PLACEMENTS.items():
        model = loaded(**options)
        seen[name] = contract(model)
        del model
        seen[name]["dropped"] = dropped(loaded(**options))
    for state in mm.VRAMState:
        if state.name in STATES:
            seen[state.name] = on_a_card(state)
    seen["larger picture"] = larger_picture()
    seen["another needs some"], seen["another needs all"] = beside_another(5), beside_another(None)
    return seen


if __name__ == "__main__":
    print(json.dumps(main()))
