"""What a task will take, before it is run."""

from typing import Any

from comfy_api.latest import io, ui

from ..sensenova_core.memory.forecast import explained
from ..sensenova_core.report.plan_picture import forecast_picture
from ..sensenova_core.settings import ForecastSettings, SamplingSettings
from . import widgets
from .door import checked
from .pictures import picture_to_wire
from .progress import show_text
from .size import side_inputs, size_or_best
from .sockets import CATEGORY, Model

FORECAST = ("images", "think_tokens", "card")


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
                *side_inputs(automatic=True),
                *widgets.inputs(SamplingSettings, ["batch_size"]),
                io.Boolean.Input("guided", default=True, tooltip="Whether cfg is over 1, which needs a second pass."),
                *widgets.inputs(ForecastSettings, FORECAST),
                *widgets.further_inputs(ForecastSettings, (*FORECAST, "ram")),
                *widgets.inputs(SamplingSettings, ["crop"], crop={"optional": True}),
            ],
            outputs=[
                io.String.Output(
                    display_name="plan", tooltip="In words, for every run of the task. For Preview as Text."
                ),
                io.Image.Output(
                    display_name="picture",
                    tooltip="What lies on the card and in system memory, as bars beside what there is; this node shows "
                    "it too.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        *,
        model: Model.Type,
        width: int,
        height: int,
        batch_size: int,
        guided: bool,
        crop: bool = False,
        **forecast: Any,
    ) -> io.NodeOutput:
        width, height = size_or_best(model, (width, height), document=forecast.get("task") == "interleave")
        guidance = {} if guided else {"cfg": 1.0}
        settings = SamplingSettings.of(width=width, height=height, batch_size=batch_size, crop=crop, **guidance)
        forecasts = model.foresee(settings, **forecast)
        text, image = explained(forecasts), picture_to_wire(forecast_picture(forecasts))
        show_text(text)  # the graph editor draws PreviewText for its own nodes only
        shown = ui.PreviewImage(image, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(text, image, ui=shown)
