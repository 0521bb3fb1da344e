"""The cases of memory_modes.py, one at a time: what each draws, and the figures it leaves."""

import gc
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from geometry import step_flops
from PIL import Image
from process import Watch
from text_to_image import matmul_rate, synchronize

import sensenova_core
from sensenova_core.drawing import flow
from sensenova_core.memory import Plan, limits_of
from sensenova_core.memory.plan_text import explained
from sensenova_core.memory.residency import Residency
from sensenova_core.reading.prompt import Conditioning
from sensenova_core.settings import VRAM_MODES, DecodingSettings, SamplingSettings
from sensenova_core.writing.decode import chooser

GIB = 2**30
LETTER = 64  # a text token; any will do
COPIED_AT_ONCE = 2**28  # bytes, to measure a bus with
PROMPTS = (
    "Close portrait of an elderly woman by a farmhouse window, textured skin, gentle smile, warm natural light, "
    "emotional documentary look. The portrait should feel polished and natural, with sharp eyes and realistic skin.",
    "A wooden sailing boat in a quiet harbour at dawn, mist over the water, ropes and varnish in fine detail, soft "
    "light from the left. The picture should feel calm and clear, with true reflections and a natural horizon line.",
)


@dataclass(frozen=True)
class Case:
    """task: "picture", "thinking" or "edit". mode, max_memory: as `sensenova_core.load` takes them."""

    name: str
    task: str
    mode: str
    max_memory: str

    @classmethod
    def named(cls, name: str) -> "Case":
        task, _, setting = name.rpartition(":")
        mode, at, max_memory = setting.partition("@")
        if not at and mode not in VRAM_MODES:
            mode, max_memory = "auto", setting
        if task not in ("", "thinking", "edit") or mode not in VRAM_MODES:
            raise SystemExit(
                f"case {name!r}: write [thinking:|edit:] and a mode ({', '.join(VRAM_MODES)}) or a max_memory"
            )
        return cls(name, task or "picture", mode, max_memory or "auto")

    def budget(self, device: torch.device) -> int | None:
        """Bytes of the device that may be used, where the case says it."""
        return limits_of(self.mode, self.max_memory, device).device


@dataclass(frozen=True)
class Job:
    """What every case does. tokens: of the reasoning. reference: side of an edit's image in pixels."""

    sampling: SamplingSettings
    tokens: int
    reference: int


def measure(case: Case, folder: Path, device: torch.device, dtype: str, job: Job) -> dict:
    """One case, from nothing loaded to two pictures drawn. Leaves nothing behind on the device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with Watch() as watch:
        row = {"case": case.name, "start_anon_gib": watch.most.get("anon", 0) / GIB}
        row |= _run(case, folder, device, dtype, job)
    if device.type == "cuda":
        row["allocated_gib"] = torch.cuda.max_memory_allocated(device) / GIB
        row["reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
    row |= {f"{kind}_gib": size / GIB for kind, size in watch.most.items()}
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row


def _run(case: Case, folder: Path, device: torch.device, dtype: str, job: Job) -> dict:
    begun = time.perf_counter()
    engine = sensenova_core.load(folder, device=device, dtype=dtype, vram_mode=case.mode, max_memory=case.max_memory)
    weights = engine.memory.residency
    streams = isinstance(weights, Residency)
    loaded = time.perf_counter()
    first = _draw(engine, case, job, 0)
    row = {"load_s": loaded - begun, "first_step_s": first["step_at"] - begun, "first_image_s": first["seconds"]}
    engine.memory.clock.drain()
    before = _copied(weights) if streams else 0
    following = _draw(engine, case, job, 1)
    row |= {"image_s": following["seconds"], "token_s": following["token"]}
    row |= {f"{kind}_s": seconds for kind, seconds in engine.memory.clock.drain().items()}
    row |= {"copied_gib": (_copied(weights) - before) / GIB if streams else 0.0}
    return row | {
        "weights_gib": (weights.most_bytes if streams else weights.nbytes) / GIB,
        "model_gib": engine.stored.nbytes / GIB,
        "kept_gib": weights.store.nbytes / GIB if streams else 0.0,
        "prefixes": following["prefixes"],
        "limit_flops": job.sampling.steps * _step_flops(engine, job.sampling, following["prefixes"]),
        "token_gib": following["token_bytes"] / GIB,
        "plan": "\n".join(explained(plan) for plan in following["plans"]) or "in place, mapped from the files",
    }


def _step_flops(engine: sensenova_core.Engine, sampling: SamplingSettings, prefixes: list[int]) -> float:
    grid = engine.config.grid(width=sampling.width, height=sampling.height)
    return step_flops(engine.model, grid.tokens, prefixes, sampling.batch_size)


def _draw(engine: sensenova_core.Engine, case: Case, job: Job, index: int) -> dict:
    """One picture, with what the task does before it. seconds: of all of it; token: of one of text. step_at: when
    its first step was done."""
    begun, token, plans = time.perf_counter(), None, []
    images = [_noise(job.reference, index)] if case.task == "edit" else []
    conditioning = engine.encode(PROMPTS[index], images)
    if case.task == "thinking":
        conditioning, token = _think(engine, conditioning, job.tokens)
        plans.append(engine.memory.last_plan)
    for step in engine.denoise(conditioning, job.sampling):  # the last one is the result
        if step.index == 0:
            synchronize(engine.device)
            step_at = time.perf_counter()
    step.image().cpu()
    done = time.perf_counter()
    plans = [plan for plan in (*plans, engine.memory.last_plan) if plan is not None]
    used = flow.branches_needed(job.sampling, edit=conditioning.is_edit)
    return {
        "seconds": done - begun,
        "token": token,
        "token_bytes": sum(_written(plan) for plan in plans),
        "step_at": step_at,
        "plans": plans,
        "prefixes": [len(conditioning.sequences[branch].ids) for branch in used],
    }


def _think(engine: sensenova_core.Engine, conditioning: Conditioning, tokens: int) -> tuple[Conditioning, float]:
    """Reasoning that never ends by itself; and seconds of each token after the first."""
    settings = DecodingSettings(max_tokens=tokens)
    usual, times = chooser(settings), []

    def choose(logits: torch.Tensor, chosen: list[int]) -> int:
        usual(logits, chosen)
        times.append(time.perf_counter())
        return LETTER

    *_, thought = engine.think(conditioning, settings, choose)
    return thought.conditioning, (times[-1] - times[0]) / max(1, len(times) - 1)


def _noise(side: int, seed: int) -> Image.Image:
    pixels = torch.randint(256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy())


def _copied(weights: Residency) -> int:
    """Bytes that have gone to the device."""
    return sum(weights.units[expert][index].nbytes * times for (expert, index), times in weights.copies.items())


def _written(plan: Plan) -> int:
    """Bytes that streaming takes for every token of text."""
    return sum(phase.streamed_bytes for phase in plan.phases.values() if phase.name == "writing")


def rates(device: torch.device, dtype: torch.dtype) -> dict:
    """What the machine can do at best: bytes a second to the device out of page-locked memory, FLOP a second."""
    source = torch.ones(COPIED_AT_ONCE, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target, best = torch.empty_like(source, device=device), float("inf")
    for _ in range(5):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source, non_blocking=True)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return {"copy_rate": source.nbytes / best, "flops": matmul_rate(device, dtype)}
