"""The Inspect node: a checkpoint's parameters by group, without loading it."""

from dataclasses import replace

from comfy_api.latest import io, ui

from ..sensenova_core.report import inspect as core
from ..sensenova_core.report.inspect_picture import picture
from . import folders
from .door import checked
from .load import checkpoint_input
from .pictures import picture_to_wire
from .sockets import CATEGORY


class Inspect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreInspect",
            display_name="SenseNova U1 Inspect",
            category=CATEGORY,
            description="Counts a checkpoint's parameters by group (understanding, generation, shared) and by pathway. "
            "Reads file headers only, so any size takes a second.",
            search_aliases=["parameters", "model size"],
            is_output_node=True,
            inputs=[
                checkpoint_input(),
                io.Combo.Input(
                    "dtype",
                    options=list(core.DTYPE_BYTES),
                    default="bfloat16",
                    tooltip="What the memory column is counted in; it does not change the counts.",
                ),
                io.String.Input(
                    "show_groups",
                    default=core.SHARED,
                    tooltip="Groups to list the members of, separated by spaces; all for every group, empty for none.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Counts and bytes, as text. For Preview as Text."),
                io.Image.Output(display_name="picture", tooltip="The counts as bars, which this node shows too."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint, **others):
        return folders.fingerprint_of(checkpoint)

    @classmethod
    @checked
    def execute(cls, checkpoint: str, dtype: str, show_groups: str) -> io.NodeOutput:
        name = folders.checkpoint_meant(checkpoint)
        inspection = replace(core.inspect(folders.checkpoint_path(name)), model=name)
        report = core.report(inspection, dtype, tuple(show_groups.replace(",", " ").split()))
        image = picture_to_wire(picture(inspection))
        return io.NodeOutput(report, image, ui=ui.PreviewImage(image, cls=cls))
