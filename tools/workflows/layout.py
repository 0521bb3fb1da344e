"""Where the nodes of a workflow go: in groups, nothing on top of anything else, and no wire behind a node.

Groups follow each other to the right, below, or in a new row. All ways are tried; the best one can be read as a whole
and has few reroutes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import numpy as np

from tools.workflows.wires import TITLE, Point, Rectangle, behind, curve, curves, rectangle, socket

COLUMN_GAP = 60
ROW_GAP = 50  # nodes are up to 50 taller where the editor draws them with "Nodes 2.0"
PAD, HEADING = 18, 34  # around the nodes of a group; of its title
COLOR = "#3f789e"
GROUP_GAP = 36  # between groups, where wires turn
LANE, LANES = 24, 4  # wires that run beside each other, and how many there may be between rows
FIT, FRAME = (1200, 750), 20  # what the editor fits a workflow and a frame into, in a window of 1600 x 1000
READABLE, ENOUGH = 0.575, 0.8  # the editor leaves all text out below 8 / 14
NO_TEXT = 5  # the cost of that: more than wires come to, where another place for groups avoids it
MARGIN = 4  # that a wire keeps from nodes
THROUGH_HEADING = 0.15  # the cost of a wire that runs through one
MOST_WAYS = 100  # of a wire that turns at two heights
WIDTH, NARROW, TEXT_WIDTH, PICTURE_SIDE = 280, 220, 360, 380
CHARACTERS, LINE = 47, 16  # of a text box at TEXT_WIDTH
TEXT_HEIGHT = (90, 480)
NOTE_CHARACTERS, NOTE_LINE, NOTE_FRAME = 60, 14, 46
KEPT_TEXT_HEIGHT = 210
PREVIEW = 230  # height for what a node draws while it runs
WIDE_PICTURE = 0.6  # height of what wide nodes show, charts, as a part of their width
REROUTES = ("reroutes", "linkExtensions")  # what a saved workflow has of them, under "extra"
RIGHT, BELOW, NEW_ROW = "right", "below", "new row"


@dataclass
class Box:
    """A node: what the editor says it needs, and how large it is to be."""

    id: int
    group: str
    needs: tuple[float, float]
    text: str | None = None  # the longest of its text boxes
    texts: int = 0  # how many boxes there are, all of one height
    text_comes: bool = False  # over a wire: the box stays empty
    keeps_picture: bool = False
    keeps_text: bool = False
    draws: bool = False
    writes: float = 0  # height for what it says while it runs
    width: float = 0  # at the least
    below: int | None = None  # of a note: the node that it is about
    feeds: set[int] = field(default_factory=set)

    @property
    def size(self) -> tuple[float, float]:
        width, height = max(self.needs[0], NARROW if self.text_comes else WIDTH), self.needs[1]
        if self.below is not None:
            width, height = WIDTH, max(height, NOTE_FRAME + _lines(self.text, NOTE_CHARACTERS) * NOTE_LINE)
        elif self.text is not None and not self.text_comes:
            least, most = TEXT_HEIGHT
            lines = self.texts * _lines(self.text, CHARACTERS)
            width, height = max(width, TEXT_WIDTH), height + min(max(lines * LINE, least), most)
        if self.keeps_text:
            width, height = max(width, TEXT_WIDTH), height + KEPT_TEXT_HEIGHT
        if self.keeps_picture:
            width, height = max(width, PICTURE_SIDE), height + PICTURE_SIDE
        elif self.draws:
            height += max(PREVIEW, self.width * WIDE_PICTURE)
        return max(width, self.width), height + self.writes

    @property
    def below_it(self) -> float:
        """What a group has below this node: with "Nodes 2.0" those are taller that have no height to spare."""
        spare = self.writes or self.keeps_picture or self.keeps_text or self.below is not None
        return PAD if spare else ROW_GAP


def _lines(text: str | None, characters: int) -> int:
    return sum(max(1, math.ceil(len(line) / characters)) for line in (text or "").split("\n"))


class Group:
    """Nodes under a title, in columns by the order of work. Places are relative to its corner."""

    def __init__(self, title: str, boxes: list[Box]):
        self.title = title
        nodes = {box.id: box for box in boxes if box.below is None}
        rank = ranks(nodes)
        columns = [[id for id in nodes if rank[id] == column] for column in sorted(set(rank.values()))]
        self.places: dict[int, tuple[Point, tuple[float, float]]] = {}
        x, ends = PAD, []
        for column in columns:
            width, y = max(nodes[id].size[0] for id in column), HEADING + TITLE + PAD / 2
            for id in column:
                self.places[id] = (x, y), (width, nodes[id].size[1])
                y += nodes[id].size[1] + TITLE + ROW_GAP
            ends.append((y, x, width))
            x += width + COLUMN_GAP
        for box in boxes:
            if box.below is not None:  # where there is most room
                y, left, width = ends.pop(ends.index(min(ends)))
                self.places[box.id] = (left, y), (width, box.size[1])
                ends.append((y + box.size[1] + TITLE + ROW_GAP, left, width))
        self.width = x - COLUMN_GAP + PAD
        by_id = {box.id: box for box in boxes}
        self.height = max(y + size[1] + by_id[id].below_it for id, ((_, y), size) in self.places.items())


def ranks(nodes: Mapping[int, Box]) -> dict[int, int]:
    """The column of each node: ends as early as they can be, all others just before the first that needs them."""
    feeds = {id: box.feeds & nodes.keys() for id, box in nodes.items()}
    early = dict.fromkeys(nodes, 0)
    for _ in nodes:  # no path is longer than this
        for id, targets in feeds.items():
            for target in targets:
                early[target] = max(early[target], early[id] + 1)
    late = {id: early[id] for id, targets in feeds.items() if not targets}
    while len(late) < len(nodes):
        for id, targets in feeds.items():
            if id not in late and targets <= late.keys():
                late[id] = min(late[target] for target in targets) - 1
    return late


def corners(groups: list[Group], way: tuple[str, ...]) -> list[Point]:
    """Where each group goes, if each but the first follows the one before it in this way."""
    rows: list[list[list[int]]] = [[[0]]]
    for index, step in enumerate(way, 1):
        if step == NEW_ROW:
            rows.append([[index]])
        elif step == RIGHT:
            rows[-1].append([index])
        else:
            rows[-1][-1].append(index)
    places: dict[int, Point] = {}
    y = 0.0
    for row in rows:
        x, lowest = 0.0, y
        for column in row:
            top = y
            for index in column:
                places[index] = x, top
                top += groups[index].height + GROUP_GAP
            x += max(groups[index].width for index in column) + GROUP_GAP
            lowest = max(lowest, top)
        y = lowest + 1.5 * LANE
    return [places[index] for index in range(len(groups))]


def arrange(workflow: dict[str, Any], boxes: list[Box]) -> None:
    """Give the nodes of a saved workflow their places and sizes, and the workflow groups and reroutes."""
    titles = list(dict.fromkeys(box.group for box in boxes))
    groups = [Group(title, [box for box in boxes if box.group == title]) for title in titles]
    nodes = {node["id"]: node for node in workflow["nodes"]}
    best: tuple[float, list[Point], Routing] | None = None
    for way in product((RIGHT, BELOW, NEW_ROW), repeat=len(groups) - 1):
        places = corners(groups, way)
        ends = [(x + group.width, y + group.height) for group, (x, y) in zip(groups, places, strict=True)]
        cost = _unreadable([(0, 0), *ends])
        if best and cost >= best[0]:
            continue
        place(nodes, groups, places)
        routing = Routing(workflow, groups, places, best[0] - cost if best else math.inf)
        reroutes = [point for points in routing.points.values() for point in points]
        cost = routing.cost + _unreadable([(0, 0), *ends, *reroutes])
        if best is None or cost < best[0]:
            best = cost, places, routing
    _, places, routing = best
    place(nodes, groups, places)
    workflow["groups"] = [
        {
            "id": index,
            "title": group.title,
            "bounding": [x, y, group.width, group.height],
            "color": COLOR,
            "font_size": 22,
            "flags": {},
        }
        for index, (group, (x, y)) in enumerate(zip(groups, places, strict=True), 1)
    ]
    routing.write(workflow)


def _unreadable(points: list[Point]) -> float:
    """The cost of what is too large to be read when all of it is in view. points: its extent."""
    extent = np.ptp(points, axis=0) + FRAME
    scale = min(FIT / extent)
    return 2 * max(0, ENOUGH - scale) + 60 * max(0, READABLE - scale) + (NO_TEXT if scale < READABLE else 0)


def place(nodes: Mapping[int, dict[str, Any]], groups: list[Group], places: list[Point]) -> None:
    for group, (x, y) in zip(groups, places, strict=True):
        for id, ((column, row), size) in group.places.items():
            nodes[id]["pos"], nodes[id]["size"] = [x + column, y + row], list(size)


class Routing:
    """The reroutes of every wire that would run behind something without them.

    cost: fewer and shorter is better; once it is over `most`, it is not worked out to the end.
    """

    def __init__(self, workflow: dict[str, Any], groups: list[Group], places: list[Point], most: float):
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        titles = [(x, y, 14 * len(group.title), HEADING) for group, (x, y) in zip(groups, places, strict=True)]
        headings = [(x, y, group.width, HEADING) for group, (x, y) in zip(groups, places, strict=True)]
        rectangles = [rectangle(node) for node in workflow["nodes"]]
        self.boxes = np.array([*rectangles, *titles])
        self.with_headings = np.array([*rectangles, *headings])
        self.rows = sorted(_between(rectangles, groups, places))
        self.taken: dict[tuple[float, float], tuple[int, int]] = {}  # where wires run along: by which output
        self.cost, self.points = 0.0, {}
        for link in sorted(workflow["links"], key=lambda link: (link[1], link[2], self._ends(link)[1])):
            self.points[link[0]] = self._route(link)
            if self.cost > most:
                return
        drawn = curves(
            {
                link[0]: [ends[0], *self.points[link[0]], ends[1]]
                for link in workflow["links"]
                if (ends := self._ends(link))
            }
        )
        self.cost += sum(5 for wire in drawn.values() if behind(wire, self.boxes).any())
        self.cost += sum(map(_extent, drawn.values())) / 8_000

    def _ends(self, link: list) -> tuple[Point, Point]:
        _, source, output, target, slot, _ = link
        return socket(self.nodes[source], output, is_input=False), socket(self.nodes[target], slot, is_input=True)

    def _route(self, link: list) -> list[Point]:
        """Not through the heading of a group, where nodes have badges, if there is another way."""
        start, end = self._ends(link)
        owner = link[1], link[2]
        for boxes, cost in ((self.with_headings, 0), (self.boxes, THROUGH_HEADING)):
            for points in self._ways(start, end):
                if any(self.taken.get(point, owner) != owner for point in _runs(points)):
                    continue
                if behind(curve([start, *points, end]), boxes, MARGIN).any():
                    continue
                self.taken.update(dict.fromkeys(_runs(points), owner))
                self.cost += 0.03 * len(points) + cost
                return points
        self.cost += 5
        return []

    def _ways(self, start: Point, end: Point) -> Iterator[list[Point]]:
        """Reroutes to try: none, one, two; those that make the shortest way first."""
        yield []
        columns = start[0] + 9 + COLUMN_GAP / 2, end[0] - 10 - COLUMN_GAP / 2
        ways = [[(x, y)] for x in columns for y in self.rows]
        ways += [[(columns[0], y), (columns[1], y)] for y in self.rows]
        yield from sorted(ways, key=lambda way: _length([start, *way, end]) + 60 * len(way))
        ways = [[(columns[0], y), (columns[1], z)] for y in self.rows for z in self.rows if y != z]
        yield from sorted(ways, key=lambda way: _length([start, *way, end]))[:MOST_WAYS]

    def write(self, workflow: dict[str, Any]) -> None:
        """Put the reroutes into a workflow; wires of one output share those that they have in common."""
        made: dict[tuple, dict[str, Any]] = {}
        last = []
        for id, source, output, *_ in workflow["links"]:
            key: tuple = source, output
            parent = None
            for point in self.points[id]:
                key = *key, point
                reroute = made.setdefault(key, {"id": len(made) + 1, "pos": list(point), "linkIds": []})
                reroute["linkIds"].append(id)
                if parent is not None:
                    reroute["parentId"] = parent
                parent = reroute["id"]
            if parent is not None:
                last.append({"id": id, "parentId": parent})
        workflow["extra"] = {name: value for name, value in workflow["extra"].items() if name not in REROUTES}
        if made:
            workflow["extra"] |= {"reroutes": list(made.values()), "linkExtensions": last}


def _between(rectangles: list[Rectangle], groups: list[Group], places: list[Point]) -> set[float]:
    """Heights at which wires may run along: above and below groups, and between nodes."""
    heights = {top - MARGIN - 4 for _, top, _, _ in rectangles} | {y + h + MARGIN + 4 for _, y, _, h in rectangles}
    for group, (_, y) in zip(groups, places, strict=True):
        for lane in range(LANES):
            heights |= {y - LANE * (lane + 0.5), y + group.height + LANE * (lane + 0.5)}
    return {LANE / 2 * round(height / LANE * 2) for height in heights}


def _runs(points: list[Point]) -> list[tuple[float, float]]:
    """What two wires of different outputs may not share: places of reroutes, and heights at which they run along."""
    return [*points, *({(math.inf, points[0][1])} if len(points) > 1 else ())]


def _extent(wire: np.ndarray) -> float:
    return float(np.hypot(*np.diff(wire, axis=0).T).sum())


def _length(points: list[Point]) -> float:
    return sum(math.dist(*ends) for ends in pairwise(points))
