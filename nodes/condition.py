"""Prompts -> conditioning."""

from comfy_api.latest import io

from .sockets import CATEGORY, Conditioning, Model


class TextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreTextEncode",
            display_name="SenseNova U1 Text Encode",
            category=CATEGORY,
            description="A prompt for the model to draw. The model reads it once, when a sampler first needs it; "
            "other seeds and sizes reuse what was read.",
            search_aliases=["prompt"],
            inputs=[
                Model.Input("model", tooltip="From the Loader."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw, in any language; long descriptions work well. May be empty.",
                ),
            ],
            outputs=[Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls, model, prompt) -> io.NodeOutput:
        return io.NodeOutput(model.engine.encode(prompt))
