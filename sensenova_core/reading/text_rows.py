"""How text turns, made once for a block of positions."""

from ..model import SenseNovaU1
from ..model.attention import BLOCK_TOKENS
from ..model.rope import Rotation
from .prompt import text_positions


class TextRows:
    """Gives tables of one text token, which are views of those of its block."""

    def __init__(self, model: SenseNovaU1):
        self.model = model
        self._block: tuple[int, Rotation] | None = None  # its number, and its tables

    def at(self, t: int) -> Rotation:
        """Of the text token at time t."""
        block, row = divmod(t, BLOCK_TOKENS)
        if self._block is None or self._block[0] != block:
            positions = text_positions(block * BLOCK_TOKENS, BLOCK_TOKENS)
            self._block = block, self.model.rotation(positions[None].to(self.model.device))
        tables = self._block[1]
        return Rotation(tables.cos[:, row : row + 1], tables.sin[:, row : row + 1])
