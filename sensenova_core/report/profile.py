"""What a run took: times, image tokens, peaks of device and process memory, and where the time went."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import psutil
import torch

from ..drawing.sampling import Step
from ..engine import Engine
from ..memory import in_words
from ..memory.plan_text import IN_PLACE, rows_of
from ..writing.conversation import Answer
from ..writing.document import Drawing, Text
from ..writing.thinking import Thought

WIDTH = 64
Result = TypeVar("Result")


@dataclass
class Peak:
    """Highest bytes seen: allocated and reserved on the device (0 without CUDA), resident in the process."""

    allocated: int = 0
    reserved: int = 0
    resident: int = 0

    def update(self, device: torch.device) -> None:
        self.resident = max(self.resident, psutil.Process().memory_info().rss)
        if device.type == "cuda":
            self.allocated = max(self.allocated, torch.cuda.max_memory_allocated(device))
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved(device))

    def __str__(self) -> str:
        return (
            f"allocated {in_words(self.allocated)}, reserved {in_words(self.reserved)}, "
            f"cpu RSS {in_words(self.resident)}"
        )


@dataclass
class Profile:
    """Collects figures around `loading` and `generating`, and of results that are `Watched`; `summary()` puts them in
    the published form."""

    device: torch.device
    load_seconds: float = 0.0
    load_peak: Peak = field(default_factory=Peak)
    generation_seconds: float = 0.0
    generation_peak: Peak = field(default_factory=Peak)
    image_tokens: list[int] = field(default_factory=list)  # of every image of every call
    text_tokens: int = 0
    calls: int = 0
    spent: Counter[str] = field(default_factory=Counter)  # seconds by kind of work

    @contextmanager
    def loading(self) -> Iterator[None]:
        start = self._start()
        yield
        self.load_seconds += self._stop(start, self.load_peak)

    @contextmanager
    def generating(self, engine: Engine) -> Iterator[None]:
        """Around one call."""
        start = self._start()
        with engine.alone():
            engine.memory.clock.drain()
        yield
        self.generation_seconds += self._stop(start, self.generation_peak)
        self.calls += 1
        with engine.alone():
            self.spent.update(engine.memory.clock.drain())

    def count(self, result: object) -> None:
        """Count what a result adds: a batch of pictures once it is finished, or text once it is whole."""
        if isinstance(result, Drawing):
            result = result.step
        if isinstance(result, Step) and result.index + 1 == result.total:
            self.image_tokens += [result.grid.tokens] * len(result.z)
        elif isinstance(result, Text) or (isinstance(result, Thought) and result.conditioning is not None):
            self.text_tokens += result.tokens
        elif isinstance(result, Answer) and result.ended is not None:
            self.text_tokens += len(result.ids)

    def summary(self, engine: Engine) -> str:
        """The rows and units of the reference implementation's profile, those of images only where there are any;
        beneath them where the time went, and the plan of the last run."""
        images = len(self.image_tokens)
        dtype = str(engine.stored.compute_dtype).removeprefix("torch.")
        rows = {
            "config": f"vram_mode={engine.memory.limits.mode}, attn_backend={engine.attention_used}, dtype={dtype}"
            + (", compute=int8" if engine.stored.int8 else "")
            + ("" if engine.compiles is None else ", compiled" if engine.compiles else ", not compiled"),
            "model load": f"{self.load_seconds:.3f} s",
            "load peak memory": self.load_peak,
            "generations": f"{self.calls} call(s), {f'{images} image(s) total, ' if images else ''}"
            f"{self.generation_seconds:.3f} s wall",
            **(self._drawn(engine.config.token_pixels) if images else {}),
            "generation peak mem": self.generation_peak,
        }
        if self.text_tokens:
            rate = self.text_tokens / self.spent["writing"] if self.spent["writing"] else 0.0
            rows["text tokens"] = f"{self.text_tokens} ({rate:.2f} tok/s)"
        line = "=" * WIDTH
        shown = [f"{name:<19} : {row}" for name, row in rows.items()]
        return "\n".join([line, "Profile summary", line, *shown, line, self._where(), *_plan(engine), line])

    def in_one_line(self) -> str:
        """What generating took."""
        peak = self.generation_peak
        card = f"peak {in_words(peak.allocated)} on the card, " if peak.allocated else "peak "
        return f"{self.generation_seconds:.1f} s in all; {card}{in_words(peak.resident)} of system memory"

    def _drawn(self, side: int) -> dict[str, str]:
        """side: pixels that a token covers."""
        images, tokens = len(self.image_tokens), sum(self.image_tokens)
        sizes = ", ".join(map(str, sorted(set(self.image_tokens))))
        return {
            "avg per image": f"{self.generation_seconds / images:.3f} s",
            "image tokens": f"patch_size={side}, avg {tokens / images:.0f} tok/image ({sizes})",
            "throughput": f"{tokens / self.generation_seconds:.2f} tok/s",
        }

    def _where(self) -> str:
        """By the phases of plans, of which reading is in every run; waiting for copies happens during all of them."""
        waiting = self.spent["waiting"]
        phases = {kind: self.spent[kind] for kind in ("reading", "writing", "drawing")}
        rows = {kind: seconds for kind, seconds in phases.items() if seconds or kind == "reading"}
        rows |= {"transfer waits": waiting, "compute": max(0.0, sum(phases.values()) - waiting)}
        return "\n".join(f"{name:<19} : {seconds:.3f} s" for name, seconds in rows.items())

    def _start(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        return time.perf_counter()

    def _stop(self, start: float, peak: Peak) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        peak.update(self.device)
        return time.perf_counter() - start


class Watched(Generic[Result]):
    """Results of a task to loop over, once, while a profile takes its figures. last: the one that came last."""

    last: Result

    def __init__(self, results: Iterable[Result], profile: Profile):
        self._results, self.profile = results, profile

    def __iter__(self) -> Iterator[Result]:
        for result in self._results:
            self.last = result
            self.profile.count(result)
            yield result
            # Noted at every step, as the process's memory has no peak counter that can be reset.
            self.profile.generation_peak.update(self.profile.device)


def _plan(engine: Engine) -> list[str]:
    plan = engine.memory.last_plan
    rows = {"": IN_PLACE} if plan is None else rows_of(plan)
    return [f"{f'plan {name}'.strip():<19} : {row}" for name, row in rows.items()]
