"""Engines whose layers stream: ways to set them up, to look on, to break them, and all that they tell."""

import random
import time
import weakref
from collections.abc import Callable
from dataclasses import replace

import torch

from sensenova_core import DecodingSettings, DocumentSettings, Engine, SamplingSettings
from sensenova_core.memory import plan as plans
from sensenova_core.model import GENERATION
from sensenova_core.settings import Guidance
from sensenova_core.writing.document import Drawing
from tests.support.geometries import short
from tests.support.golden_set import GOLDEN
from tests.support.peak import PeakBytes
from tests.support.pictures import picture
from tests.support.watch import draw, last_of, saying, thought_through

TALE = "a<img><img>z<|im_end|>"
SIZE = {"width": 64, "height": 64, "seed": 5}
TINY = tuple(sorted(folder.name for folder in (GOLDEN / "checkpoints").iterdir()))
DEEP = {  # name -> (seed of the geometry, how it is stored, what it is cast to)
    "dense": (0, {}, "auto"),
    "bfloat16": (1, {"dtype": torch.bfloat16}, "auto"),  # beside norms in float32
    "cast": (5, {"dtype": torch.bfloat16, "shards": 3}, "float32"),
    "narrowed": (6, {"norms": torch.bfloat16}, "float16"),
    "experts": (4, {"shards": 2}, "auto"),
}
WAYS = {
    "both experts stay": {"vram_mode": "auto", "max_memory": "64GiB"},
    "one expert stays": {"vram_mode": "full", "max_memory": "64GiB"},
    "balanced": {},
    "balanced, kept": {"max_memory": "0=64GiB,cpu=1GiB"},
    "low": {"vram_mode": "low"},
    "low, one kept": {"vram_mode": "low", "slots": 1, "locked": 3},
    "one buffer": {"vram_mode": "auto", "max_memory": "64GiB", "slots": 1},
    "some stay": {"vram_mode": "auto", "max_memory": "64GiB", "slots": 4},
    "more stay, some kept": {"vram_mode": "full", "max_memory": "64GiB", "slots": 5, "locked": 4},
}


def allow(engine: Engine, slots: int) -> None:
    room = slots * engine.memory.sizes.slot  # of the larger expert
    engine.memory.limits = replace(engine.memory.limits, buffers=room)


def copied(engine: Engine, expert: str) -> int:
    return sum(count for (each, _), count in engine.memory.residency.copies.items() if each == expert)


def phase(engine: Engine, expert: str = GENERATION) -> plans.Phase:
    return engine.memory.last_plan.phases[expert]


def told_by(engine: Engine) -> list[str]:
    said: list[str] = []
    engine.memory.tell = said.append
    return said


def watch_attention(engine: Engine, look: Callable[[bool], None]) -> None:
    """Call `look` whenever a layer attends; it is told whether the layer reads text."""
    real = engine._kernel

    def kernel(query, key, value, *, causal):
        look(causal)
        return real(query, key, value, causal=causal)

    engine._kernel = engine.reader.kernel = kernel


class Failing:
    """Fails at the given attentions, counted from 0 over all; to be given to `watch_attention`."""

    def __init__(self, at: set[int], error: Callable[[], BaseException], drawing_only: bool = False):
        self.at, self.error, self.drawing_only, self.count = at, error, drawing_only, 0

    def __call__(self, causal: bool) -> None:
        if causal and self.drawing_only:
            return
        self.count += 1
        if self.count - 1 in self.at:
            raise self.error()


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of that.")


def draw_short(engine: Engine, text: str = "x", steps: int = 2, **settings) -> torch.Tensor:
    return last_of(engine.sample(short(engine, text), **SIZE | settings, steps=steps))


def story(engine: Engine) -> dict[str, torch.Tensor | str | list]:
    """One of everything that an engine does."""
    few = DecodingSettings(2)
    told: dict[str, torch.Tensor | str | list] = {}
    conditioning = engine.encode("a red circle")
    told["picture"] = last_of(engine.sample(conditioning, **SIZE, steps=2))
    told["again"] = last_of(engine.sample(conditioning, **SIZE, steps=1, cfg=1.0, batch_size=2))
    thought = thought_through(engine.think(conditioning, few))
    told["thought"] = thought.think_text
    told["after the thought"] = last_of(engine.sample(thought, **SIZE, steps=1))
    told["edit"] = draw(engine, "bluer", [picture(64, 64)], steps=1, img_cfg=2.0)
    told["answer"] = [answer.text for answer in engine.understand("what?", [picture(64, 64)], settings=few)]
    settings = DocumentSettings(SamplingSettings(64, 64, 1, Guidance(4.0, 2.0)))
    events = list(engine.interleave("a tale", (), settings=settings, choose=saying(engine, TALE)))
    told["document"] = [type(event).__name__ for event in events]
    told["last drawn"] = [event for event in events if isinstance(event, Drawing)][-1].step.pixels()
    return told


def check_same(told: dict, expected: dict) -> None:
    for name, value in expected.items():
        same = torch.equal(told[name], value) if isinstance(value, torch.Tensor) else told[name] == value
        assert same, name


def peaks_of_two_runs(engine: Engine, draw: random.Random):
    """The plan of each, and most bytes on the device. Both of the same budget, the second one from a longer prompt."""
    settings = SamplingSettings(
        width=draw.choice([8, 16, 32]),
        height=draw.choice([8, 16]),
        steps=draw.choice([1, 2]),
        guidance=Guidance(draw.choice([1.0, 4.0])),
        batch_size=draw.choice([1, 1, 3]),
    )
    prompts = [short(engine, "a red circle"), short(engine, "a blue square " * draw.randint(1, 6))]
    sizes = engine.memory.sizes
    works = [work for prompt in prompts for work in engine.drawing_task(prompt, settings).works.values()]
    outside = sizes.fixed + max(map(sizes.unpacking, sizes.units))
    budget = outside + max(work.reserved for work in works) + draw.choice([1, 2, draw.randint(1, 20)]) * sizes.slot
    mode = draw.choice(["auto", "full", "balanced", "low"])
    engine.release()
    engine.memory.limits = replace(engine.memory.limits, mode=mode, device=budget)
    engine.place()  # the small tensors are those of the mapped file, and are counted by hand
    with PeakBytes("cpu") as peak:
        peak.leave_out(engine.model.parameters())
        for prompt in prompts:
            peak.most = peak.now
            for step in engine.denoise(prompt, settings):
                step.pixels()
            del step
            yield engine.memory.last_plan, peak.most + sizes.fixed


def gone(*watched: weakref.ref) -> bool:
    """Threads that still hold what they did last get a moment to let go."""
    until = time.monotonic() + 2
    while any(each() is not None for each in watched) and time.monotonic() < until:
        time.sleep(0.001)
    return all(each() is None for each in watched)
