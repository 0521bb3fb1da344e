"""A context that is being written: what may come next, and what was chosen."""

import logging

from torch import Tensor

from ..errors import first_line, out_of_memory
from ..model import Weights
from ..model.capture import Capture
from ..reading.prefix import Context
from ..reading.reader import Reader
from ..reading.text_rows import TextRows
from .token_graph import TokenGraph, can_be_captured

ENOUGH = 8  # tokens written plainly before a graph: to make one takes as long as a few of them
log = logging.getLogger(__name__)


class Pen:
    """Writes text into one context. Where a reader can capture, most tokens are replays of one graph, see TokenGraph.

    hidden: the last hidden state (1, hidden).
    """

    def __init__(self, reader: Reader, context: Context, hidden: Tensor):
        self.reader, self.context, self._hidden = reader, context, hidden
        self._rows = TextRows(reader.model)
        self._logits: Tensor | None = None  # as a graph has made them
        self._graph: TokenGraph | None = None
        self._written = 0

    def go_on(self, hidden: Tensor) -> None:
        """Go on after something else was read into the context."""
        self._hidden, self._logits, self._graph, self._written = hidden, None, None, 0

    def logits(self) -> Tensor:
        """Of the next token: float32 (vocabulary,)."""
        return self.reader.logits(self._hidden) if self._logits is None else self._logits

    def write(self, token: int) -> None:
        """Read a token that was chosen."""
        self._written += 1
        if self._graph is not None and self.reader.run("writing", lambda weights: self._replayed(token, weights)):
            return
        self._graph, self._logits = None, None
        self._hidden = self.reader.feed_token(self.context, token, self._rows)
        capture = self.reader.capture
        if capture is not None and self._written >= ENOUGH:
            self._begin_graph(token, capture)

    def _replayed(self, token: int, weights: Weights) -> bool:
        """Whether the graph could read it."""
        graph = self._graph
        if graph is None or not graph.fits(self.context, weights):
            return False
        graph.read(token, weights)
        self._logits = graph.logits.clone()  # whoever keeps them does not see them change
        return True

    def _begin_graph(self, token: int, capture: Capture) -> None:
        """Read the next tokens by a graph, if it does with the last one what was done. If not, nothing is lost."""
        try:
            self._graph = self.reader.run("writing", lambda weights: self._made(token, weights, capture))
        except RuntimeError as error:
            self.reader.capture = None
            self.context.truncate(self.context.tokens - 1, self.context.last_t - 1)
            self._hidden = self.reader.feed_token(self.context, token, self._rows)
            said = "there is no memory for it" if out_of_memory(error) else first_line(error)
            log.warning("tokens are written one launch after the other, for they cannot be captured here: %s", said)

    def _made(self, token: int, weights: Weights, capture: Capture) -> TokenGraph | None:
        if not can_be_captured(self.reader, self.context, weights):
            return None
        expected = self.reader.model.understanding.logits(self._hidden, weights.head())[0].float()
        graph = TokenGraph(self.reader, self.context, weights)
        graph.read_again(token, weights)  # loads what has to be loaded
        graph.capture(capture)
        graph.read_again(token, weights)
        if not graph.is_right(expected):
            raise RuntimeError("a graph writes something else")
        self._logits = expected
        return graph
