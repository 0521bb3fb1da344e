"""The list of nodes that ComfyUI registers."""

from comfy_api.latest import ComfyExtension, io

from . import host
from .condition import TextEncode
from .inspect import Inspect
from .load import Loader
from .sample import FlowMatchSampler, Resolution


class SenseNovaCoreExtension(ComfyExtension):
    async def on_load(self) -> None:
        host.register_model_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [Loader, TextEncode, Resolution, FlowMatchSampler, Inspect]
