"""What a task will take, before it is run."""

from comfy_api.latest import io, ui

from ..sensenova_core.settings import TASKS, USUAL_PROMPT, Guidance, SamplingSettings
from . import runtime
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
            description="Says what a picture, an answer or a document will take of card and system memory, which "
            "layers will stay on the card and which will stream, without running it. When it does not fit, says the "
            "smallest budget that does.",
            search_aliases=["vram", "offload", "budget"],
            is_output_node=True,
            inputs=[
                Model.Input("model", tooltip="From the Loader, with its vram_mode and max_memory."),
                side_input("width", automatic=True),
                side_input("height", automatic=True),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Images drawn at once."),
                io.Boolean.Input("guided", default=True, tooltip="Whether cfg is over 1, which needs a second pass."),
                io.Int.Input("images", default=0, min=0, max=MAX_IMAGES, tooltip="Images to edit, or to read."),
                io.Int.Input(
                    "think_tokens", default=0, min=0, max=32768, tooltip="Tokens of reasoning before a picture."
                ),
                io.String.Input(
                    "card",
                    default="",
                    tooltip="Plan for a card with so much free memory, such as 11GiB. Empty: the card that is here.",
                ),
                io.Combo.Input(
                    "task",
                    options=list(TASKS),
                    default="draw",
                    optional=True,
                    tooltip="draw: a picture, or with images an edit. understand: an answer, which width, height and "
                    "batch_size do not change. interleave: a document as far as its first picture.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=512,
                    min=1,
                    max=32768,
                    optional=True,
                    advanced=True,
                    tooltip="Of an answer, with understand.",
                ),
                io.Int.Input(
                    "prompt_tokens",
                    default=USUAL_PROMPT,
                    min=1,
                    max=262144,
                    optional=True,
                    advanced=True,
                    tooltip="Of the prompt or the conversation so far, with the system message, without images.",
                ),
            ],
            outputs=[io.String.Output(display_name="plan")],
        )

    @classmethod
    def execute(
        cls, model, width, height, batch_size, guided, images, think_tokens, card,
        task="draw", max_tokens=512, prompt_tokens=USUAL_PROMPT,
    ) -> io.NodeOutput:  # fmt: skip
        model.use_loras()
        width, height = size_or_best(model, width, height, document=task == "interleave")
        settings = SamplingSettings(width, height, guidance=Guidance(4.0 if guided else 1.0), batch_size=batch_size)
        asked = {"task": task, "max_tokens": max_tokens, "prompt_tokens": prompt_tokens}
        text = model.engine.forecast(settings, images=images, think_tokens=think_tokens, card=card, **asked)
        runtime.show_text(text)  # the graph editor draws PreviewText for its own nodes only
        return io.NodeOutput(text, ui=ui.PreviewText(text))
