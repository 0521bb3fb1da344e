"""The list of nodes that ComfyUI registers."""

import logging

from comfy_api.latest import ComfyExtension, io

from . import folders, host
from .condition import ImageCondition, TextEncode, Think
from .inspect import Inspect
from .interleave import Interleave, SaveDocument
from .load import Loader
from .lora import Lora
from .plan import MemoryPlan
from .sample import FlowMatchSampler
from .self_correct import SelfCorrect
from .selftest import SelfTest
from .size import EditSize, Resolution
from .to_comfyui import ToComfyUI
from .understand import Understand

log = logging.getLogger(__name__)


class SenseNovaCoreExtension(ComfyExtension):
    async def on_load(self) -> None:
        folders.register_model_folder()
        for words in host.look_around(__file__, Loader.GET_SCHEMA().node_id):
            log.warning(words)
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
            SelfCorrect,
            ToComfyUI,
            Understand,
            Interleave,
            SaveDocument,
            Inspect,
            SelfTest,
        ]
