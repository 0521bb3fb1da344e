"""Where the nodes of a workflow go: left to right in the order of work, nothing on top of anything else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

TITLE = 30  # height of a node's title bar, which lies above its position
COLUMN_GAP = ROW_GAP = 60  # nodes are up to 50 taller where the editor draws them with "Nodes 2.0"
MOST_WIDTH = 1960  # wider, and a window of 1600 pixels opens it at under 60 %, where the editor leaves all text out
WIDTH, TEXT_WIDTH, PICTURE_SIDE = 320, 420, 380
CHARACTERS, LINE = 54, 16  # of a text box at TEXT_WIDTH
TEXT_HEIGHT = (100, 480)
NOTE_CHARACTERS, NOTE_LINE, NOTE_FRAME = 66, 12, 46  # of a quotation, which is narrower than the rest of a note
KEPT_TEXT_HEIGHT = 200
PREVIEW, WRITTEN = 260, 70  # heights that a node grows by when it shows what it draws or writes


@dataclass
class Box:
    """A node: what the editor says it needs, and where it ends up. pos is its corner below the title bar."""

    id: str
    needs: tuple[float, float]
    text: str | None = None  # of its text box
    keeps_picture: bool = False  # its place for what it shows is there from the beginning
    keeps_text: bool = False
    draws: bool = False  # grows when it shows that
    writes: bool = False
    feeds: set[str] = field(default_factory=set)
    below: str | None = None  # the node that this one, a note, belongs to
    pos: tuple[float, float] = (0, 0)
    size: tuple[float, float] = (0, 0)


def arrange(boxes: list[Box]) -> None:
    """Set `pos` and `size` of every box; those of a column keep the order they came in."""
    for box in boxes:
        box.size = _size(box)
    nodes = {box.id: box for box in boxes if box.below is None}
    rank = ranks(nodes)
    columns = []
    for column in sorted(set(rank.values())):
        members = [id for id in nodes if rank[id] == column]
        columns.append([box for id in members for box in boxes if id in (box.id, box.below)])
    x = 0.0
    for items in folded(columns):
        y = 0.0
        for box in items:
            box.pos, box.size = (x, y), (_width(items), box.size[1])
            y += _height([box]) + ROW_GAP
        x += _width(items) + COLUMN_GAP


def folded(columns: list[list[Box]]) -> list[list[Box]]:
    """The same within MOST_WIDTH: where they are wider, neighbours are put below each other, as low as can be."""
    ways = []
    for joined in product((False, True), repeat=len(columns) - 1):
        way = [columns[0]]
        for column, joins in zip(columns[1:], joined, strict=True):
            way = [*way[:-1], way[-1] + column] if joins else [*way, column]
        if sum(map(_width, way)) + (len(way) - 1) * COLUMN_GAP <= MOST_WIDTH:
            ways.append(way)
    return min(ways, key=lambda way: (max(map(_height, way)), -len(way)))


def _width(column: list[Box]) -> float:
    return max(box.size[0] for box in column)


def _height(column: list[Box]) -> float:
    return sum(box.size[1] + _growth(box) + TITLE for box in column) + (len(column) - 1) * ROW_GAP


def ranks(nodes: Mapping[str, Box]) -> dict[str, int]:
    """The column of each node: ends as early as they can be, all others just before the first that needs them."""
    early = dict.fromkeys(nodes, 0)
    for _ in nodes:  # no path is longer than this
        for box in nodes.values():
            for target in box.feeds:
                early[target] = max(early[target], early[box.id] + 1)
    late = {id: early[id] for id, box in nodes.items() if not box.feeds}
    while len(late) < len(nodes):
        for id, box in nodes.items():
            if id not in late and box.feeds <= late.keys():
                late[id] = min(late[target] for target in box.feeds) - 1
    return late


def _size(box: Box) -> tuple[float, float]:
    width, height = max(box.needs[0], WIDTH), box.needs[1]
    if box.below is not None:
        width, height = TEXT_WIDTH, max(height, NOTE_FRAME + _lines(box.text, NOTE_CHARACTERS) * NOTE_LINE)
    elif box.text is not None:
        least, most = TEXT_HEIGHT
        width, height = max(width, TEXT_WIDTH), height + min(max(_lines(box.text, CHARACTERS) * LINE, least), most)
    if box.keeps_text:
        width, height = max(width, TEXT_WIDTH), height + KEPT_TEXT_HEIGHT
    if box.keeps_picture:
        width, height = max(width, PICTURE_SIDE), height + PICTURE_SIDE
    return width, height


def _lines(text: str, characters: int) -> int:
    return sum(max(1, math.ceil(len(line) / characters)) for line in text.split("\n"))


def _growth(box: Box) -> float:
    return (PREVIEW if box.draws and not box.keeps_picture else 0) + (WRITTEN if box.writes else 0)
