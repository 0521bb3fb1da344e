"""The list of nodes that ComfyUI registers."""

from comfy_api.latest import ComfyExtension, io

from . import folders
from .condition import ImageCondition, TextEncode, Think
from .inspect import Inspect
from .interleave import Interleave, SaveDocument
from .load import Loader
from .lora import Lora
from .plan import MemoryPlan
from .sample import FlowMatchSampler
from .size import EditSize, Resolution
from .understand import Understand


class SenseNovaCoreExtension(ComfyExtension):
    async def on_load(self) -> None:
        folders.register_model_folder()
        folders.offer_examples()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            Loader,
            Lora,
            MemoryPlan,
            ImageCondition,
            TextEncode,
            Think,
            Resolution,
            EditSize,
            FlowMatchSampler,
            Understand,
            Interleave,
            SaveDocument,
            Inspect,
        ]
