"""Hidden states of image tokens -> the guess of the clean image, as tokens of (row, column, rgb) values."""

from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .grid import image_to_tokens


class LinearHead(nn.Sequential):
    """U1: two linear layers with GELU between, token by token."""

    def __init__(self, config: ModelConfig):
        width = config.head_width
        super().__init__(nn.Linear(config.decoder.hidden_size, width), nn.GELU(), nn.Linear(width, config.token_values))

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """(batch, rows * columns, hidden) -> (batch, rows * columns, token values)."""
        return super().forward(x)


class PixelHead(nn.Module):
    """U1.5: convolutions over the token grid, upsampling it by 32, so that neighbouring tokens agree on their seams."""

    UPSAMPLING = (2, 2, 8)

    def __init__(self, config: ModelConfig):
        super().__init__()
        first, second, third = self.UPSAMPLING
        width = config.head_width
        self.config = config
        self.conv1 = nn.Conv2d(config.decoder.hidden_size // first**2, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width // second**2, config.vision.channels * third**2, 3, padding=1)

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """(batch, rows * columns, hidden) -> (batch, rows * columns, token values)."""
        first, second, third = self.UPSAMPLING
        grid = x.transpose(1, 2).unflatten(-1, (rows, columns))  # (batch, hidden, rows, columns)
        grid = F.gelu(self.conv1(F.pixel_shuffle(grid, first)))
        grid = self.conv2(F.pixel_shuffle(grid, second))
        return image_to_tokens(F.pixel_shuffle(grid, third), self.config.token_pixels)


def flow_head(config: ModelConfig) -> nn.Module:
    return PixelHead(config) if config.pixel_head else LinearHead(config)
