"""What a run took: times, image tokens, and peaks of device and process memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import torch

GIB = 2**30
WIDTH = 64


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
            f"allocated {self.allocated / GIB:.2f} GiB, reserved {self.reserved / GIB:.2f} GiB, "
            f"cpu RSS {self.resident / GIB:.2f} GiB"
        )


@dataclass
class Profile:
    """Collects figures around `loading` and `generating`; `summary()` prints them."""

    device: torch.device
    load_seconds: float = 0.0
    load_peak: Peak = field(default_factory=Peak)
    generation_seconds: float = 0.0
    generation_peak: Peak = field(default_factory=Peak)
    image_tokens: list[int] = field(default_factory=list)  # of every image of every call
    calls: int = 0

    @contextmanager
    def loading(self) -> Iterator[None]:
        start = self._start()
        yield
        self.load_seconds += self._stop(start, self.load_peak)

    @contextmanager
    def generating(self, images: int, tokens: int) -> Iterator[None]:
        """Around one call that draws `images` images of `tokens` tokens each."""
        start = self._start()
        yield
        self.generation_seconds += self._stop(start, self.generation_peak)
        self.calls += 1
        self.image_tokens += [tokens] * images

    def tick(self) -> None:
        """Note the process's memory now: it has no peak counter that can be reset. Call once a step."""
        self.generation_peak.update(self.device)

    def summary(self, vram_mode: str, attention: str, dtype: str, token_pixels: int) -> str:
        """The rows and units of the reference implementation's profile. token_pixels: side of one image token."""
        images = len(self.image_tokens)
        average = self.generation_seconds / images if images else 0.0
        tokens = sum(self.image_tokens)
        sizes = ", ".join(map(str, sorted(set(self.image_tokens))))
        rows = {
            "config": f"vram_mode={vram_mode}, attn_backend={attention}, dtype={dtype}",
            "model load": f"{self.load_seconds:.3f} s",
            "load peak memory": self.load_peak,
            "generations": f"{self.calls} call(s), {images} image(s) total, {self.generation_seconds:.3f} s wall",
            "avg per image": f"{average:.3f} s",
            "image tokens": f"patch_size={token_pixels}, avg {tokens / max(images, 1):.0f} tok/image ({sizes})",
            "throughput": f"{tokens / self.generation_seconds if images else 0:.2f} tok/s",
            "generation peak mem": self.generation_peak,
        }
        line = "=" * WIDTH
        return "\n".join([line, "Profile summary", line, *(f"{name:<19} : {row}" for name, row in rows.items()), line])

    def _start(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        return time.perf_counter()

    def _stop(self, start: float, peak: Peak) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        peak.update(self.device)
        return time.perf_counter() - start
