"""Several ways to do the same thing, timed in turns in one run, so that what disturbs one of them disturbs all."""

import time
from collections.abc import Callable

import torch


def in_turns(
    forms: dict[str, Callable], device: torch.device, seconds: float, least: int = 2
) -> dict[str, list[float]]:
    """Name -> milliseconds of every round. seconds: to spend on all; least: rounds in any case."""
    rounds: dict[str, list[float]] = {name: [] for name in forms}
    until = time.perf_counter() + seconds
    while min(map(len, rounds.values())) < least or time.perf_counter() < until:
        for name, form in forms.items():
            start = clock(device)
            form()
            rounds[name].append(1000 * (clock(device) - start))
    return rounds


def clock(device: torch.device) -> float:
    """Seconds: of this process's own work on a CPU, which others may use as well, and of the wall beside a card."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
