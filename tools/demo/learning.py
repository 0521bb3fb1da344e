"""The losses: what the understanding expert writes, and what the generation expert draws from its keys and values."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sensenova_core.drawing import flow
from sensenova_core.model import InModule, SenseNovaU1
from sensenova_core.model.attention import Attend
from sensenova_core.model.config import ModelConfig
from sensenova_core.model.grid import Grid
from sensenova_core.settings import Guidance
from tools.demo.batches import Batch
from tools.demo.scenes import KINDS
from tools.demo.stages import Stage

SPREAD_OF_TIME = 1.5  # standard deviation of the logit of the times
KIND_LAYER = 3  # whose values of a token tell what kind of shape it shows
LEARNT_CFG = 2.0  # the guidance that is learnt late, half of the usual one
ASTRAY, STRONGEST = 0.5, 7.0  # part of the pictures that start from a guided step, and the strongest cfg of those
EARLIER = (0.3, 0.9)  # part of its time that such a step begins at
T_EPS = 0.2  # of the loss: a velocity near the end would outweigh all else, and tells about edges only


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """(batch, tokens, heads, head_dim) each; mask: bool, broadcast to (batch, heads, queries, keys)."""
    parts = (part.transpose(1, 2).float() for part in (query, key, value))  # bfloat16 is far slower on CPUs
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(*parts, attn_mask=mask, enable_gqa=True)
    return out.transpose(1, 2).to(query.dtype)


class ReadingRows:
    """Attention of padded rows, which keeps every layer's keys and values for drawing."""

    def __init__(self, positions: Tensor, valid: Tensor):
        time, tokens = positions[:, 0], positions.shape[-1]
        order = torch.arange(tokens)
        before = order[:, None] >= order[None]
        same_image = time[:, :, None] == time[:, None]
        own = torch.eye(tokens, dtype=torch.bool)  # padding sees itself, so that its softmax is finite
        self.mask = (((before | same_image) & valid[:, None]) | own)[:, None]
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def attend_at(self, layer: int) -> Attend:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self.keys.append(key)
            self.values.append(value)
            return attention(query, key, value, self.mask)

        return attend


class DrawingRows:
    """Attention of pictures being drawn, each after the first tokens of a row.

    positions: of what is read; last: (pictures,) the last time before each picture. tokens: of one picture.
    """

    def __init__(self, read: ReadingRows, positions: Tensor, owners: Tensor, lengths: Tensor, tokens: int):
        self.read, self.owners, self.longest = read, owners, int(lengths.max())
        self.last = positions[owners, 0, lengths - 1]
        seen = torch.arange(self.longest)[None] < lengths[:, None]
        self.mask = torch.cat([seen, seen.new_ones(len(owners), tokens)], 1)[:, None, None]
        self.values: list[Tensor] = []

    def attend_at(self, layer: int) -> Attend:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = (part[layer][:, : self.longest][self.owners] for part in (self.read.keys, self.read.values))
            self.values.append(value)
            mask = self.mask.expand(-1, -1, query.shape[1], -1)
            return attention(query, torch.cat([keys, key], 1), torch.cat([values, value], 1), mask)

        return attend


class KindReadout(nn.Module):
    """Tells, in training only, what kind of shape a token shows, of an image or of a picture being drawn.

    Without it kinds are learnt last: colours and places lower the other losses more.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.decoder.num_kv_heads * config.decoder.head_dim
        self.layer = min(KIND_LAYER, config.decoder.num_layers - 1)
        self.read, self.drawn = nn.Linear(width, len(KINDS) + 1), nn.Linear(width, len(KINDS) + 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def loss_of_images(self, read: ReadingRows, batch: Batch) -> Tensor:
        values = read.values[self.layer].flatten(2).flatten(0, 1)
        places = torch.cat([places for _, places in batch.images])
        return F.cross_entropy(self.read(values[places]).float(), batch.kinds)

    def loss_of_pictures(self, attend: DrawingRows, batch: Batch) -> Tensor:
        values = attend.values[self.layer].flatten(2).flatten(0, 1)
        return F.cross_entropy(self.drawn(values).float(), batch.drawn_kinds.flatten())


class Losses(NamedTuple):
    """Means over all pictures, written tokens, and tokens of images and pictures; 0 where there are none.

    draw: of the velocity's squared error. write, kind: cross entropies of what is written, and of the kinds.
    """

    draw: Tensor
    write: Tensor
    kind: Tensor


def losses(model: SenseNovaU1, readout: KindReadout, batch: Batch, stream: torch.Generator, stage: Stage) -> Losses:
    """stream: where times and noises come from."""
    read = ReadingRows(batch.positions, batch.valid)
    hidden = understand(model, batch, read)
    drawing = writing = kind = torch.zeros(())
    if batch.images:
        kind = readout.loss_of_images(read, batch)
    if len(batch.written):
        logits = model.understanding.logits(hidden.flatten(0, 1)[batch.writers], InModule(model).head())
        writing = F.cross_entropy(logits.float(), batch.written)
    if len(batch.owners):
        attend = attention_after(read, batch, batch.owners, batch.lengths)
        drawing = draw(model, batch, attend, stream, stage)
        kind = kind + readout.loss_of_pictures(attend, batch)
    return Losses(drawing, writing, kind)


def attention_after(read: ReadingRows, batch: Batch, owners: Tensor, lengths: Tensor) -> DrawingRows:
    """For drawing pictures of this batch after so many tokens of these rows."""
    return DrawingRows(read, batch.positions, owners, lengths, batch.drawn_kinds.shape[1])


def understand(model: SenseNovaU1, batch: Batch, read: ReadingRows) -> Tensor:
    """(rows, tokens, hidden) after the final norm."""
    expert = model.understanding
    x = InModule(model).embed(batch.ids.flatten()).to(model.device, model.dtype)
    for shown, places in batch.images:
        grid = grid_of(model, shown)
        embedded = expert.vision(grid.image_to_patches(shown), expert.vision.rotary(grid, model.device))
        x = x.index_copy(0, places, embedded.flatten(0, 1).to(x.dtype))
    x = x.view(*batch.ids.shape, -1)
    return expert.decoder(x, model.rotation(batch.positions), read.attend_at, layers=expert.decoder.layers)


def grid_of(model: SenseNovaU1, pictures: Tensor) -> Grid:
    """Of the tokens of each of some pictures, (pictures, 3, height, width)."""
    return model.config.grid(width=pictures.shape[3], height=pictures.shape[2])


def draw(model: SenseNovaU1, batch: Batch, attend: DrawingRows, stream: torch.Generator, stage: Stage) -> Tensor:
    """Mean squared error of the velocity, at a random time and noise for each picture."""
    grid, count = grid_of(model, batch.pictures), len(batch.owners)
    t = torch.sigmoid(stage.mean_time + SPREAD_OF_TIME * torch.randn(count, generator=stream))
    noise = flow.noise_scale(model.config.noise, grid.tokens) * torch.randn(batch.pictures.shape, generator=stream)
    at = t[:, None, None, None]
    z = at * batch.pictures + (1 - at) * noise
    clean = grid.image_to_tokens(batch.pictures)
    if not stage.guided:
        guessed = guesses(model, attend, z, t)
    else:
        paired = (batch.branches >= 0).flatten(1).all(1)
        astray = (paired & (torch.rand(count, generator=stream) < ASTRAY)).nonzero().flatten()
        if len(astray):
            z[astray] = led_astray(model, batch, attend.read, astray, noise[astray], t[astray], stream)
        guessed = guided(model, batch, attend, z, t)
    return ((guessed - clean) / (1 - t).clamp(min=T_EPS)[:, None, None]).square().mean()


def guided(model: SenseNovaU1, batch: Batch, attend: DrawingRows, z: Tensor, t: Tensor) -> Tensor:
    """What the model sees in z at t: guided, where a picture is drawn after a prompt.

    A model this small knows its prompts by heart, and the usual guidance would bring four times as much as they ask.
    Learnt like this, a prompt alone brings half of it, and the usual guidance twice as much: enough to win over a noise
    that suggests another background.
    """
    guessed = guesses(model, attend, z, t)
    prompted, unprompted = batch.branches.unbind(1)
    after_prompt = torch.stack([batch.owners, batch.lengths], 1) == prompted
    which = (after_prompt.all(1) & (unprompted >= 0).all(1)).nonzero().flatten()
    if not len(which):
        return guessed
    with torch.no_grad():
        beside = branch(model, batch, attend.read, unprompted[which], z[which], t[which])
    together = flow.combine(Guidance(LEARNT_CFG), {flow.CONDITION: guessed[which], flow.UNCONDITIONAL: beside})
    return guessed.index_copy(0, which, together)


def branch(model: SenseNovaU1, batch: Batch, read: ReadingRows, places: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """What the model sees in z after so much of these rows. places: (pictures, 2) as in Batch.branches."""
    return guesses(model, attention_after(read, batch, *places.unbind(1)), z, t)


@torch.no_grad()
def led_astray(
    model: SenseNovaU1,
    batch: Batch,
    read: ReadingRows,
    which: Tensor,
    noise: Tensor,
    t: Tensor,
    stream: torch.Generator,
) -> Tensor:
    """z at t of some pictures, after one guided step from an earlier time.

    Only a model that has learnt what to make of its own mistakes, and of too much guidance, finds back from them.
    """
    earlier = t * torch.empty(len(t)).uniform_(*EARLIER, generator=stream)
    cfg = 1 + (STRONGEST - 1) * float(torch.rand((), generator=stream))
    before, after = earlier[:, None, None, None], t[:, None, None, None]
    picture = batch.pictures[which]
    z = before * picture + (1 - before) * noise
    condition, unprompted = (
        branch(model, batch, read, places, z, earlier) for places in batch.branches[which].unbind(1)
    )
    guess = flow.combine(Guidance(cfg), {flow.CONDITION: condition, flow.UNCONDITIONAL: unprompted})
    guess = grid_of(model, picture).tokens_to_image(guess)
    return z + (after - before) / (1 - before) * (guess - z)


def guesses(model: SenseNovaU1, attend: DrawingRows, z: Tensor, t: Tensor) -> Tensor:
    """The clean pictures that the model sees in z, (pictures, 3, height, width) at times t: float32 tokens."""
    config, expert, grid = model.config, model.generation, grid_of(model, z)
    x = expert.vision(grid.image_to_patches(z), expert.vision.rotary(grid, model.device))
    times = expert.timestep_embedder(t)
    if config.noise.embedded:
        scale = flow.noise_scale(config.noise, grid.tokens)
        times = times + expert.noise_scale_embedder(torch.tensor([scale / config.noise.max_scale]))
    places = grid.positions(0).repeat(len(z), 1, 1)
    places[:, 0] = attend.last[:, None] + 1
    x = expert.decoder(x + times[:, None], model.rotation(places), attend.attend_at, layers=expert.decoder.layers)
    return expert.head(x, grid).float()
