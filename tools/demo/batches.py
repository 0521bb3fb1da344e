"""Rows -> padded tensors, and the mixture of tasks at each step of training."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sensenova_core.reading.prompt import PromptBuilder
from tools.demo.cells import kinds_in_cells
from tools.demo.rows import AREA, Row, Rows
from tools.demo.stages import Stage

SMALL_SIZES = ((128, 128),) * 6 + ((160, 96), (96, 160), (128, 96), (96, 128))  # references are read as they are
SIZES = (*SMALL_SIZES, (160, 128), (128, 160), (192, 128), (192, 192))


@dataclass(frozen=True)
class Batch:
    """Rows padded at the end to one length.

    ids, valid: (rows, tokens); positions: (rows, 3, tokens). images: of each size, pixels (images, 3, height, width)
    as they are read, and places (tokens,) among the flattened rows. writers, written: (written,) place of the token
    that predicts, and what it predicts. owners, lengths: (pictures,) the row of each picture to be drawn, and how many
    of its tokens are seen. pictures: (pictures, 3, height, width) in -1 .. 1. kinds: (tokens,) what the images show, in
    the order of their places, see cells; drawn_kinds: (pictures, tokens) the same of the pictures. branches:
    (pictures, 2, 2), row and length of what each picture is drawn after with a prompt, and without one; -1 where the
    batch has no such row.
    """

    task: str
    ids: Tensor
    positions: Tensor
    valid: Tensor
    images: list[tuple[Tensor, Tensor]]
    writers: Tensor
    written: Tensor
    owners: Tensor
    lengths: Tensor
    pictures: Tensor
    kinds: Tensor
    drawn_kinds: Tensor
    branches: Tensor


def collate(task: str, rows: list[Row], side: int) -> Batch:
    """side: pixels of a token's side."""
    ids, positions, valid = _padded(rows)
    images, kinds = _images(rows, ids.shape[1])
    longest = ids.shape[1]
    stretches = [(index, *stretch) for index, row in enumerate(rows) for stretch in row.written]
    writers = [index * longest + token - 1 for index, start, stop in stretches for token in range(start, stop)]
    written = [token for index, start, stop in stretches for token in ids[index, start:stop].tolist()]
    drawn = [(index, one) for index, row in enumerate(rows) for one in row.drawn]
    branches = {(one.scene, one.prompted): (index, one.tokens) for index, one in drawn}
    each = [(index, one) for index, one in drawn for _ in range(one.times)]
    shown = [kinds_in_cells(one.scene, one.size, side) for _, one in each]
    return Batch(
        task,
        ids,
        positions,
        valid,
        images,
        torch.tensor(writers, dtype=torch.int64),
        torch.tensor(written, dtype=torch.int64),
        torch.tensor([index for index, _ in each], dtype=torch.int64),
        torch.tensor([one.tokens for _, one in each], dtype=torch.int64),
        torch.stack([one.picture for _, one in each]) if each else torch.empty(0),
        kinds,
        torch.tensor(shown, dtype=torch.int64),
        torch.tensor([[branches.get((one.scene, said), (-1, -1)) for said in (True, False)] for _, one in each]),
    )


def _padded(rows: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """ids, positions and valid of a Batch."""
    longest = max(len(row.sequence.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    positions = torch.zeros(len(rows), 3, longest, dtype=torch.int64)
    valid = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        length = len(row.sequence.ids)
        ids[index, :length], valid[index, :length] = row.sequence.ids, True
        positions[index, :, :length] = row.sequence.positions
    return ids, positions, valid


def _images(rows: list[Row], longest: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """images and kinds of a Batch. longest: tokens of a padded row."""
    stacked: dict[tuple[int, ...], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for index, row in enumerate(rows):
        images = row.sequence.images
        places = (row.sequence.slots.nonzero().flatten() + index * longest).split([one.grid.tokens for one in images])
        for image, place, shown in zip(images, places, row.shown, strict=True):
            height, width = image.pixels.shape[1:]
            kinds = torch.tensor(kinds_in_cells(shown, (width, height), image.grid.side))
            stacked.setdefault((height, width), []).append((image.pixels, place, kinds))
    parts = [tuple(zip(*one, strict=True)) for one in stacked.values()]
    kinds = torch.cat([torch.cat(kinds) for *_, kinds in parts]) if parts else torch.empty(0, dtype=torch.int64)
    return [(torch.stack(pixels), torch.cat(places)) for pixels, places, _ in parts], kinds


def tasks_of_step(seed: int, step: int, stage: Stage) -> list[str]:
    """What one step learns: text to image always, and the other tasks in turn."""
    rng = random.Random(f"{seed}/{step}")
    tasks = ["picture", *rng.choices([*stage.tasks], [*stage.tasks.values()])]
    return tasks + ["think"] * (rng.random() < stage.think)


def batch_of(prompts: PromptBuilder, seed: int, step: int, task: str, stage: Stage, scale: float = 1.0) -> Batch:
    """A task's batch at one step; by seed, step and task alone.

    scale: of the number of rows, which is such that every task takes about as long.
    """
    rng = random.Random(f"{seed}/{step}/{task}")
    rows = Rows(prompts, rng, stage.shapes, stage.whole)
    sizes = SIZES if task in ("picture", "think") else SMALL_SIZES
    size = SIZES[0] if stage.square else rng.choice(sizes)
    area = size[0] * size[1] / AREA

    def times(count: float, make: Callable[[], list[Row]]) -> list[Row]:
        return [row for _ in range(max(1, round(count * scale))) for row in make()]

    if task == "picture":
        made = times(20 / area, lambda: [rows.picture(size, 2)])
        made.append(rows.unconditional([one for row in made for one in row.drawn], len(made)))
    elif task == "think":
        made = times(12 / area, lambda: [rows.picture(size, 3, think=True)])
        made.append(rows.unconditional([one for row in made for one in row.drawn], 0))
    elif task == "conversation":
        made = times(32, lambda: [rows.conversation(size)])
    elif task == "reading":
        made = times(48, lambda: [rows.conversation(size, 1, describes=1.0)])
    elif task == "edit":
        made = times(14, lambda: rows.edit(size, 3, alone=rng.random() < 0.5, think=rng.random() < 0.1))
    elif task == "merge":
        made = times(10, lambda: rows.merge(size, 3, alone=rng.random() < 0.5))
    elif task == "story":
        made = times(8, lambda: rows.story(SIZES[0], 2, alone=rng.random() < 0.15, think=rng.random() < 0.2))
    else:
        made = times(12, lambda: [rows.idea()])
    return collate(task, made, rows.side)


def batches_of_step(
    prompts: PromptBuilder, seed: int, step: int, stage: Stage, part: slice = slice(None), scale: float = 1.0
) -> list[Batch]:
    """part: which of the step's tasks."""
    return [batch_of(prompts, seed, step, task, stage, scale) for task in tasks_of_step(seed, step, stage)[part]]
