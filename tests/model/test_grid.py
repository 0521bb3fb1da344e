"""A grid of tokens: its size, its positions, and the ways between image, tokens and patches."""

import pytest
import torch
from torch.nn import functional as F

from sensenova_core.model.config import ModelConfig
from sensenova_core.model.grid import Grid
from sensenova_core.model.heads import PixelHead
from tools.tiny_checkpoint import CONFIG

GRIDS = [Grid(1, 1, 2), Grid(2, 3, 4), Grid(5, 1, 32), Grid(3, 7, 16)]


def image_on(grid: Grid, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(grid.tokens)
    return torch.randn(batch, 3, grid.height, grid.width, generator=generator)


@pytest.mark.parametrize(
    "width, height, rows, columns", [(64, 32, 1, 2), (65, 32, 1, 3), (1, 1, 1, 1), (96, 63, 2, 3), (128, 97, 4, 4)]
)
def test_covering_takes_the_next_larger_multiples(width, height, rows, columns):
    assert Grid.covering(width=width, height=height, side=32) == Grid(rows, columns, 32)


def test_sizes():
    grid = Grid(rows=2, columns=3, side=32)
    assert (grid.tokens, grid.width, grid.height) == (6, 96, 64)


def test_positions_run_row_by_row_at_one_time():
    positions = Grid(2, 3, 32).positions(7)
    assert positions.dtype == torch.int64
    assert positions.tolist() == [[7] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_image_to_tokens_and_back(grid):
    image = image_on(grid)
    tokens = grid.image_to_tokens(image)
    assert tokens.shape == (2, grid.tokens, grid.side**2 * 3)
    assert torch.equal(grid.tokens_to_image(tokens), image)
    last = image[0, :, -grid.side :, -grid.side :]  # the square of the last token
    assert torch.equal(tokens[0, -1], last.permute(1, 2, 0).flatten())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_patches_of_tokens_are_those_of_their_image(grid, dtype):
    image = image_on(grid)
    tokens, patch = grid.image_to_tokens(image), grid.side // 2
    patches = grid.tokens_to_patches(tokens.to(dtype))
    assert patches.shape == (2, grid.tokens, 4, 3 * patch**2) and patches.is_contiguous()
    assert torch.equal(patches, grid.image_to_patches(grid.tokens_to_image(tokens).to(dtype)))
    first, *_, last = patches[1, 0]  # the corners of the first token's square
    corners = image[1, :, :patch, :patch], image[1, :, patch : grid.side, patch : grid.side]
    assert all(torch.equal(ours, one.to(dtype).flatten()) for ours, one in zip((first, last), corners, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pixel_head_makes_the_tokens_of_its_image(dtype):
    """Its last convolution, shuffled into an image and cut into tokens, is what it gives without the image."""
    config = ModelConfig.from_dict(CONFIG | {"use_pixel_head": True}).with_head_width(64)
    head, grid, made = PixelHead(config).to(dtype), config.grid(width=96, height=64), []
    head.conv2.register_forward_hook(lambda _, __, out: made.append(out))
    with torch.inference_mode():
        tokens = head(torch.randn(2, grid.tokens, config.decoder.hidden_size, dtype=dtype), grid)
    assert torch.equal(tokens, grid.image_to_tokens(F.pixel_shuffle(made[0], 8)))
