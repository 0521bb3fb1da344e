"""The house: which rooms there are, and that imports point one way. docs/architecture.md draws it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = ROOT / "sensenova_core"
TOP_FLOOR = 6  # .py files at most
# Room -> the next ones that it may import from; what these may import from, it may too.
ARROWS = {
    "nodes": ("report", "package"),
    "cli": ("report", "queueing", "package"),
    "docs": ("report", "package"),
    "report": ("engine", "selftest"),
    "engine": ("writing", "memory", "lora", "checkpoint", "system"),
    "writing": ("drawing",),
    "drawing": ("reading",),
    "reading": ("model", "hub"),
    "selftest": ("memory",),
    "memory": ("lora", "checkpoint", "model"),
    "lora": ("checkpoint", "hub"),
    "checkpoint": ("model", "hub"),
    "hub": ("settings", "system"),
    "model": ("settings", "system"),
    "settings": ("errors",),
    "queueing": ("system", "errors"),
    "system": ("errors",),
    "errors": (),
    "package": (),  # what sensenova_core itself exports: its version, the demo, and every public name
}


@cache
def below(room: str) -> frozenset[str]:
    """All that a room may import from."""
    nearest = ARROWS.get(room, ())
    return frozenset(nearest).union(*map(below, nearest))


def room_of(path: Path) -> str:
    """sensenova_core/model/rope.py -> model; sensenova_core/engine.py -> engine; nodes/load.py -> nodes."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == CORE.name else parts[0]


def rooms_named(path: Path, node: ast.stmt) -> Iterator[str]:
    """The rooms that an import statement of a file names."""
    if isinstance(node, ast.Import):
        modules = [alias.name.split(".") for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
        module = [*package, *(node.module.split(".") if node.module else ())]
        modules = [[*module, alias.name] for alias in node.names]
    else:
        return
    for module in modules:
        if module[0] == CORE.name:
            named = module[1] if len(module) > 1 else ""
            inside = (CORE / named).is_dir() or (CORE / f"{named}.py").is_file()
            yield named if named and inside else "package"


def imports() -> Iterator[tuple[Path, int, str]]:
    """(file, line, room that it imports from) of every import of another room, wherever in the file it stands."""
    files = [path for folder in ("sensenova_core", "nodes", "docs") for path in (ROOT / folder).rglob("*.py")]
    for path in sorted(files):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for room in sorted(set(rooms_named(path, node)) - {room_of(path)}):
                yield path, node.lineno, room


def test_every_room_has_its_place():
    folders = {path.parent for path in CORE.rglob("*.py")} - {CORE}
    files = {path.stem for path in CORE.glob("*.py")} - {"__init__", "__main__"}
    assert {folder.relative_to(CORE).parts[0] for folder in folders} | files <= ARROWS.keys()


def test_no_circle_of_rooms():
    """Those that may import from each other would be one room."""
    assert not [room for room in ARROWS if room in below(room)]


def test_imports_point_one_way():
    upwards = [
        f"{path.relative_to(ROOT)}:{line}: {room_of(path)} -> {room}"
        for path, line, room in imports()
        if room_of(path) not in ("__init__", "__main__") and room not in below(room_of(path))
    ]
    assert not upwards, "\n".join(["imports that no arrow allows:", *upwards])


def test_the_top_floor_is_small():
    assert len(list(CORE.glob("*.py"))) <= TOP_FLOOR
