"""Hidden states of image tokens -> the guess of the clean image, as tokens of (row, column, rgb) values."""

from torch import Tensor, nn
from torch.nn import functional as F

from .config import ModelConfig
from .grid import Grid


class LinearHead(nn.ModuleList):
    """U1: two linear layers with GELU between, token by token."""

    def __init__(self, config: ModelConfig):
        width = config.head_width
        first, last = nn.Linear(config.decoder.hidden_size, width), nn.Linear(width, config.token_values)
        super().__init__([first, nn.GELU(), last])  # numbered, as the published names are

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(batch, tokens, hidden) -> (batch, tokens, token values)."""
        for layer in self:
            x = layer(x)
        return x


class PixelHead(nn.Module):
    """U1.5: convolutions over the token grid, upsampling it by 32, so that neighbouring tokens agree on their seams."""

    UPSAMPLING = (2, 2, 8)

    def __init__(self, config: ModelConfig):
        super().__init__()
        first, second, third = self.UPSAMPLING
        width = config.head_width
        self.conv1 = nn.Conv2d(config.decoder.hidden_size // first**2, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width // second**2, config.vision.channels * third**2, 3, padding=1)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(batch, tokens, hidden) -> (batch, tokens, token values)."""
        first, second, third = self.UPSAMPLING
        x = x.transpose(1, 2).unflatten(-1, (grid.rows, grid.columns))  # (batch, hidden, rows, columns)
        x = F.gelu(self.conv1(F.pixel_shuffle(x, first)))
        x = self.conv2(F.pixel_shuffle(x, second))  # (batch, 3 * 8 * 8, 4 * rows, 4 * columns)
        # The last shuffle goes straight to tokens: a token's 32 x 32 pixels are 4 x 4 places of 8 x 8 pixels each.
        x = x.reshape(len(x), -1, third, third, grid.rows, first * second, grid.columns, first * second)
        return x.permute(0, 4, 6, 5, 2, 7, 3, 1).reshape(len(x), grid.tokens, -1)


def flow_head(config: ModelConfig) -> nn.Module:
    return PixelHead(config) if config.pixel_head else LinearHead(config)
