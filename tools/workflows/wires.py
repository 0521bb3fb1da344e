"""Where the wires of a saved workflow run, as the classic graph editor draws them, and which boxes they run behind.

Everything is worked out from the saved JSON: a position is a node's corner below its title bar, as (x, y) with y down.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

TITLE = 30  # height of a node's title bar, which lies above its position
SLOT, WIDGET = 20, 24  # heights of a row of sockets and of a widget
NEAR = 24  # so close to its ends a wire may touch the boxes that it joins
POINTS = np.linspace(0, 1, 41)[:, None]
BEND, MOST_BEND = 0.25, 20  # how far a curve leaves its ends straight: a part of their distance, at reroutes so much

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]  # x, y, width, height, title bar included


def socket(node: Mapping[str, Any], slot: int, *, is_input: bool) -> Point:
    """The middle of a node's socket."""
    (x, y), width = node["pos"], node["size"][0]
    if not is_input:
        return x + width - SLOT / 2 + 1, y + (slot + 0.7) * SLOT
    inputs = node["inputs"]
    plain = [one["name"] for one in inputs if "widget" not in one]
    if (name := inputs[slot]["name"]) in plain:
        return x + SLOT / 2, y + (plain.index(name) + 0.7) * SLOT
    row = list(node.get("widgets_values_named") or [name]).index(name)
    rows = max(len(plain), len(node["outputs"]))
    return x + SLOT / 2, y + rows * SLOT + row * WIDGET + WIDGET / 2


def curve(points: Sequence[Point], going: Mapping[Point, float] | None = None) -> np.ndarray:
    """(n, 2): a wire from an output through reroutes to an input.

    going: reroute -> the angle at which wires leave it, of those that several wires share.
    """
    ends = [np.asarray(point, float) for point in points]
    angles = [(going or {}).get(tuple(point)) for point in points]
    controls = [_control(ends[index - 1 : index + 2], angles[index]) for index in range(1, len(ends) - 1)]
    pieces = []
    for index, (start, end) in enumerate(pairwise(ends)):
        length = np.hypot(*(end - start)) * BEND
        bend = min(length, MOST_BEND)
        leaving = bend * controls[index - 1] if index else np.array((length, 0))
        coming = -bend * controls[index] if index < len(controls) else np.array((-length, 0))
        pieces.append(_bezier(start, start + leaving, end + coming, end))
    return np.concatenate(pieces)


def curves(wires: Mapping[int, Sequence[Point]]) -> dict[int, np.ndarray]:
    """The same of all wires (link -> points), which share reroutes that are in the same place."""
    leaving: dict[Point, list[float]] = {}
    for points in wires.values():
        for here, after in pairwise(points[1:]):
            leaving.setdefault(tuple(here), []).append(_angle(np.subtract(after, here)))
    going = {point: sum(angles) / len(angles) for point, angles in leaving.items()}
    return {link: curve(points, going) for link, points in wires.items()}


def _control(points: Sequence[np.ndarray], going: float | None) -> np.ndarray:
    """The direction in which a wire passes a reroute: halfway between those in which it comes and goes."""
    before, here, after = points
    coming = _angle(here - before)
    turn = (coming - (_angle(after - here) if going is None else going)) / 2
    if abs(turn) > np.pi / 2:
        turn += np.pi
    return np.array((np.cos(coming - turn), np.sin(coming - turn)))


def _angle(way: np.ndarray) -> float:
    return float(np.arctan2(way[1], way[0]))


def _bezier(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    t, s = POINTS, 1 - POINTS
    return s**3 * a + 3 * s**2 * t * b + 3 * s * t**2 * c + t**3 * d


def behind(wire: np.ndarray, boxes: np.ndarray, margin: float = 0) -> np.ndarray:
    """Which of (boxes, 4) the wire runs behind; close to its own ends it may."""
    start, end = wire[0], wire[-1]
    far = (np.hypot(*(wire - start).T) > NEAR) & (np.hypot(*(wire - end).T) > NEAR)
    x, y = wire[far][:, 0, None], wire[far][:, 1, None]
    left, top, width, height = boxes.T
    inside = (x > left - margin) & (x < left + width + margin) & (y > top - margin) & (y < top + height + margin)
    return inside.any(axis=0)


def rectangle(node: Mapping[str, Any]) -> Rectangle:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, width, height + TITLE


def routes(workflow: Mapping[str, Any]) -> dict[int, list[Point]]:
    """Link -> the points that it joins: an output, its reroutes, an input."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    reroutes = {reroute["id"]: reroute for reroute in workflow["extra"].get("reroutes") or ()}
    last = {link["id"]: link["parentId"] for link in workflow["extra"].get("linkExtensions") or ()}
    found = {}
    for link, source, output, target, slot, _ in workflow["links"]:
        between, reroute = [], reroutes.get(last.get(link))
        while reroute:
            between.insert(0, tuple(reroute["pos"]))
            reroute = reroutes.get(reroute.get("parentId"))
        ends = socket(nodes[source], output, is_input=False), socket(nodes[target], slot, is_input=True)
        found[link] = [ends[0], *between, ends[1]]
    return found


def hidden(workflow: Mapping[str, Any]) -> list[tuple[int, str]]:
    """(link, title of a node or note) where the one runs behind the other."""
    titles = [node.get("title") or node["type"] for node in workflow["nodes"]]
    boxes = np.array([rectangle(node) for node in workflow["nodes"]])
    return [
        (link, title)
        for link, wire in curves(routes(workflow)).items()
        for title, covered in zip(titles, behind(wire, boxes), strict=True)
        if covered
    ]


def overlaps(rectangles: Iterable[tuple[str, Rectangle]]) -> list[tuple[str, str]]:
    """Pairs of names whose rectangles lie on one another."""
    named = list(rectangles)
    return [
        (one, other)
        for index, (one, (x, y, width, height)) in enumerate(named)
        for other, (u, v, columns, rows) in named[:index]
        if x < u + columns and u < x + width and y < v + rows and v < y + height
    ]
