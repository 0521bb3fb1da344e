"""Layers whose work between products is compiled. Their plain form is `DecoderLayer`, which runs where that fails.

The pieces are compiled once for a model, and serve all its layers and lengths, for weights are their arguments. What
torch made of them lies in the user's cache folder, where the next process finds it.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import first_line, out_of_memory
from ..system.cache import cache_folder
from . import pieces
from .attention import Attend, Attention, RMSNorm
from .decoder import LAST_TOKENS, DecoderLayer
from .feed_forward import ROWS, FeedForward
from .int8 import feeds_forward, projected
from .rope import Rotation
from .unified import EXPERTS, SenseNovaU1
from .weights import Layer, Runner, Weights

CACHE = "TORCHINDUCTOR_CACHE_DIR"  # torch itself sets it to a temporary folder, which a restart empties
USUAL_ROWS = 512  # that torch's choices are made for

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pieces:
    """The functions of pieces.py, as they are or compiled."""

    normed: Callable[..., Tensor] = pieces.normed
    added: Callable[..., tuple[Tensor, Tensor]] = pieces.added
    gated: Callable[..., Tensor] = pieces.gated
    turned: Callable[..., tuple[Tensor, Tensor]] = pieces.turned

    @classmethod
    def compiled(cls, device: torch.device) -> "Pieces":
        """Nothing is compiled before one is called."""
        # A CPU's compiler makes long loops of parts that are written one by one, a card's one kernel of all.
        options: dict[str, Any] | None = {"max_pointwise_cat_inputs": 0} if device.type == "cpu" else None
        return cls(
            normed=torch.compile(pieces.normed, options=options),
            added=torch.compile(pieces.added, options=options),
            gated=torch.compile(pieces.gated, options=options),
            turned=torch.compile(pieces.turned, options=options),
        )


class CompiledLayer:
    """A layer that gives what `layer` gives, but for rounding."""

    def __init__(self, layer: DecoderLayer, made_of: Pieces):
        self.layer, self.made_of = layer, made_of

    def __call__(self, x: Tensor, rotation: Rotation, attend: Attend, *, last: bool = False) -> Tensor:
        """x: (batch, tokens, hidden) -> the same. last: see DecoderLayer."""
        layer, rows = self.layer, x.flatten(0, -2)
        first, then = layer.input_layernorm, layer.post_attention_layernorm
        made = self.made_of.normed(rows, first.weight, first.eps).view(x.shape)
        made = self._attended(layer.self_attn, made, rotation, attend=attend)
        if last and layer.leaves_out(x):
            x, made = x[:, -LAST_TOKENS:], made[:, -LAST_TOKENS:]
        rows, made = self.made_of.added(x.flatten(0, -2), made.flatten(0, -2), weight=then.weight, eps=then.eps)
        return (rows + self._fed(layer.mlp, made)).view(x.shape)

    def _attended(self, attention: Attention, x: Tensor, rotation: Rotation, *, attend: Attend) -> Tensor:
        made = projected(x, attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = (each.unflatten(-1, (-1, attention.config.head_dim)) for each in made)
        norms = (attention.q_norm, attention.q_norm_hw, attention.k_norm, attention.k_norm_hw)
        turned = self.made_of.turned(
            query.flatten(0, 1),
            key.flatten(0, 1),
            norms=[norm.weight for norm in norms],
            eps=attention.q_norm.eps,
            cos=rotation.cos.flatten(0, -3),
            sin=rotation.sin.flatten(0, -3),
        )
        out = attend(turned[0].view_as(query), turned[1].view_as(key), value)
        return attention.o_proj(out.flatten(-2))

    def _fed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """(rows, hidden) -> the same. A mixture of experts runs as it is."""
        if not isinstance(layer, FeedForward):
            return layer(x)
        parts = [self._fed_at_once(layer, rows) for rows in x.split(ROWS)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _fed_at_once(self, layer: FeedForward, x: Tensor) -> Tensor:
        int8 = feeds_forward(x, gate=layer.gate_proj, up=layer.up_proj, down=layer.down_proj)
        if int8 is not None:
            return int8
        return layer.down_proj(self.made_of.gated(*projected(x, layer.gate_proj, layer.up_proj)))


class _CompiledWeights:
    """Weights whose layers are compiled."""

    def __init__(self, weights: Weights, made_of: Pieces, least_rows: int):
        self.head, self.embed = weights.head, weights.embed
        self._weights, self._made_of, self._least_rows = weights, made_of, least_rows

    @property
    def at_rest(self) -> object | None:
        return self._weights.at_rest

    def layers(self, expert: str) -> Iterable[Layer]:
        return (self._compiled(layer) for layer in self._weights.layers(expert))

    def _compiled(self, layer: Layer) -> Layer:
        if not isinstance(layer, DecoderLayer):
            return layer
        compiled, least = CompiledLayer(layer, self._made_of), self._least_rows

        def chosen(x: Tensor, rotation: Rotation, attend: Attend, *, last: bool = False) -> Tensor:
            return (compiled if x.shape[:-1].numel() >= least else layer)(x, rotation, attend, last=last)

        return chosen


class Compiler:
    """Has the layers of one model run compiled. tell: called with what a user should know.

    works: whether they do; None until it was tried, which is when the first piece of work comes.
    """

    def __init__(self, model: SenseNovaU1, device: torch.device, tell: Callable[[str], None]):
        self.works: bool | None = None
        self._model, self._device, self._tell = model, device, tell
        self._pieces: Pieces | None = None
        # Pieces are compiled once more for one row. On a CPU calling them takes longer than so little work.
        self._least_rows = 2 if device.type == "cpu" else 1

    def around(self, run: Runner) -> Runner:
        """The same runner, but for the layers that its work finds among the weights."""

        def compiled(phase: str, work: Callable[[Weights], Result]) -> Result:
            if self.works is None:
                self._compile()
            made_of = self._pieces
            if made_of is None:
                return run(phase, work)
            return run(phase, lambda weights: work(_CompiledWeights(weights, made_of, self._least_rows)))

        return compiled

    def _compile(self) -> None:
        """Before anything is at stake. Whatever goes wrong in a compiler leaves layers as they are."""
        began = time.perf_counter()
        log.info("compiling layers; what comes of it is kept for the next time")
        try:
            keep_in_cache_folder()
            made_of = Pieces.compiled(self._device)
            for expert in EXPERTS:
                for rows in (USUAL_ROWS, 1)[: 3 - self._least_rows]:
                    self._try(made_of, getattr(self._model, expert).decoder.layers[0], rows)
        except Exception as error:  # of which torch, its compilers and theirs have many kinds
            if out_of_memory(error):
                raise
            self.works = False
            self._tell(self._why_not(error))
            return
        self.works, self._pieces = True, made_of
        log.info("compiled in %.1f seconds", time.perf_counter() - began)

    def _try(self, made_of: Pieces, layer: DecoderLayer, rows: int) -> None:
        """Run each piece on zeros, so that it is compiled for any number of rows. layer: on the meta device.

        Weights that are placed while a run goes on are "inference tensors" and others are not, which torch compiles for
        apart.
        """
        for inference in (False, True):
            with torch.inference_mode(inference):
                norms = [self._like(norm) for norm in layer.modules() if isinstance(norm, RMSNorm)]
            with torch.inference_mode():  # as all work is done
                self._run_once(made_of, layer, norms, rows=rows)

    def _like(self, norm: RMSNorm) -> nn.Parameter:
        return nn.Parameter(torch.zeros_like(norm.weight, device=self._device), requires_grad=False)

    def _run_once(self, made_of: Pieces, layer: DecoderLayer, norms: Sequence[Tensor], *, rows: int) -> None:
        """norms: weights of all norms of a layer, in its order."""
        config, first, (before, *heads, after) = layer.self_attn.config, layer.input_layernorm, norms

        def state(*shape: int, dtype: torch.dtype = self._model.dtype) -> Tensor:
            zeros = torch.zeros(rows, *shape, dtype=dtype, device=self._device)
            if rows > 1:
                torch._dynamo.mark_dynamic(zeros, 0)
            return zeros

        made_of.normed(state(config.hidden_size), before, first.eps)
        made_of.added(state(config.hidden_size), state(config.hidden_size), weight=after, eps=first.eps)
        made_of.turned(
            state(config.num_heads, config.head_dim),
            state(config.num_kv_heads, config.head_dim),
            norms=heads,
            eps=first.eps,
            cos=state(1, config.head_dim, dtype=torch.float32),
            sin=state(1, config.head_dim, dtype=torch.float32),
        )
        if isinstance(layer.mlp, FeedForward):
            made_of.gated(state(config.intermediate_size), state(config.intermediate_size))

    def _why_not(self, error: Exception) -> str:
        needed = "triton and a C compiler (on Windows: triton-windows)"
        if self._device.type == "cpu":
            needed = "a C++ compiler, such as g++ (on Windows: the Build Tools of Visual Studio)"
        return (
            f"layers cannot be compiled here ({first_line(error)}); they run as without compile. It needs {needed}; "
            "switch compile off to be told no more"
        )


def keep_in_cache_folder() -> None:
    """Have torch keep what it compiles where we keep what is found out, unless somebody has said where."""
    said = os.environ.get(CACHE)
    if said and Path(said).parent != Path(tempfile.gettempdir()):
        return
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.info("what is compiled goes to a temporary folder: %s", error)
    else:
        os.environ[CACHE] = str(folder)
