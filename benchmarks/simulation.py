"""Predicts pictures on cards that are not here: the real plans and the real streaming code, on simulated clocks.

    python benchmarks/simulation.py
    python benchmarks/simulation.py --copy-gb 13 --tflops 30 --budget-gib 7 --host-gib 12     # a card of your own

The reference task on random-weight shapes of an 8B model: 2048 x 2048, 50 steps, cfg 4. See simulated.py for what the
clocks know. A card's rates are its makers' peaks for dense bfloat16 and what its bus carries in practice; arithmetic
that reaches less than its peak leaves copies more time to hide. Predictions, not measurements. Writes JSON.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from geometry import GEOMETRIES, linear_parameters, model_config, step_flops
from machine import machine
from simulated import Prediction, SimulatedResidency, draw
from targets import TARGETS, Bases

from sensenova_core.memory import Limits, Plan, make_plan
from sensenova_core.memory.activations import Activations
from sensenova_core.model import SenseNovaU1
from sensenova_core.model.config import ModelConfig
from sensenova_core.settings import Guidance, SamplingSettings

GIB = 2**30
BF16 = 2  # bytes
BUDGETS = (27, 20, 13, 9, 7)  # GiB, as in `targets`
READ_RATE = 10e9  # out of the page cache, several threads reading


@dataclass(frozen=True)
class Card:
    """copy_rate: bytes a second from page-locked memory. flops: a second, in matrix products. budget_gib: its
    max_memory, or None for all settings of a card that has room for everything. system_free: bytes of system memory.
    read_rate: bytes a second out of files: the page cache where they are in it, else the disk."""

    name: str
    copy_rate: float
    flops: float
    budget_gib: int | None
    system_free: int = 28 * GIB  # of a machine with 32 GB
    read_rate: float = READ_RATE


CARDS = (
    Card("RTX 4060 8 GB", 13e9, 30e12, 7),
    Card("RTX 4060 8 GB, 16 GB of system memory", 13e9, 30e12, 7, system_free=12 * GIB, read_rate=3e9),
    Card("RTX 4070 12 GB", 25e9, 58e12, 9),
    Card("RTX 4080 16 GB", 25e9, 97e12, 13),
    Card("RTX 4090 24 GB", 25e9, 165e12, 20),
    Card("RTX 5090 32 GB", 50e9, 210e12, 27),
    Card("H100 80 GB", 50e9, 650e12, None),
    Card("H200 141 GB", 50e9, 700e12, None),
)


@dataclass(frozen=True)
class Picture:
    """What is drawn. prefixes: tokens of the prompt with the system message, and of the empty prompt."""

    sampling: SamplingSettings
    prefixes: tuple[int, ...] = (400, 9)

    def plan(
        self, config: ModelConfig, residency: SimulatedResidency, limits: Limits, system_free: int, unread: int
    ) -> Plan:
        branches = dict(zip(("condition", "unconditional"), self.prefixes, strict=True))
        task = Activations(config, BF16).drawing(self.sampling, branches, unread=unread)
        return make_plan(residency.sizes, task, limits, system_free=system_free)

    def reading_flops(self, model: SenseNovaU1) -> list[float]:
        """Of one layer, for each prefix."""
        parameters = linear_parameters(model.understanding.decoder) / model.config.decoder.num_layers
        return [2.0 * parameters * tokens for tokens in self.prefixes]

    def drawing_flops(self, model: SenseNovaU1) -> float:
        """Of one layer in one step; what a step computes beside its layers is shared out among them."""
        grid = model.config.grid(width=self.sampling.width, height=self.sampling.height)
        flops = step_flops(model, grid.tokens, [*self.prefixes], self.sampling.batch_size)
        return flops / model.config.decoder.num_layers


@dataclass(frozen=True)
class Row:
    """One card in one setting. first: the first picture, nothing read yet. next: one with another prompt, after it.

    full_s: what `next` takes in the mode full, were the card large enough. streaming_s: what its copies take alone.
    target_s, target_gib: the most that the targets allow.
    """

    card: str
    setting: str
    streamed: int
    first_s: float
    next_s: float
    full_s: float
    streaming_s: float
    step_s: float
    step_compute_s: float
    hidden: float
    step_copied_gb: float
    device_gib: float
    target_s: float
    target_gib: float

    @property
    def ok(self) -> bool:
        return self.next_s <= self.target_s and self.device_gib <= self.target_gib


def two_pictures(config: ModelConfig, picture: Picture, limits: Limits, card: Card) -> tuple[Plan, list[Prediction]]:
    """The first picture and the next one, whose empty prompt has been read; the second one's plan."""
    residency = SimulatedResidency(config, card.copy_rate, card.read_rate)
    reading = [flops / card.flops for flops in picture.reading_flops(residency.model)]
    drawing = picture.drawing_flops(residency.model) / card.flops
    predictions = []
    for prefixes in (reading, reading[:1]):
        plan = picture.plan(config, residency, limits, card.system_free, len(prefixes))
        predictions.append(draw(residency, plan, prefixes, drawing, picture.sampling.steps))
    return plan, predictions


def settings_of(card: Card) -> Iterator[tuple[str, Limits]]:
    """Name, as in `targets`, and limits of what is simulated for a card."""
    if card.budget_gib is None:
        yield "full", Limits("full")
    for size in BUDGETS if card.budget_gib is None else (card.budget_gib,):
        yield f"{size}GiB", Limits(device=size * GIB)
    for mode in ("balanced", "low"):
        yield mode, Limits(mode)


@cache
def full_seconds(config: ModelConfig, picture: Picture, card: Card) -> float:
    """The next picture's in the mode full on a card without bounds."""
    return two_pictures(config, picture, Limits("full"), card)[1][1].seconds


def simulate(config: ModelConfig, picture: Picture, card: Card, setting: str, limits: Limits) -> Row:
    plan, (first, following) = two_pictures(config, picture, limits, card)
    drawing, step = plan.phases["generation"], following.step
    compute = picture.drawing_flops(SenseNovaU1.on_meta(config)) * config.decoder.num_layers / card.flops
    steps = picture.sampling.steps
    full, streaming = full_seconds(config, picture, card), following.copied / card.copy_rate
    target = TARGETS[setting]
    return Row(
        card=card.name,
        setting=setting,
        streamed=len(drawing.streamed),
        first_s=first.seconds,
        next_s=following.seconds,
        full_s=full,
        streaming_s=streaming,
        step_s=step.seconds,
        step_compute_s=compute,
        hidden=step.hidden,
        step_copied_gb=step.copied / 1e9,
        device_gib=max(first.device_bytes, following.device_bytes) / GIB,
        target_s=Bases(steps * compute, full, streaming).seconds(target),
        target_gib=target.reserved or target.allocated,
    )


def table(rows: list[Row]) -> str:
    """In Markdown."""
    lines = [
        "| card | setting | parts streamed | GB a step | step: s, x compute | copies hidden | next picture, s | x full "
        "| at most | first, s | peak, GiB | at most |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.card} | {row.setting} | {row.streamed} | {row.step_copied_gb:.1f} "
            f"| {row.step_s:.2f}, {row.step_s / row.step_compute_s:.2f} | {row.hidden:.0%} "
            f"| {row.next_s:.1f} | {row.next_s / row.full_s:.2f} | {_verdict(row.next_s, row.target_s)} "
            f"| {row.first_s:.1f} | {row.device_gib:.2f} | {_verdict(row.device_gib, row.target_gib)} |"
        )
    return "\n".join(lines)


def _verdict(value: float, most: float) -> str:
    return f"{most:.1f} ok" if value <= most else f"{most:.1f} **miss**"


def own_card(options) -> Card | None:
    given = (options.copy_gb, options.tflops)
    if None in given:
        if any(value is not None for value in (*given, options.budget_gib)):
            raise SystemExit("a card of your own needs both --copy-gb and --tflops")
        return None
    return Card("own", options.copy_gb * 1e9, options.tflops * 1e12, options.budget_gib)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--geometry", choices=GEOMETRIES, default="u1-8b")
    parser.add_argument("--layers", type=int, help="fewer or more layers than the geometry has")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--height", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--copy-gb", type=float, help="a card of your own: GB a second to it")
    parser.add_argument("--tflops", type=float, help="its rate of matrix products")
    parser.add_argument("--budget-gib", type=int, choices=BUDGETS, help="its max_memory; all of them without")
    parser.add_argument("--host-gib", type=float, help="free system memory, in place of each card's own")
    parser.add_argument("--read-gb", type=float, help="GB a second out of files, in place of %.0f" % (READ_RATE / 1e9))
    parser.add_argument("--output", type=Path, default=Path("build/bench/simulation.json"))
    options = parser.parse_args()

    config = model_config(options.geometry, options.layers)
    picture = Picture(SamplingSettings(options.width, options.height, options.steps, Guidance(options.cfg)))
    own = own_card(options)
    rows = []
    for card in CARDS if own is None else (own,):
        if options.host_gib is not None:
            card = replace(card, system_free=int(options.host_gib * GIB))
        if options.read_gb is not None:
            card = replace(card, read_rate=options.read_gb * 1e9)
        rows += [simulate(config, picture, card, *setting) for setting in settings_of(card)]
    print(table(rows))
    run = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "predicted": "on simulated clocks; nothing was measured",
        "machine": machine(torch.device("cpu")),
        "run": run,
        "cards": [asdict(card) for card in (CARDS if own is None else (own,))],
        "rows": [asdict(row) | {"ok": row.ok} for row in rows],
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    main()
