"""Put the pack's model patcher through ComfyUI's memory management, and print what became of the weights.

    python patcher.py COMFYUI CHECKPOINT

Run by ComfyUI's interpreter. A server shows none of this: on the CPU a needless reload costs nothing that can be seen.
"""

import gc
import importlib.util
import json
import sys
from pathlib import Path

folder, checkpoint = sys.argv[1:3]
sys.argv[1:] = ["--cpu"]  # what ComfyUI reads
sys.path.insert(0, folder)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management as mm  # noqa: E402

REPOSITORY = Path(__file__).parents[2]


def load_host():
    """nodes/host.py inside its package, as ComfyUI imports it."""
    spec = importlib.util.spec_from_file_location("pack", REPOSITORY / "__init__.py", submodule_search_locations=[])
    spec.submodule_search_locations.append(str(REPOSITORY))
    pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return importlib.import_module("pack.nodes.host"), importlib.import_module("pack.sensenova_core")


def state(model) -> list[bool]:
    """Whether weights are on the device, all of them by ComfyUI's count, and anything read is held."""
    engine = model.engine
    weights = engine.weights
    return [weights.placed, model.patcher.loaded_size() == weights.nbytes, engine.reader.prefixes.nbytes > 0]


def main() -> dict[str, object]:
    host, core = load_host()
    model = host.LoadedEngine(core.load(checkpoint, place=False))
    engine, patcher = model.engine, model.patcher
    seen = {"made": state(model)}
    model.make_ready(2**20)
    engine.reader.prefix(engine.encode("a cat").sequences["condition"])
    weights = next(engine.model.parameters())
    seen["ready"] = state(model)
    model.make_ready(2**20)
    seen["ready again"] = state(model)
    seen["same weights"] = next(engine.model.parameters()) is weights
    seen["freed all"] = patcher.partially_unload(patcher.offload_device, 1) == engine.weights.nbytes
    seen["making room"] = state(model)
    model.make_ready(2**20)
    seen["back"] = state(model)
    mm.unload_all_models()
    seen["unloaded"] = state(model)
    model.make_ready(2**20)
    del model, patcher, engine, weights
    gc.collect()
    seen["known when dropped"] = len(mm.loaded_models())
    return seen


if __name__ == "__main__":
    print(json.dumps(main()))
