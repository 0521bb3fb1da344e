"""The layouts an image goes through: (batch, channels, height, width), patches, tokens.

`side` is the side in pixels of the square that one token covers. Tokens run row-major.
"""

from torch import Tensor


def to_patches(image: Tensor, patch: int) -> Tensor:
    """(batch, channels, height, width) -> (batch, tokens, 4, channels * patch * patch), a token's patches row-major."""
    batch, channels, height, width = image.shape
    rows, columns = height // (2 * patch), width // (2 * patch)
    pieces = image.reshape(batch, channels, rows, 2, patch, columns, 2, patch)
    pieces = pieces.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (batch, rows, columns, 2, 2, channels, patch, patch)
    return pieces.reshape(batch, rows * columns, 4, channels * patch * patch)


def image_to_tokens(image: Tensor, side: int) -> Tensor:
    """(batch, 3, height, width) -> (batch, tokens, side * side * 3), values of a token by (row, column, rgb)."""
    batch, channels, height, width = image.shape
    tiles = image.reshape(batch, channels, height // side, side, width // side, side)
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, side * side * channels)


def tokens_to_image(tokens: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """(batch, rows * columns, side * side * 3) -> (batch, 3, rows * side, columns * side)."""
    tiles = tokens.reshape(tokens.shape[0], rows, columns, side, side, -1)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(tokens.shape[0], -1, rows * side, columns * side)
