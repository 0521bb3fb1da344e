"""Load the pack as ComfyUI does once it has loaded itself, and print what that took and what else came with it.

    python importing.py COMFYUI BASE HEAVY...

Run by ComfyUI's interpreter, with no server. BASE: a base directory with nothing but this pack. HEAVY: packages that
are looked out for, even where ComfyUI itself has imported them.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

comfyui, base, *heavy = sys.argv[1:]
sys.argv[1:] = ["--cpu", "--base-directory", base]  # what ComfyUI reads
sys.path.insert(0, comfyui)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.sd  # noqa: E402
import comfy_config.config_parser  # noqa: E402, F401 (which reads every pack's pyproject.toml)
import execution  # noqa: E402, F401
import server  # noqa: E402

import nodes  # noqa: E402


class Asked:
    """Among Python's finders: notes which of the heavy packages are asked for, and finds nothing itself."""

    def __init__(self):
        self.names: set[str] = set()

    def find_spec(self, name: str, path=None, target=None) -> None:
        if name in heavy:
            self.names.add(name)


async def load() -> None:
    server.PromptServer(asyncio.get_running_loop())
    pack = next((Path(base) / "custom_nodes").iterdir())
    asked = Asked()
    hidden = {name: sys.modules.pop(name) for name in heavy if name in sys.modules}
    sys.meta_path.insert(0, asked)
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(Path(base) / "pycache")  # quick from the second start on
    before, began, computed = set(sys.modules), time.perf_counter(), time.process_time()
    done = await nodes.load_custom_node(str(pack))
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - computed}
    new = sorted(name for name in set(sys.modules) - before if str(pack) not in name)
    sys.modules |= hidden
    print(json.dumps({"done": done, "asked": sorted(asked.names), "new": new} | took))


asyncio.run(load())
