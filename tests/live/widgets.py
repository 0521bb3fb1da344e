"""Print the widgets that nodes offer for settings that a copy of the pack has gained, and what they set.

    python widgets.py COMFYUI PACK

Run by ComfyUI's interpreter.
"""

import importlib.util
import json
import sys
from pathlib import Path

folder, pack = sys.argv[1:3]
sys.argv[1:] = ["--cpu"]  # what ComfyUI reads
sys.path.insert(0, folder)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()


class Reached(Exception):
    """Settings have come to where the engine would run."""


def reached(*given, **begun):
    raise Reached(next(each for each in given if type(each).__name__.endswith("Settings")))


def load_nodes(*names: str) -> list:
    """Modules of the pack's nodes, as ComfyUI imports them."""
    spec = importlib.util.spec_from_file_location("pack", Path(pack) / "__init__.py", submodule_search_locations=[pack])
    module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [importlib.import_module(f"pack.nodes.{name}") for name in names]


def offered(node) -> dict[str, list]:
    """Widget's name -> [its default, whether it may be missing], in order."""
    inputs = [each for each in node.define_schema().inputs if hasattr(each, "default")]
    return {each.id: [each.default, each.optional] for each in inputs}


def main() -> dict[str, object]:
    sample, interleave, sockets = load_nodes("sample", "interleave", "sockets")
    sampler, document = sample.FlowMatchSampler, interleave.Interleave
    model = object.__new__(sockets.Model.Type)  # without an engine
    model.sample = reached
    conditioning = sockets.Conditioning.Type(vocabulary="", prompt="", images=(), sequences={})
    seen: dict[str, object] = {"sampler": offered(sampler), "document": offered(document)}
    given = {name: value for name, (value, later) in offered(sampler).items() if not later}
    given |= {"width": 64, "height": 64}
    for name, more in {"set": {"look": 0.25, "swing": 7, "cfg_end": 0.5}, "left out": {}}.items():
        try:
            sampler.execute(model=model, conditioning=conditioning, **given | more)
        except Reached as settings:
            seen[name] = settings.args[0].as_dict()
    return seen


if __name__ == "__main__":
    print(json.dumps(main()))
