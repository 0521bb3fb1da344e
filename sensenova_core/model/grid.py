"""An image as a grid of tokens, and the layouts it goes through: image, tokens, patches.

image: (batch, 3, height, width).
tokens: (batch, tokens, side * side * 3), row by row; the values of a token by (row, column, rgb).
patches: (batch, tokens, 4, 3 * patch * patch), for a vision embedder: the 2 x 2 patches of each token, row by row; the
values of a patch by (rgb, row, column).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """rows, columns: of tokens. side: of the square that one token covers, in pixels, as width and height are."""

    rows: int
    columns: int
    side: int

    @classmethod
    def covering(cls, *, width: int, height: int, side: int) -> "Grid":
        """The smallest grid that holds an image of so many pixels."""
        return cls(rows=-(-height // side), columns=-(-width // side), side=side)

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    @property
    def width(self) -> int:
        return self.columns * self.side

    @property
    def height(self) -> int:
        return self.rows * self.side

    def positions(self, t: int) -> Tensor:
        """Time, row and column of every token, all at time t: int64 (3, tokens)."""
        row, column = (torch.arange(count, dtype=torch.int64, device="cpu") for count in (self.rows, self.columns))
        row, column = row.repeat_interleave(self.columns), column.repeat(self.rows)
        return torch.stack([torch.full_like(row, t), row, column])

    def image_to_tokens(self, image: Tensor) -> Tensor:
        tiles = image.reshape(len(image), -1, self.rows, self.side, self.columns, self.side)
        return tiles.permute(0, 2, 4, 3, 5, 1).reshape(len(image), self.tokens, -1)

    def tokens_to_image(self, tokens: Tensor) -> Tensor:
        tiles = tokens.reshape(len(tokens), self.rows, self.columns, self.side, self.side, -1)
        return tiles.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), -1, self.height, self.width)

    def image_to_patches(self, image: Tensor) -> Tensor:
        patch = self.side // 2
        pieces = image.reshape(len(image), -1, self.rows, 2, patch, self.columns, 2, patch)
        pieces = pieces.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (batch, rows, columns, 2, 2, 3, patch, patch)
        return pieces.reshape(len(image), self.tokens, 4, -1)

    def tokens_to_patches(self, tokens: Tensor) -> Tensor:
        """One copy: what a token covers stays together, so the image in between is never made."""
        patch = self.side // 2
        pieces = tokens.reshape(len(tokens), self.tokens, 2, patch, 2, patch, -1)
        pieces = pieces.permute(0, 1, 2, 4, 6, 3, 5)  # (batch, tokens, 2, 2, 3, patch, patch)
        return pieces.reshape(len(tokens), self.tokens, 4, -1)
