"""One model's weights in the memory that a user allows: plans each run, carries the plan out, and mends it once."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Protocol, TypeVar

import torch

from ..checkpoint import StoredWeights
from ..errors import SenseNovaError, SettingsError, first_line, out_of_memory, out_of_system_memory, quoted
from ..lora import Lora
from ..model import GENERATION, UNDERSTANDING, SenseNovaU1, Weights
from . import system_memory
from .allocator import libraries
from .budget import GIB, Limits, in_words, parse_max_memory
from .clock import Clock
from .fixed import Fixed
from .mapped import Mapped
from .plan import Plan, Sizes, Task, make_plan
from .plan_text import explained, for_the_log
from .residency import Residency
from .transfers import transfers_to
from .units import Units, units_of, with_changes

CARD_RESERVE = GIB // 2  # of a card: CUDA's context, code, the desktop
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
    def at_rest(self) -> object | None: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def buffer_bytes(self) -> int: ...

    @property
    def page_locked_bytes(self) -> int: ...

    def place(self) -> None:
        """Bring what every run needs, unless it is there."""

    def check(self) -> None:
        """Raise CheckpointError if weights that were used are others than when they were placed."""

    def forked(self) -> None:
        """Begin anew in a forked process."""

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
    should know; a log entry unless replaced. planned: called with every run's plan before it begins. free: bytes that
    the device has left, however its host counts them; None on the CPU. clock: counts seconds of "reading", "writing"
    and "drawing", and of "waiting" for copies among them.
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
        transfers = transfers_to(device)
        self._transfers, self._phase = transfers, ""  # of the last piece of work
        self.clock = Clock(transfers)
        self.in_place = device.type == "cpu" and limits.mode in ("auto", "full") and limits.device is None
        self.residency: PlacedWeights = (
            Mapped(model, stored, units, fixed=fixed, sizes=self.sizes)
            if self.in_place
            else Residency(stored, units, self.sizes, fixed=fixed, device=device, transfers=transfers, clock=self.clock)
        )
        self.tell: Callable[[str], None] = log.warning
        self.planned: Callable[[Plan | None], None] = lambda plan: None
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
        limits = replace(self.limits, libraries=libraries(self.device))
        if card is not None:
            # What a host allows was said of the card that is here.
            limits = replace(limits, weights=None, libraries=limits.libraries or libraries(None))
        elif self.free is not None:
            card = self.free() + self.residency.nbytes + remembered - CARD_RESERVE
        elif limits.page_locked is None:
            limits = replace(limits, page_locked=0)  # on a CPU, pages of the files are in system memory as they are
        if card is not None:
            limits = replace(limits, device=card if limits.device is None else min(card, limits.device))
        if system_free is None:
            system_free = system_memory.available_bytes() + self.residency.page_locked_bytes
        return make_plan(self.sizes, task, limits, system_free=system_free)

    def largest(self, tasks: Sequence[Task], remembered: int = 0, **there: int | None) -> tuple[int, Plan]:
        """Of tasks of which each takes more than the one before: the index of the last that fits, and its plan.

        there: as `plan` takes it. Raises SettingsError where not even the first fits.
        """
        for index in range(len(tasks) - 1, 0, -1):
            with suppress(SettingsError):
                return index, self.plan(tasks[index], remembered, **there)
        return 0, self.plan(tasks[0], remembered, **there)

    def start(self, task: Task, remembered: int = 0, later: Sequence[Task] = ()) -> Plan | None:
        """Plan a run and prepare it; None where nothing needs a plan. later: what it will be planned anew for."""
        self.task, self._mended = task, False
        self.residency.stored.check_unchanged()
        if not self.in_place:
            plan = self.plan(task, remembered)
            _, largest = self.largest([task, *later], remembered)
            self._carry_out(replace(plan, later=largest.device_bytes if later else 0))
        if self.device.type == "cpu":
            self._check_system(task, remembered, None if self.in_place else self.last_plan)
        self.planned(self.last_plan)
        self.residency.place()
        return self.last_plan

    def on_system(self, task: Task, remembered: int, plan: Plan | None) -> tuple[int, int]:
        """Of a model on the CPU: bytes of system memory that a task takes, and those that there are for it, swapping
        left out. plan: None where weights run as they lie; their pages can be given back at any time."""
        work = task.most_activations + self.sizes.fixed + max(map(self.sizes.unpacking, self.sizes.units))
        held = remembered + (self.sizes.fixed if self.residency.placed else 0)
        if isinstance(self.residency, Mapped):
            copied = self.residency.copied_bytes
            work, held = work + copied, held + (copied if self.residency.placed else 0)
        if plan is not None:
            work, held = plan.device_bytes, held + self.residency.buffer_bytes
        return work, system_memory.available_bytes() + held

    def _check_system(self, task: Task, remembered: int, plan: Plan | None) -> None:
        """Raise SettingsError for a task that system memory cannot hold: the system would end the process."""
        needed, free = self.on_system(task, remembered, plan)
        if needed > free + system_memory.swap_bytes():
            raise SettingsError(
                f"{task.name} takes {in_words(needed, ceil)} of system memory, of which {in_words(free)} are free; "
                f"close other programs, or ask for {task.smaller}"
            )

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
                self._fixed.place(self.device)
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

        phase: "reading", "writing" or "drawing", by which its seconds are counted. work: see model.Runner. Raises
        SenseNovaError when memory runs out for good.
        """
        while True:
            try:
                return self._run_once(phase, work)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason, of_system = first_line(error), self._of_system(error)
            # Outside the handler, which keeps the failed work's tensors alive.
            self._make_room(reason, of_system=of_system)

    def _run_once(self, phase: str, work: Callable[[Weights], Result]) -> Result:
        if phase == "reading" or phase != self._phase:
            self._transfers.trim()  # what was made of other sizes is in the way of what comes
        self._phase = phase
        self.residency.enter(GENERATION if phase == "drawing" else UNDERSTANDING)  # before any tensor is made
        with self.clock.counting(phase):
            result = work(self.residency)
        self.residency.check()  # before anybody remembers it
        return result

    def _carry_out(self, plan: Plan) -> None:
        self.last_plan = plan
        self.residency.begin(plan)
        if (brief := for_the_log(plan)) != self._said:
            log.info(brief)
        self._said = brief
        log.debug("plan:\n%s", explained(plan))

    def _make_room(self, reason: str, *, of_system: bool) -> None:
        """Go on with fewer buffers for layers. Raises SenseNovaError if there cannot be fewer, or were just now."""
        plan, beside_card = self.last_plan, of_system and self.device.type != "cpu"
        if self._mended or self.in_place or beside_card or plan is None or self.task is None:
            raise self._given_up(reason, of_system=of_system)
        self._mended = True
        fewer = int(SMALLER * max(phase.buffer_bytes for phase in plan.phases.values()))
        if fewer < max(phase.slot_bytes for phase in plan.phases.values()):
            raise self._given_up(reason, of_system=of_system)
        self._forget()
        self.residency.shrink(self.residency.buffer_bytes - fewer)
        self._transfers.trim()
        limits = replace(plan.limits, buffers=fewer)
        self._carry_out(make_plan(self.sizes, self.task, limits, system_free=plan.system_free))
        self.tell(
            f"{'system' if of_system else 'device'} memory ran out; going on from the last step with "
            f"{in_words(fewer)} for layers, slower. Set max_memory lower to avoid this."
        )

    def given_up(self, error: BaseException) -> SenseNovaError:
        """Memory ran out for good; with advice."""
        return self._given_up(first_line(error), of_system=self._of_system(error))

    def _of_system(self, error: BaseException) -> bool:
        return self.device.type == "cpu" or out_of_system_memory(error)

    def _given_up(self, reason: str, *, of_system: bool) -> SenseNovaError:
        plan, smaller = self.last_plan, "" if self.task is None else f", or ask for {self.task.smaller}"
        if of_system:
            takes = plan is not None or (isinstance(self.residency, Mapped) and self.residency.copied_bytes)
            less = ", set a smaller max_memory or vram_mode low" if takes else ""
            return SenseNovaError(f"system memory ran out ({reason}); close other programs{less}{smaller}")
        planned = "" if plan is None else f" after a plan for {in_words(plan.device_bytes)}"
        return SenseNovaError(
            f"device memory ran out{planned} ({reason}); free the card, set a smaller max_memory or vram_mode low"
            + smaller
        )

    def forked(self) -> None:
        """Begin anew in a forked process. Raises SenseNovaError on a card, which such a process cannot use."""
        if self.device.type != "cpu":
            raise SenseNovaError(
                f"a model on {self.device} cannot be used in a forked process, which has no access to the card; load "
                'it there, and start processes with "spawn"'
            )
        self.residency.stored.start_threads()
        self.residency.forked()
        if torch.get_num_threads() > 1:
            torch.set_num_threads(1)  # those of OpenMP stayed behind too, and torch would wait for them for ever
            log.warning("computing with one thread in a forked process; start processes with spawn to use more")


def limits_of(mode: str, max_memory: str | None, device: torch.device) -> Limits:
    """The limits that a user's settings are for a model on `device`. Raises SettingsError."""
    own = device.index or 0
    budgets = parse_max_memory(max_memory, own=own)
    others = [name for name in budgets if name not in (own, "cpu")]
    if others and own not in budgets:
        problem = f"{quoted(max_memory)} says nothing of device {own}, where the model runs"
        raise SettingsError(problem, f"add {own}=", setting="max_memory", value=max_memory)
    if others:
        raise SettingsError(
            f"{quoted(max_memory)} gives device {others[0]} a size, but the model runs on device {own} alone",
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
