"""What is said about scenes: captions, plans, edits, questions, stories, in a small, regular English and Chinese."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from tools.demo.scenes import (
    AROUND,
    COLOURS,
    KINDS,
    OPPOSITE,
    Scene,
    Shape,
    as_usual,
    new_shape,
)

ZH_COLOURS = dict(zip(COLOURS, ("红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "白色", "黑色"), strict=True))
ZH_KINDS = dict(zip(KINDS, ("圆形", "方形", "三角形", "星形", "圆环", "心形"), strict=True))
ZH_SIZES = {"small": "小", "big": "大"}
PLACE_PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}
ZH_PLACES = {"left": "左边", "right": "右边", "top": "上面", "bottom": "下面", "middle": "中间"}
RELATIONS = {
    ("left", "right"): ("to the left of", "在{}的左边"),
    ("right", "left"): ("to the right of", "在{}的右边"),
    ("top", "bottom"): ("above", "在{}的上面"),
    ("bottom", "top"): ("below", "在{}的下面"),
}
READING = ("left", "top", "middle", "bottom", "right")
OPENERS = ("", "", "", "", "draw ", "paint ", "show me ", "a picture of ", "an image of ")
ENOUGH = 500  # random changes, to find one of a certain kind among
NUMBERS = ("no", "one", "two", "three")
ZH_NUMBERS = ("零", "一", "两", "三")
PLANNED_GROUND = "background is {}"  # in the reasoning before a picture


def article(word: str) -> str:
    return "an" if word[0] in "aeio" else "a"


def named(shape: Shape, zh: bool = False, size: bool = True, place: bool = True) -> str:
    """Such as "a small red circle on the left": with its size and place, or without."""
    if zh:
        return (
            (ZH_PLACES[shape.place] if place else "")
            + "一个"
            + (ZH_SIZES[shape.size] if size else "")
            + ZH_COLOURS[shape.colour]
            + ZH_KINDS[shape.kind]
        )
    words = [*([shape.size] if size else []), shape.colour, shape.kind]
    return " ".join([article(words[0]), *words, *([PLACE_PHRASES[shape.place]] if place else [])])


def listed(items: list[str], zh: bool = False) -> str:
    """Such as "a, b and c"."""
    if len(items) == 1:
        return items[0]
    joined = ("、" if zh else ", ").join(items[:-1])
    return f"{joined}和{items[-1]}" if zh else f"{joined} and {items[-1]}"


def in_order(scene: Scene) -> Scene:
    """The same with its shapes from left to right, and in between from top to bottom: as they are read."""
    return scene.with_shapes(*sorted(scene.shapes, key=lambda shape: READING.index(shape.place)))


def described(scene: Scene, zh: bool = False) -> str:
    """All there is to say about a scene, always in the same words."""
    items = listed([named(shape, zh) for shape in scene.shapes], zh)
    if zh:
        return f"{items},{ZH_COLOURS[scene.background]}背景"
    return f"{items} on {article(scene.background)} {scene.background} background"


def unsaid_background(scene: Scene) -> str:
    """The background of a caption that names none."""
    return "black" if any(shape.colour == "white" for shape in scene.shapes) else "white"


@dataclass(frozen=True)
class Caption:
    """size, place: whether they are said, of all shapes, or left open."""

    text: str
    size: bool
    place: bool


def caption(rng: random.Random, scene: Scene, zh: bool = False, whole: float = 0.0) -> Caption:
    """One of many ways to ask for a scene. whole: how often nothing is left open."""
    full = rng.random() < whole
    size, place = full or rng.random() < 0.3, full or rng.random() < 0.5
    return Caption(_caption(rng, scene, zh, size, place), size, place)


def _caption(rng: random.Random, scene: Scene, zh: bool, size: bool, place: bool) -> str:
    said = [named(shape, zh, size, place) for shape in scene.shapes]
    places = tuple(shape.place for shape in scene.shapes)
    if place and places in RELATIONS and rng.random() < 0.4:
        first, second = (named(shape, zh, size, place=False) for shape in scene.shapes)
        relation = RELATIONS[places][zh]
        said = [first + relation.format(second) if zh else f"{first} {relation} {second}"]
    items, colour = listed(said, zh), scene.background
    bare = scene.background == unsaid_background(scene)
    if zh:
        ground = f"{ZH_COLOURS[colour]}背景"
        bodies = [f"{items},{ground}", f"{ground}上的{items}", f"{ground},{items}"] + [items] * bare
        return rng.choice(["", "", "画"]) + rng.choice(bodies) + rng.choice(["", "", "。"])
    ground = f"{article(colour)} {colour} background"
    bodies = [f"{items} on {ground}"] * 3 + [f"{items}, {colour} background", f"{items} on {colour}"] + [items] * bare
    text = rng.choice(OPENERS) + rng.choice(bodies)
    if rng.random() < 0.15:
        text = f"{ground} with {items}"
    return finished(rng, text)


def finished(rng: random.Random, text: str) -> str:
    """With or without a capital and a full stop."""
    text = text[0].upper() + text[1:] if rng.random() < 0.4 else text
    return text + ("." if rng.random() < 0.3 else "")


def plan(scene: Scene, zh: bool = False) -> str:
    """The reasoning before a picture: everything that the caption may have left open."""
    count = len(scene.shapes)
    items = listed([named(shape, zh) for shape in scene.shapes], zh)
    if zh:
        return f"有{ZH_NUMBERS[count]}个形状:{items}。背景是{ZH_COLOURS[scene.background]}。"
    start = "There is one shape" if count == 1 else f"There are {NUMBERS[count]} shapes"
    return f"{start}: {items}. The {PLANNED_GROUND.format(scene.background)}."


@dataclass(frozen=True)
class Edit:
    """What is asked, in English and Chinese; what then happens, as a story tells it; and the scene after it."""

    asked: tuple[str, ...]
    asked_zh: tuple[str, ...]
    told: str
    after: Scene
    name: str


def the(rng: random.Random, shape: Shape, zh: bool = False) -> str:
    """Such as "the circle", or "the red circle"."""
    colour = rng.random() < 0.3
    if zh:
        return (ZH_COLOURS[shape.colour] if colour else "") + ZH_KINDS[shape.kind]
    return f"the {shape.colour} {shape.kind}" if colour else f"the {shape.kind}"


def recolour(rng: random.Random, scene: Scene) -> Edit:
    shape, colour = rng.choice(scene.shapes), rng.choice([*COLOURS])
    name, zh = the(rng, shape), the(rng, shape, zh=True)
    return Edit(
        (f"make {name} {colour}", f"change the colour of {name} to {colour}", f"turn {name} {colour}"),
        (f"把{zh}变成{ZH_COLOURS[colour]}",),
        f"the {shape.kind} turns {colour}",
        scene.with_changed(shape, colour=colour),
        "recolour",
    )


def repaint(rng: random.Random, scene: Scene) -> Edit:
    colour = rng.choice([*COLOURS])
    return Edit(
        (f"make the background {colour}", f"change the background to {colour}", f"turn the background {colour}"),
        (f"把背景变成{ZH_COLOURS[colour]}",),
        f"the background turns {colour}",
        Scene(scene.shapes, colour),
        "background",
    )


def swap(rng: random.Random, scene: Scene) -> Edit:
    shape, kind = rng.choice(scene.shapes), rng.choice(KINDS)
    name, zh = the(rng, shape), the(rng, shape, zh=True)
    return Edit(
        (f"replace {name} with {article(kind)} {kind}", f"turn {name} into {article(kind)} {kind}"),
        (f"把{zh}换成{ZH_KINDS[kind]}",),
        f"the {shape.kind} turns into {article(kind)} {kind}",
        scene.with_changed(shape, kind=kind),
        "replace",
    )


def remove(rng: random.Random, scene: Scene) -> Edit:
    shape = rng.choice(scene.shapes)
    name, zh = the(rng, shape), the(rng, shape, zh=True)
    return Edit(
        (f"remove {name}", f"take away {name}"),
        (f"去掉{zh}",),
        f"the {shape.kind} goes away",
        scene.with_shapes(*(other for other in scene.shapes if other != shape)),
        "remove",
    )


def add(rng: random.Random, scene: Scene) -> Edit | None:
    """Another shape, at a place where there is room; None if there is none."""
    taken = {shape.place for shape in scene.shapes}
    big = any(shape.size == "big" for shape in scene.shapes)
    free = [place for place in AROUND if place not in taken]
    if big:
        free = [place for place in free if all((other, place) in OPPOSITE for other in taken)]
    if "middle" in taken or not free:
        return None
    shape = new_shape(rng, rng.choice(KINDS), rng.choice([*COLOURS]), "small", rng.choice(free))
    said = named(shape, size=False)
    return Edit(
        (f"add {said}", f"put {said}"),
        (f"在{ZH_PLACES[shape.place]}加{named(shape, zh=True, size=False, place=False)}",),
        f"{said} appears",
        scene.with_shapes(*scene.shapes, shape),
        "add",
    )


EDITS: tuple[Callable[[random.Random, Scene], Edit | None], ...] = (recolour, repaint, swap, remove, add)


def edit(rng: random.Random, scene: Scene, held_out: bool = False, kinds=EDITS) -> Edit:
    """A random change that leads to another proper scene: one that is held out, if there is any, or one that is not."""
    for tried in itertools.count():
        made = rng.choice(kinds)(rng, scene)
        if made is None:
            continue
        changed = made.after != scene and made.after.shapes and len(made.after.shapes) <= 3
        settled = made.after.held_out == held_out or (held_out and tried > ENOUGH)
        if changed and made.after.is_proper() and settled:
            return made


def asked(rng: random.Random, edit: Edit, zh: bool = False) -> str:
    if zh:
        return rng.choice(edit.asked_zh) + rng.choice(["", "。"])
    return finished(rng, rng.choice(edit.asked))


def merge(rng: random.Random, first: Scene, second: Scene) -> Edit | None:
    """A change of the first of two scenes by something of the second; None where it would make no proper scene."""
    shape, target = rng.choice(second.shapes), rng.choice(first.shapes)
    kind = rng.choice(("put", "ground", "colour"))
    if kind == "put":
        clash = {shape.place, "middle"} & {other.place for other in first.shapes} or shape.place == "middle"
        near = [other for other in (*first.shapes, shape) if other.size == "big"]
        facing = all((other.place, shape.place) in OPPOSITE for other in first.shapes)
        if clash or (near and not facing):
            return None
        texts = (f"put the {shape.kind} of Image-2 into Image-1", f"add the {shape.kind} of Image-2 to Image-1")
        zh = (f"把Image-2的{ZH_KINDS[shape.kind]}放到Image-1里",)
        after = first.with_shapes(*first.shapes, shape)
    elif kind == "ground":
        texts = ("give Image-1 the background of Image-2", "use the background of Image-2 for Image-1")
        zh = ("给Image-1换上Image-2的背景",)
        after = Scene(first.shapes, second.background)
    else:
        texts = (f"give the {target.kind} of Image-1 the colour of the {shape.kind} of Image-2",)
        zh = (f"给Image-1的{ZH_KINDS[target.kind]}换上Image-2的{ZH_KINDS[shape.kind]}的颜色",)
        after = first.with_changed(target, colour=shape.colour)
    if after == first or len(after.shapes) > 3 or not after.is_proper():
        return None
    return Edit(texts, zh, "", after, kind)


@dataclass(frozen=True)
class Question:
    asked: str
    answer: str
    name: str


def question(rng: random.Random, scene: Scene, zh: bool = False, name: str = "") -> Question:
    """A question with one short answer that the picture settles. name: which kind; any, if empty."""
    shape = rng.choice(scene.shapes)
    count = len(scene.shapes)
    name = name or rng.choice(("count", "colour", "kind", "ground", "there", "there", "where", "at", "describe"))
    if name == "there":
        kind = rng.choice(KINDS) if rng.random() < 0.5 else shape.kind
        found = scene.of_kind(kind) is not None
        if zh:
            return Question(f"有{ZH_KINDS[kind]}吗?", "有" if found else "没有", name)
        return Question(f"Is there {article(kind)} {kind}?", "yes" if found else "no", name)
    if zh:
        kind, colour = ZH_KINDS[shape.kind], ZH_COLOURS[shape.colour]
        asked, answer = {
            "count": ("有几个形状?", f"{ZH_NUMBERS[count]}个"),
            "colour": (f"{kind}是什么颜色?", colour),
            "kind": (f"{colour}的是什么形状?", kind),
            "ground": ("背景是什么颜色?", ZH_COLOURS[scene.background]),
            "where": (f"{kind}在哪里?", ZH_PLACES[shape.place]),
            "at": (f"{ZH_PLACES[shape.place]}是什么?", named(shape, zh=True, place=False)),
            "describe": ("描述这张图。", described(in_order(scene), zh=True)),
        }[name]
        return Question(asked, answer, name)
    where = PLACE_PHRASES[shape.place]
    asked, answer = {
        "count": (["How many shapes are there?", "How many shapes?"], NUMBERS[count]),
        "colour": ([f"What {{}} is the {shape.kind}?"], shape.colour),
        "kind": ([f"What shape is {shape.colour}?", f"What is {shape.colour}?"], shape.kind),
        "ground": (["What {} is the background?"], scene.background),
        "where": ([f"Where is the {shape.kind}?"], where),
        "at": ([f"What is {where}?"], named(shape, place=False)),
        "describe": (
            ["Describe this picture.", "Describe the picture.", "What is in this picture?"],
            described(in_order(scene)),
        ),
    }[name]
    asked = rng.choice(asked).format(rng.choice(("colour", "color")))
    return Question(asked[0].lower() + asked[1:] if rng.random() < 0.2 else asked, answer, name)


ENHANCE = (  # as in the workflow enhance_prompt
    "You turn a short idea into a prompt for an image generator. Answer with one paragraph of 80 to 120 "
    "words and nothing else: the subject, what it does, the place, the light, the colours, the camera or "
    "the medium. Keep everything the idea names, and keep its language."
)


def idea(rng: random.Random, scene: Scene) -> str:
    """A few words that `described` says in full."""
    kinds = [f"{article(shape.kind)} {shape.kind}" for shape in scene.shapes]
    coloured = [named(shape, size=False, place=False) for shape in scene.shapes]
    count = len(scene.shapes)
    number = "one shape" if count == 1 else f"{NUMBERS[count]} shapes"
    return finished(rng, rng.choice([listed(kinds), listed(coloured), number, f"{number} on {scene.background}"]))


@dataclass(frozen=True)
class Story:
    """What is asked for; and the text before each picture, with the scene it shows. After the last comes `ending`.

    told: whether what is asked for says what happens.
    """

    asked: str
    texts: tuple[str, ...]
    scenes: tuple[Scene, ...]
    ending: str
    told: bool


STORY_EDITS = (recolour, repaint, swap, add)


def story(rng: random.Random, start: Scene, count: int, held_out: bool = False) -> Story:
    """A story in `count` pictures that begins with one shape; half of them are told beforehand by what is asked."""
    told = count > 1 and rng.random() < 0.5
    start = start if told else as_usual(rng, start)
    scenes, events = [start], []
    while len(scenes) < count:
        change = edit(rng, scenes[-1], held_out, STORY_EDITS)
        scenes.append(change.after)
        events.append(change.told)
    hero = start.shapes[0]
    if told:
        steps = [f"then {event}" for event in events]
        asked = f"First {described(start)}, {', '.join(steps)}"
        asked = rng.choice([asked, f"Tell a story in {NUMBERS[count]} pictures: {asked[0].lower()}{asked[1:]}"])
    else:
        pictures = f"{NUMBERS[count]} picture{'s' if count > 1 else ''}"
        name = f"{named(hero, size=False, place=False)} on {article(start.background)} {start.background} background"
        asked = rng.choice([f"Tell a story about {name} in {pictures}", f"A story in {pictures} about {name}"])
    texts = [f"First there is {described(start)}."] + [f"Then {event}." for event in events]
    return Story(asked + rng.choice(["", "."]), tuple(texts), tuple(scenes), "The end.", told)


def words() -> list[str]:
    """Every Chinese word above, for the tokenizer: Chinese has no spaces to cut at."""
    phrases = ("形状", "背景", "颜色", "什么", "一个", "几个", "哪里", "描述", "这张图", "没有", "变成", "换成", "换上")
    phrases += ("去掉", "上的", "背景是", "放到", "吗?", "的是", "的左边", "的右边", "的上面", "的下面", "两个", "三个")
    return [*ZH_COLOURS.values(), *ZH_KINDS.values(), *ZH_PLACES.values(), *phrases]
