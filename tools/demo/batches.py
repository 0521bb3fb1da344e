"""Rows -> padded tensors, and the mixture of tasks at each step of training."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from sensenova_core.prompt import PromptBuilder

from .rows import AREA, Row, Rows
from .scenes import Scene, kinds_in_cells

CELL_SIDE = 32  # pixels of a token's side
SMALL_SIZES = ((128, 128),) * 6 + ((160, 96), (96, 160), (128, 96), (96, 128))  # references are read as they are
SIZES = (*SMALL_SIZES, (160, 128), (128, 160), (192, 128), (192, 192))


@dataclass(frozen=True)
class Batch:
    """Rows padded at the end to one length.

    ids, valid: (rows, tokens); positions: (rows, 3, tokens). images: (pixels, places) of images of one size, places
    being indexes into the flattened rows. writers, written: index into the flattened rows of the token that predicts,
    and what it predicts. owners, lengths: of each picture to be drawn, its row and how many of its tokens it sees.
    pictures: (pictures, 3, height, width). kinds, drawn_kinds: what each token shows, of the images in the order of
    their places, and of the pictures. branches: (pictures, 2, 2), how each is drawn after a prompt, and
    without one: (row, tokens that are seen of it), or -1.
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


def collate(task: str, rows: list[Row]) -> Batch:
    longest = max(len(row.sequence.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    positions = torch.zeros(len(rows), 3, longest, dtype=torch.int64)
    valid = torch.zeros(len(rows), longest, dtype=torch.bool)
    images: dict[tuple[int, ...], tuple[list[Tensor], list[Tensor], list[int]]] = {}
    writers, written, owners, lengths, pictures, drawn_kinds, scenes = [], [], [], [], [], [], []
    seen: dict[tuple[Scene, bool], tuple[int, int]] = {}
    for index, row in enumerate(rows):
        sequence, length = row.sequence, len(row.sequence.ids)
        ids[index, :length], valid[index, :length] = sequence.ids, True
        positions[index, :, :length] = sequence.positions
        places = (sequence.slots.nonzero().flatten() + index * longest).split([one.tokens for one in sequence.images])
        for image, place, shown in zip(sequence.images, places, row.shown, strict=True):
            stacked = images.setdefault(tuple(image.pixels.shape), ([], [], []))
            stacked[0].append(image.pixels)
            stacked[1].append(place)
            stacked[2].extend(kinds_in_cells(shown, image.columns, image.rows))
        for start, stop in row.written:
            writers += range(index * longest + start - 1, index * longest + stop - 1)
            written += sequence.ids[start:stop].tolist()
        for drawn in row.drawn:
            seen[drawn.scene, drawn.prompted] = index, drawn.tokens
            scenes += [drawn.scene] * drawn.times
            owners += [index] * drawn.times
            lengths += [drawn.tokens] * drawn.times
            pictures += [drawn.picture] * drawn.times
            drawn_kinds += kinds_in_cells(drawn.scene, *(side // CELL_SIDE for side in drawn.size)) * drawn.times
    return Batch(
        task,
        ids,
        positions,
        valid,
        [(torch.stack(shown), torch.cat(places)) for shown, places, _ in images.values()],
        torch.tensor(writers, dtype=torch.int64),
        torch.tensor(written, dtype=torch.int64),
        torch.tensor(owners, dtype=torch.int64),
        torch.tensor(lengths, dtype=torch.int64),
        torch.stack(pictures) if pictures else torch.empty(0),
        torch.tensor([kind for *_, kinds in images.values() for kind in kinds], dtype=torch.int64),
        torch.tensor(drawn_kinds, dtype=torch.int64),
        torch.tensor([[seen.get((one, prompted), (-1, -1)) for prompted in (True, False)] for one in scenes]),
    )


SIMPLE, EASY = 0.25, 0.5  # parts of the training up to which scenes are so
TASKS = ("picture", "think", "conversation", "edit", "merge", "story", "idea", "reading")


def tasks_of_step(seed: int, step: int, progress: float) -> list[str]:
    """What one step learns: text to image always, and the other tasks in turn. progress: 0 .. 1 of all steps."""
    rng = random.Random(f"{seed}/{step}")
    tasks = ["picture", *rng.choices(TASKS[2:], _weights(progress))]
    if progress > SIMPLE and rng.random() < 0.25:
        tasks.append("think")
    return tasks


def batch_of(prompts: PromptBuilder, seed: int, step: int, task: str, progress: float, scale: float = 1.0) -> Batch:
    """A task's batch at one step; by seed, step and task alone.

    progress: 0 .. 1 of all steps; single shapes come first, of which all is said. scale: of the number of rows.
    """
    rng = random.Random(f"{seed}/{step}/{task}")
    counts = (1.0, 0.0, 0.0) if progress < SIMPLE else (0.6, 0.3, 0.1) if progress < EASY else (0.3, 0.4, 0.3)
    rows = Rows(prompts, rng, counts, 0.8 if progress < SIMPLE else 0.2)

    def many(count: float) -> range:
        return range(max(1, round(count * scale)))

    sizes = SIZES if task in ("picture", "think") else SMALL_SIZES
    size = rng.choice(sizes) if progress > SIMPLE else SIZES[0]
    area = size[0] * size[1] / AREA
    if task == "picture":
        made = [rows.picture(size, 2) for _ in many(20 / area)]
        made.append(rows.unconditional([one for row in made for one in row.drawn], len(made)))
    elif task == "think":
        made = [rows.picture(size, 3, think=True) for _ in many(12 / area)]
        made.append(rows.unconditional([one for row in made for one in row.drawn], 0))
    elif task == "conversation":
        made = [rows.conversation(size) for _ in many(32)]
    elif task == "reading":
        made = [rows.conversation(size, 1, whole=1.0) for _ in many(48)]
    elif task == "edit":
        made = [row for _ in many(14) for row in rows.edit(size, 3, alone=rng.random() < 0.5, think=rng.random() < 0.1)]
    elif task == "merge":
        made = [row for _ in many(10) for row in rows.merge(size, 3, alone=rng.random() < 0.5)]
    elif task == "story":
        made = [row for _ in many(8) for row in rows.story(SIZES[0], 2, rng.random() < 0.15, rng.random() < 0.2)]
    else:
        made = [rows.idea() for _ in many(12)]
    return collate(task, made)


def batches_of_step(
    prompts: PromptBuilder, seed: int, step: int, progress: float, part: slice = slice(None), scale: float = 1.0
) -> list[Batch]:
    """part: which of the step's tasks."""
    tasks = tasks_of_step(seed, step, progress)[part]
    return [batch_of(prompts, seed, step, task, progress, scale) for task in tasks]


def _weights(progress: float) -> tuple[float, ...]:
    """Of conversation, edit, merge, story, idea, reading."""
    if progress < SIMPLE:
        return (0.2, 0.3, 0.0, 0.0, 0.0, 0.5)
    if progress < EASY:
        return (0.15, 0.25, 0.05, 0.07, 0.03, 0.45)
    return (0.2, 0.33, 0.1, 0.1, 0.02, 0.25)
