"""Measure what the demo checkpoint can do, through the public API, on scenes that it was never trained on.

    python -m tools.demo.evaluate FOLDER [--only captions edits] [--part 0.25] [--pictures FOLDER]

Ends with 1 where one of the targets is missed. --pictures keeps what was drawn, and the figures as results.json.
"""

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import sensenova_core
from sensenova_core import (
    Conditioning,
    DecodingSettings,
    DocumentSettings,
    Drawing,
    Engine,
    Message,
    SamplingSettings,
    Step,
    Text,
)
from tools.demo import texts
from tools.demo.detect import covered, seen
from tools.demo.scenes import COLOURS, KINDS, Scene, draw, scene
from tools.demo.sheet import sheet

SIDE, STEPS, CFG, IMG_CFG = 128, 20, 4.0, 3.0
OTHER_SIZES = ((160, 96), (96, 160), (192, 192))  # width, height
SEED = 2026  # of the scenes
THOUGHT = 150  # tokens, of which a plan of three shapes takes 50
KEPT = 0.06  # mean difference, of 1, up to which an edit keeps what it does not name


@dataclass
class Tally:
    """How often something held. shown: pictures to look at, each with what was asked."""

    held: dict[str, list[float]] = field(default_factory=dict)
    shown: list[tuple[str, list[Image.Image]]] = field(default_factory=list)

    def count(self, **outcomes: float) -> None:
        for name, outcome in outcomes.items():
            self.held.setdefault(name, []).append(float(outcome))

    def means(self) -> dict[str, float]:
        return {name: round(sum(values) / len(values), 4) for name, values in sorted(self.held.items())}


def picture_of(
    engine: Engine,
    conditioning: Conditioning,
    seed: int,
    cfg: float = CFG,
    img_cfg: float = 1.0,
    size: tuple[int, int] = (SIDE, SIDE),
) -> Image.Image:
    """size: (width, height)"""
    sides = dict(zip(("width", "height"), size, strict=True))
    return as_picture([*engine.sample(conditioning, **sides, steps=STEPS, cfg=cfg, img_cfg=img_cfg, seed=seed)][-1])


def as_picture(step: Step) -> Image.Image:
    return Image.fromarray((step.image()[0].cpu().numpy() * 255).round().astype(np.uint8))


def held_out_scenes(count: int, task: str, most: int = 3) -> Iterable[tuple[random.Random, Scene]]:
    """Half of them of one shape, a third of two, the others of three."""
    rng = random.Random(f"{SEED}/{task}")
    for index in range(count):
        yield rng, scene(rng, min((1, 2, 1, 2, 1, 3)[index % 6], most), held_out=True)


def captions(engine: Engine, count: int, cfg: float = CFG) -> Tally:
    """Whether the background and every shape have their colours, and whether every shape is there, and nothing else.

    places: whether the shapes stand where the captions say, of those that do. One caption in five is Chinese.
    """
    tally = Tally()
    for index, (rng, made) in enumerate(held_out_scenes(count, "captions")):
        zh = index % 5 == 4
        asked = texts.caption(rng, made, zh)
        picture = picture_of(engine, engine.encode(asked.text), index, cfg)
        _judge(tally, made, picture, zh)
        if asked.place:
            tally.count(places=seen(picture).shows_places(made))
        tally.shown.append((asked.text, [picture]))
    return tally


def sizes(engine: Engine, count: int) -> Tally:
    """The same at other sizes than the usual one."""
    tally = Tally()
    for index, (rng, made) in enumerate(held_out_scenes(count, "sizes", most=2)):
        asked = texts.caption(rng, made).text
        size = OTHER_SIZES[index % len(OTHER_SIZES)]
        picture = picture_of(engine, engine.encode(asked), index, size=size)
        _judge(tally, made, picture)
        tally.shown.append((asked, [picture]))
    return tally


def _judge(tally: Tally, made: Scene, picture: Image.Image, zh: bool = False) -> None:
    found = seen(picture)
    colours, kinds = found.shows_colours(made), found.shows_kinds(made)
    tally.count(colours=colours, kinds=kinds, **{f"kinds_of_{len(made.shapes)}": kinds})
    if zh:
        tally.count(colours_zh=colours, kinds_zh=kinds)


def unguided(engine: Engine, count: int) -> Tally:
    """The same without guidance."""
    return captions(engine, count, cfg=1.0)


def edits(engine: Engine, count: int, cfg: float = CFG, img_cfg: float = 1.0) -> Tally:
    """Whether what was asked for is there, and all else as it was.

    difference: mean difference, of 1, outside what was to change and 3 pixels around it; kept: whether that is under
    KEPT. moved: mean difference from the reference where it was to change.
    """
    tally = Tally()
    for index, (rng, made) in enumerate(held_out_scenes(count, "edits", most=2)):
        change = texts.edit(rng, made, held_out=True)
        asked = texts.asked(rng, change, zh=index % 5 == 4)
        before = draw(made, SIDE, SIDE)
        picture = picture_of(engine, engine.encode(asked, [before]), index, cfg, img_cfg)
        _judge_edit(tally, change.name, made, change.after, picture)
        tally.shown.append((asked, [before, picture]))
    return tally


def edits_by_image(engine: Engine, count: int) -> Tally:
    """The same guided by the reference too, to which pictures then keep."""
    return edits(engine, count, img_cfg=IMG_CFG)


def merges(engine: Engine, count: int) -> Tally:
    """`edits` with two references."""
    tally = Tally()
    rng = random.Random(f"{SEED}/merges")
    for index in range(count):
        change = None
        while change is None or not change.after.held_out:
            pair = scene(rng, rng.randint(1, 2), held_out=rng.random() < 0.5), scene(rng, 1)
            change = texts.merge(rng, *pair)
        asked = texts.asked(rng, change)
        shown = [draw(one, SIDE, SIDE) for one in pair]
        picture = picture_of(engine, engine.encode(asked, shown), index)
        _judge_edit(tally, change.name, pair[0], change.after, picture)
        tally.shown.append((asked, [*shown, picture]))
    return tally


def _judge_edit(tally: Tally, name: str, before: Scene, after: Scene, picture: Image.Image) -> None:
    found = seen(picture)
    done, colours = found.shows_kinds(after), found.shows_colours(after)
    changed = np.full((SIDE, SIDE), before.background != after.background)
    outside = np.ones((SIDE, SIDE), dtype=bool)
    for shape in {*before.shapes} ^ {*after.shapes}:
        changed |= covered(shape, SIDE, SIDE, margin=0)
        outside &= ~covered(shape, SIDE, SIDE)
    difference = _difference(picture, draw(after, SIDE, SIDE))[outside].mean()
    moved = _difference(picture, draw(before, SIDE, SIDE))[changed].mean()
    tally.count(done=done, colours=colours, difference=difference, kept=difference < KEPT, moved=moved)
    tally.count(**{f"done_{name}": done})


def _difference(picture: Image.Image, other: Image.Image) -> np.ndarray:
    """(height, width), mean over the colours, of 1."""
    values = (np.asarray(one, dtype=np.float32) / 255 for one in (picture, other))
    return np.abs(next(values) - next(values)).mean(-1)


def questions(engine: Engine, count: int) -> Tally:
    """Whether answers are right to the letter."""
    tally = Tally()
    for index, (rng, made) in enumerate(held_out_scenes(count, "questions")):
        zh = index % 5 == 4
        question = texts.question(rng, made, zh)
        exact = [*engine.understand(question.asked, [draw(made, SIDE, SIDE)])][-1].text == question.answer
        tally.count(exact=exact, **{f"exact_{question.name}": exact}, **({"exact_zh": exact} if zh else {}))
    return tally


def thoughts(engine: Engine, count: int) -> Tally:
    """Whether the reasoning names every shape with its colour and the background, and the picture follows it."""
    tally = Tally()
    for index, (rng, made) in enumerate(held_out_scenes(count, "thoughts")):
        asked = texts.caption(rng, made).text
        *_, last = engine.think(engine.encode(asked), DecodingSettings(max_tokens=THOUGHT))
        thought = last.conditioning
        wanted = [f"{shape.colour} {shape.kind}" for shape in made.shapes] + [
            texts.PLANNED_GROUND.format(made.background)
        ]
        picture = picture_of(engine, thought, index)
        tally.count(names_the_scene=all(words in thought.think_text for words in wanted))
        tally.count(ends=thought.think_text.endswith("</think>"))
        _judge(tally, made, picture)
        tally.shown.append((f"{asked} | {thought.think_text}", [picture]))
    return tally


def ideas(engine: Engine, count: int) -> Tally:
    """Whether all that a short idea names is in the prompt that is made of it."""
    tally = Tally()
    for rng, made in held_out_scenes(count, "ideas"):
        idea = texts.idea(rng, made)
        prompt = [*engine.understand([Message("system", texts.ENHANCE), Message("user", idea)])][-1].text
        named = {word for word in re.findall(r"\w+", idea.lower()) if word in {*COLOURS, *KINDS}}
        tally.count(named=named <= {*re.findall(r"\w+", prompt)})
    return tally


def stories(engine: Engine, count: int) -> Tally:
    """asked_number: of pictures. first, last: whether the picture shows what was told, where that says what happens."""
    tally = Tally()
    rng = random.Random(f"{SEED}/stories")
    for index in range(count):
        wanted = 1 + index % 3
        told = texts.story(rng, scene(rng, 1, held_out=True), wanted, held_out=True)
        settings = DocumentSettings(SamplingSettings(SIDE, SIDE, STEPS, seed=index))
        text, pictures = "", []
        for event in engine.interleave(told.asked, settings=settings):
            if isinstance(event, Text):
                text += event.text
            elif isinstance(event, Drawing) and event.step.index + 1 == event.step.total:
                pictures.append(as_picture(event.step))
        tally.count(
            asked_number=len(pictures) == wanted, first=bool(pictures) and seen(pictures[0]).shows_kinds(told.scenes[0])
        )
        if told.told and len(pictures) == wanted:
            tally.count(last=seen(pictures[-1]).shows_kinds(told.scenes[-1]))
        tally.shown.append((f"{told.asked} | {text}", pictures))
    return tally


TASKS = {
    "captions": (captions, 64),
    "unguided": (unguided, 64),
    "sizes": (sizes, 24),
    "edits": (edits, 48),
    "edits_by_image": (edits_by_image, 48),
    "merges": (merges, 24),
    "questions": (questions, 128),
    "thoughts": (thoughts, 24),
    "ideas": (ideas, 24),
    "stories": (stories, 18),
}


# (task, measure) -> (least, most)
TARGETS = {
    ("captions", "colours"): (0.9, 1.0),
    ("captions", "kinds"): (0.75, 1.0),
    ("edits", "colours"): (0.75, 1.0),
    ("edits", "done"): (0.5, 1.0),
    ("edits", "difference"): (0.0, KEPT),
    ("edits", "kept"): (0.9, 1.0),
    ("merges", "difference"): (0.0, KEPT),
    ("questions", "exact"): (0.85, 1.0),
    ("thoughts", "names_the_scene"): (0.9, 1.0),
    ("thoughts", "colours"): (0.9, 1.0),
    ("stories", "asked_number"): (1.0, 1.0),
}
# The first is to be greater than the second: what guidance by what is asked, and by the image, is for.
ORDERS = (
    (("captions", "kinds"), ("unguided", "kinds")),
    (("edits", "moved"), ("edits_by_image", "moved")),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--part", type=float, default=1.0, help="of the number of cases")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of results, and the figures")
    arguments = parser.parse_args()
    engine = sensenova_core.load(arguments.folder, dtype=arguments.dtype)
    found = {}
    for name in arguments.only:
        task, count = TASKS[name]
        began = time.monotonic()
        tally = task(engine, max(1, round(count * arguments.part)))
        found[name] = tally.means()
        print(name, json.dumps(found[name]), f"{time.monotonic() - began:.0f} s", flush=True)
        if arguments.pictures:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            if tally.shown:
                sheet(tally.shown).save(arguments.pictures / f"{name}.png")
    if arguments.pictures:
        results = json.dumps(found, indent=2) + "\n"
        (arguments.pictures / "results.json").write_text(results, encoding="utf-8")
    return 1 if missed(found) else 0


def missed(found: dict[str, dict[str, float]]) -> int:
    """Say which targets are met; returns how many are not."""
    count = 0
    for (task, measure), (least, most) in TARGETS.items():
        if task in found:
            value = found[task][measure]
            met = least <= value <= most
            count += not met
            print(f"{'met' if met else 'MISSED':7} {task} {measure}: {value} (target {least} to {most})")
    for (more, measure), (less, _) in ORDERS:
        if {more, less} <= found.keys():
            met = found[more][measure] > found[less][measure]
            count += not met
            print(f"{'met' if met else 'MISSED':7} {measure} of {more} more than of {less}")
    return count


if __name__ == "__main__":
    sys.exit(main())
