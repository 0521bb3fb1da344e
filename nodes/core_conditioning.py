"""A branch of guidance on ComfyUI's CONDITIONING wires: put there, and found again under what other nodes did to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.conds
import torch
from torch import Tensor

from ..sensenova_core.engine import Engine
from ..sensenova_core.errors import SettingsError, quoted
from ..sensenova_core.reading import prompt
from ..sensenova_core.settings import UNCONDITIONAL

KEY = "sensenova_u1"  # of what is ours, in what ComfyUI hands along
# What nodes of ComfyUI put into a conditioning and this model cannot follow -> what to do instead.
REFUSED = {
    "area": "it sees the whole picture at once; use Conditioning (Set Mask) with set_cond_area at default",
    "control": "there are no ControlNets for it; connect the conditioning without one",
    "gligen": "it knows no GLIGEN; connect the conditioning without one",
    "reference_latents": "its references come over Image Condition and Text Encode; leave ReferenceLatent out",
}


@dataclass(frozen=True, eq=False)
class Branch:
    """One branch of a conditioning. made_for: the name of the model that it was encoded for."""

    conditioning: prompt.Conditioning
    name: str
    made_for: str

    @property
    def sequence(self) -> prompt.TokenSequence:
        """What the branch reads. Without references, images alone are nothing."""
        sequences = self.conditioning.sequences
        return sequences.get(self.name, sequences[UNCONDITIONAL])


class BranchCond(comfy.conds.CONDRegular):
    """What samplers make one batch of: all branches fit together, whatever they read."""

    cond: Branch

    def process_cond(self, batch_size: int, **_: Any) -> "BranchCond":
        return self

    def can_concat(self, other: "BranchCond") -> bool:
        return True

    def concat(self, others: list["BranchCond"]) -> list[Branch]:
        return [self.cond, *(other.cond for other in others)]

    def size(self) -> list[int]:
        """Tokens that are read."""
        return [len(self.cond.sequence.ids)]


def to_core(branch: Branch) -> list:
    """A CONDITIONING. Its tensor only tells whether another node has changed it."""
    return [[_seal(branch), {KEY: branch}]]


def branch_of(cond: Mapping[str, Any], engine: Engine) -> Branch:
    """The branch in what samplers make of a CONDITIONING. Raises SettingsError where it is no longer, or never was, one
    that this model reads."""
    branch = cond.get(KEY)
    if not isinstance(branch, Branch):
        raise SettingsError(
            "the conditioning comes from another node, such as CLIP Text Encode, whose text this model cannot read",
            "connect positive and negative of SenseNova U1 To ComfyUI",
        )
    if branch.conditioning.vocabulary != engine.prompts.vocabulary:
        raise SettingsError(
            f"the conditioning was made for {quoted(branch.made_for)}, and the MODEL is {quoted(engine.name)}",
            "connect positive and negative of the same To ComfyUI node as the MODEL",
        )
    for name, remedy in REFUSED.items():
        if cond.get(name) is not None:
            raise SettingsError(f"the conditioning has {name}, which this model does not take", remedy)
    return _unsealed(branch, cond.get("cross_attn"))


def _unsealed(branch: Branch, seal: Tensor | None) -> Branch:
    """The branch, or nothing in its place where Conditioning Zero Out was. Raises SettingsError for a mixture."""
    if seal is None or (seal.shape == (1, 1, 1) and torch.equal(seal.cpu(), _seal(branch))):
        return branch
    if not seal.any():
        return Branch(branch.conditioning, UNCONDITIONAL, branch.made_for)
    raise SettingsError(
        "the conditioning was joined or averaged with another, which this model cannot do to what it reads",
        "write one prompt in Text Encode, or use Conditioning (Combine)",
    )


def _seal(branch: Branch) -> Tensor:
    """(1, 1, 1), over 1: another number for everything that reads otherwise."""
    return torch.tensor([[[1 + int(branch.sequence.key[:6], 16) / 2**24]]], dtype=torch.float32, device="cpu")
