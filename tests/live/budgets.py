"""Budgets that workflows in API form fit in with some layers staying and others streaming, where reading is not what
takes most.

    python budgets.py MODELS INPUT < {name: API} > {name: max_memory}

Run by ComfyUI's interpreter: see reference.py.
"""

import json
import sys
from math import ceil
from typing import Any

from tests.live import reference

BUFFERS = 6  # of which three are streamed through


def budget(api: dict[str, Any]) -> str:
    """What has so many buffers for weights at the time when most is needed beside them."""
    [model] = {reference.loader(**node["inputs"])[0] for node in api.values() if node["class_type"].endswith("Loader")}
    start, tasks = model.memory.start, []

    def noted(task, held=0, later=()):
        tasks.append(task)
        return start(task, held, later)

    model.memory.start = noted
    try:
        reference.shown(api)
    finally:
        model.memory.start = start
    sizes = model.memory.sizes
    size = max(task.most_activations for task in tasks) + sizes.fixed + BUFFERS * sizes.slot
    return f"{ceil(size / 1024)}KiB"


if __name__ == "__main__":
    print(json.dumps({name: budget(api) for name, api in json.load(sys.stdin).items()}))
