"""One model's weights in the memory that a user allows: plans each run, carries the plan out, and mends it once."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import torch

from ..checkpoint import StoredWeights
from ..errors import SenseNovaError, SettingsError, out_of_memory
from ..lora import Lora
from ..model import GENERATION, UNDERSTANDING, SenseNovaU1, Weights
from . import system_memory
from .budget import GIB, Limits, in_words, parse_max_memory
from .clock import Clock
from .fixed import Fixed
from .mapped import Mapped
from .plan import Plan, Sizes, Task, make_plan
from .plan_text import explained, in_one_line
from .residency import Residency
from .transfers import transfers_to
from .units import Units, units_of, with_changes

CARD_RESERVE = GIB // 2  # of a card: libraries' workspaces, code, the desktop
SMALLER = 0.75  # of the bytes in buffers, after memory ran out

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class PlacedWeights(Weights, Protocol):
    """The weights of one model, brought to where they run, and given back. nbytes: on the device. times_dropped: which
    ends runs in progress."""

    stored: StoredWeights
    units: Units
    placed: bool
    times_dropped: int

    @property
    def nbytes(self) -> int: ...

    @property
    def buffer_bytes(self) -> int: ...

    @property
    def page_locked_bytes(self) -> int: ...

    def place(self) -> None:
        """Bring what every run needs, unless it is there."""

    def use(self, units: Units, sizes: Sizes) -> None:
        """Go on with other units from the next run on."""

    def begin(self, plan: Plan) -> None:
        """Carry out another plan from the next pass on."""

    def enter(self, expert: str) -> None:
        """Begin an expert's phase, unless it is the one that goes on."""

    def shrink(self, size: int) -> int:
        """Give back at least so many bytes of the device, or all there are; returns how many."""
        ...

    def drop(self) -> None:
        """Give back all memory."""


class Placement:
    """Where the weights of one model are.

    in_place: they run where they lie, mapped from their files, and nothing is planned. tell: called with what a user
    should know; a log entry unless replaced. free: bytes that the device has left, however its host counts them; None
    on the CPU. clock: counts seconds of "reading", "writing" and "drawing", and of "waiting" for copies among them.
    """

    def __init__(
        self,
        model: SenseNovaU1,
        stored: StoredWeights,
        *,
        device: torch.device,
        limits: Limits,
        forget: Callable[[], None],
    ):
        """forget: gives up what was read and can be read again."""
        self.device, self.limits = device, limits
        units, fixed = units_of(model, stored), Fixed(model, stored)
        self._fixed, self._layers = fixed, model.config.decoder.num_layers
        self._carried: tuple[str, ...] = ()  # keys of the LoRAs that layers carry
        self.sizes = Sizes.of(units, layers=self._layers, fixed=fixed.nbytes, stored_bytes=stored.nbytes)
        lane = transfers_to(device)
        self.clock = Clock(lane)
        self.in_place = device.type == "cpu" and limits.mode in ("auto", "full") and limits.device is None
        self.residency: PlacedWeights = (
            Mapped(model, stored, units, fixed=fixed, sizes=self.sizes)
            if self.in_place
            else Residency(stored, units, self.sizes, fixed=fixed, device=device, lane=lane, clock=self.clock)
        )
        self.tell: Callable[[str], None] = log.warning
        self.free: Callable[[], int] | None = None if device.type == "cpu" else partial(_free_on, device)
        self._forget = forget
        self.task: Task | None = None
        self.last_plan: Plan | None = None
        self._mended, self._said = False, ""

    @property
    def wanted_bytes(self) -> int:
        """Most bytes of weights that there is use for on the device at one time."""
        if self.in_place:
            return self.residency.stored.nbytes
        most = self.sizes.wanted(self.limits.mode)
        return most if self.limits.device is None else min(most, self.limits.device)

    def plan(self, task: Task, remembered: int = 0, *, card: int | None = None, system_free: int | None = None) -> Plan:
        """What a task will take. remembered: bytes on the device, beside the weights, that can be given back.

        card, system_free: bytes, in place of what this machine has free. Raises SettingsError where it cannot fit.
        """
        limits = self.limits
        if card is not None:
            limits = replace(limits, weights=None)  # that was said of the card that is here
        elif self.free is not None:
            card = self.free() + self.residency.nbytes + remembered - CARD_RESERVE
        elif limits.page_locked is None:
            limits = replace(limits, page_locked=0)  # on a CPU, pages of the files are in system memory as they are
        if card is not None:
            limits = replace(limits, device=card if limits.device is None else min(card, limits.device))
        if system_free is None:
            system_free = system_memory.available_bytes() + self.residency.page_locked_bytes
        return make_plan(self.sizes, task, limits, system_free=system_free)

    def start(self, task: Task, remembered: int = 0) -> Plan | None:
        """Plan a run and prepare it; None where nothing needs a plan."""
        self.task, self._mended = task, False
        if not self.in_place:
            self._carry_out(self.plan(task, remembered))
        self.residency.place()
        return self.last_plan

    def use(self, loras: Sequence[tuple[Lora, float]]) -> None:
        """Have layers carry these LoRAs and run with what they add at these strengths, from the next run on.

        At strength 0 one is carried for later. Nothing moves as long as the same ones are carried.
        """
        residency, stored = self.residency, self.residency.stored
        if (carried := tuple(lora.key for lora, _ in loras)) != self._carried:
            residency.drop()
            self._carried = carried
            stored.borrow(
                {name: header for lora, _ in loras for name, header in lora.headers().items()},
                {file: state for lora, _ in loras for file, state in lora.states.items()},
            )
        units = with_changes(residency.units, loras)
        self.sizes = Sizes.of(units, layers=self._layers, fixed=self._fixed.nbytes, stored_bytes=stored.nbytes)
        outside = self._fixed.use(loras)
        residency.use(units, self.sizes)
        if outside and residency.placed:
            try:
                self._fixed.place(stored, self.device)
            except BaseException:
                residency.drop()
                raise

    def allow(self, weights: int | None) -> None:
        """Let weights take so many bytes of the device, from the next run on; None for what is free."""
        self.limits = replace(self.limits, weights=weights)

    def limit_page_locked(self, size: int) -> None:
        """Page-lock no more than so many bytes, whatever the user allows: what a host keeps to."""
        own = self.limits.page_locked
        self.limits = replace(self.limits, page_locked=size if own is None else min(own, size))

    def run(self, phase: str, work: Callable[[Weights], Result]) -> Result:
        """Do a phase's work with the weights: once more with less memory for them, if the device's runs out.

        phase: "reading", "writing" or "drawing", by which its seconds are counted. work: see model.Run. Raises
        SenseNovaError when memory runs out for good.
        """
        while True:
            try:
                return self._run_once(phase, work)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            self._make_room(reason)  # outside the handler, which keeps the failed work's tensors alive

    def _run_once(self, phase: str, work: Callable[[Weights], Result]) -> Result:
        self.residency.enter(GENERATION if phase == "drawing" else UNDERSTANDING)  # before any tensor is made
        with self.clock.counting(phase):
            return work(self.residency)

    def _carry_out(self, plan: Plan) -> None:
        self.last_plan = plan
        self.residency.begin(plan)
        if (brief := in_one_line(plan)) != self._said:
            log.info(brief)
        self._said = brief
        log.debug("plan:\n%s", explained(plan))

    def _make_room(self, reason: str) -> None:
        """Go on with fewer buffers for layers. Raises SenseNovaError if there cannot be fewer, or were just now."""
        plan = self.last_plan
        if self._mended or self.in_place or plan is None or self.task is None:
            raise self._given_up(reason)
        self._mended = True
        fewer = int(SMALLER * max(phase.buffer_bytes for phase in plan.phases.values()))
        if fewer < max(phase.slot_bytes for phase in plan.phases.values()):
            raise self._given_up(reason)
        self._forget()
        self.residency.shrink(self.residency.buffer_bytes - fewer)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        limits = replace(plan.limits, buffers=fewer)
        self._carry_out(make_plan(self.sizes, self.task, limits, system_free=plan.system_free))
        self.tell(
            f"device memory ran out; going on from the last step with {in_words(fewer)} for layers, "
            "slower. Set max_memory lower to avoid this."
        )

    def _given_up(self, reason: str) -> SenseNovaError:
        """Memory ran out for good; with advice."""
        plan = self.last_plan
        planned = "" if plan is None else f" after a plan for {in_words(plan.device_bytes)}"
        smaller = "" if self.task is None else f", or ask for {self.task.smaller}"
        return SenseNovaError(
            f"device memory ran out{planned} ({reason}); free the card, set a smaller max_memory or vram_mode low"
            + smaller
        )


def limits_of(mode: str, max_memory: str | None, device: torch.device) -> Limits:
    """The limits that a user's settings are for a model on `device`. Raises SettingsError."""
    own = device.index or 0
    budgets = parse_max_memory(max_memory, own=own)
    others = [name for name in budgets if name not in (own, "cpu")]
    if others and own not in budgets:
        problem = f"{max_memory!r} says nothing of device {own}, where the model runs"
        raise SettingsError(problem, f"add {own}=", setting="max_memory", value=max_memory)
    if others:
        raise SettingsError(
            f"{max_memory!r} gives device {others[0]} a size, but the model runs on device {own} alone",
            f"leave {others[0]}= out",
            setting="max_memory",
            value=max_memory,
        )
    return Limits(mode, device=budgets.get(own), page_locked=budgets.get("cpu"))


def _free_on(device: torch.device) -> int:
    """Of a card: free for everybody, or taken by torch and unused. A device of another kind shares system memory."""
    if device.type != "cuda":
        return system_memory.available_bytes()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
