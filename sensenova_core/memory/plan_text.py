"""A plan in words, for the user."""

from .budget import Limits, in_words
from .plan import Phase, Plan

IN_PLACE = "weights run where they lie, mapped from their files"
USUAL_BANDWIDTH = 25e9  # bytes a second over PCIe 4 x16


def mode_of(plan: Plan) -> str:
    """What the mode comes to: auto's choice, or that not all of "full" fits."""
    mode = plan.limits.mode
    if mode not in ("auto", "full"):
        return mode
    if not plan.streams:
        both = any(phase.other_expert_units and phase.resident for phase in plan.phases.values())
        return f"{mode}: both experts stay" if both else "full" if mode == "full" else "auto: full"
    return f"{mode}: as many layers stay as fit"


def in_one_line(plan: Plan | None) -> str:
    """What the mode comes to, and what it takes, where the task is known. None: nothing is planned."""
    if plan is None:
        return IN_PLACE
    return f"memory {mode_of(plan)}; {_compute(plan)}up to {_most(plan)}"


def for_the_log(plan: Plan) -> str:
    """`in_one_line`, with the task."""
    return f"memory {mode_of(plan)}; {_compute(plan)}{plan.task} takes up to {_most(plan)}"


def _compute(plan: Plan) -> str:
    return "INT8; " if plan.int8 else ""


def _most(plan: Plan) -> str:
    limit = "" if plan.limits.device is None else f" of {in_words(plan.limits.device)}"
    return f"{in_words(plan.device_bytes)}{limit}"


def explained(plan: Plan) -> str:
    """What the run will take, and why."""
    return in_rows(rows_of(plan))


def rows_of(plan: Plan) -> dict[str, str]:
    """What `explained` says, by subject."""
    limit = plan.limits.device
    rows = {"task": plan.task, "mode": mode_of(plan) + ("" if limit is None else f", {in_words(limit)} to use")}
    rows |= compute_row(plan.int8)
    rows |= {phase.name: _phase_in_words(phase, plan.limits) for phase in plan.phases.values()}
    rows["device"] = f"{in_words(plan.device_bytes)} at most"
    if any(phase.library_bytes for phase in plan.phases.values()):
        rows["device"] += " (CUDA's own context comes on top)"
    if unpacking := max(phase.unpacking_bytes for phase in plan.phases.values()):
        rows["device"] += f", {in_words(unpacking)} of it to make one layer ready at a time"
    rows["system"] = (
        f"{in_words(plan.page_locked_bytes)} page-locked of {in_words(plan.system_free)} free; "
        f"{in_words(plan.stored_bytes)} stay in their files"
    )
    return rows


def compute_row(int8: int) -> dict[str, str]:
    """int8: how many weights are multiplied as INT8; no row for none."""
    return {"compute": f"{int8} matrices are multiplied as INT8"} if int8 else {}


def in_rows(rows: dict[str, str]) -> str:
    return "\n".join(f"{name:<8} : {row}" for name, row in rows.items())


def _phase_in_words(phase: Phase, limits: Limits) -> str:
    units, streamed = len(phase.unit_bytes), len(phase.streamed)
    if not streamed:
        return f"all {units} parts stay on the card ({in_words(sum(phase.unit_bytes))})"
    often = "once" if phase.name == "reading" else "for every token" if phase.name == "writing" else "every step"
    text = f"{streamed} of {units} parts stream through {phase.ring} buffers, {in_words(phase.streamed_bytes)} {often}"
    locked, again = len(phase.page_locked), phase.name != "reading" and phase.passes != 1
    if again and locked < streamed and limits.page_locked != 0:
        text += f"; system memory holds only {locked} of them page-locked, the others are read anew: slower"
    if phase.name == "writing":
        text += f"; about {phase.streamed_bytes / USUAL_BANDWIDTH:.2f} s a token at {USUAL_BANDWIDTH / 1e9:.0f} GB/s"
    return text
