"""What a picture will take, before it is drawn."""

from comfy_api.latest import io, ui

from ..sensenova_core.flow import Guidance
from ..sensenova_core.sampling import SamplingSettings
from . import host
from .condition import MAX_IMAGES
from .size import side_input, size_or_best
from .sockets import CATEGORY, Model


class MemoryPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreMemoryPlan",
            display_name="SenseNova U1 Memory Plan",
            category=CATEGORY,
            description="Says what a picture will take of card and system memory, which layers will stay on the card "
            "and which will stream, without drawing it. When it does not fit, says the smallest budget that does.",
            search_aliases=["vram", "offload", "budget"],
            is_output_node=True,
            inputs=[
                Model.Input("model", tooltip="From the Loader, with its vram_mode and max_memory."),
                side_input("width", automatic=True),
                side_input("height", automatic=True),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Images drawn at once."),
                io.Boolean.Input("guided", default=True, tooltip="Whether cfg is over 1, which needs a second pass."),
                io.Int.Input("images", default=0, min=0, max=MAX_IMAGES, tooltip="Reference images of an edit."),
                io.Int.Input(
                    "think_tokens", default=0, min=0, max=32768, tooltip="Tokens of reasoning before; 0 for none."
                ),
                io.String.Input(
                    "card",
                    default="",
                    tooltip="Plan for a card with so much free memory, such as 11GiB. Empty: the card that is here.",
                ),
            ],
            outputs=[io.String.Output(display_name="plan")],
        )

    @classmethod
    def execute(cls, model, width, height, batch_size, guided, images, think_tokens, card) -> io.NodeOutput:
        width, height = size_or_best(model, width, height)
        settings = SamplingSettings(width, height, guidance=Guidance(4.0 if guided else 1.0), batch_size=batch_size)
        text = model.engine.explain(settings, images, think_tokens, card)
        host.show_text(text)  # the graph editor draws PreviewText for its own nodes only
        return io.NodeOutput(text, ui=ui.PreviewText(text))
