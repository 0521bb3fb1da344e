"""The Self-Test node: whether this machine computes what it should."""

import comfy.model_management as mm
from comfy_api.latest import io, ui

from ..sensenova_core import selftest
from ..sensenova_core.report.selftest_picture import selftest_picture
from .door import checked
from .pictures import picture_to_wire
from .progress import Progress, show_text, warn
from .sockets import CATEGORY


class SelfTest(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreSelfTest",
            display_name="SenseNova U1 Self-Test",
            category=CATEGORY,
            description="Holds what this machine computes against float32: number types, rotary embedding, masks, "
            "every attention backend, INT8 and FP8 products, copies to the card and back. Says what is wrong. Takes "
            "seconds, and needs no checkpoint.",
            search_aliases=["diagnose", "check", "benchmark", "attention"],
            is_output_node=True,
            inputs=[],
            outputs=[
                io.String.Output(display_name="report", tooltip="A table of all that was tried. For Preview as Text."),
                io.Image.Output(
                    display_name="picture",
                    tooltip="The same table, what is wrong in red; this node shows it too. For Preview Image.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls) -> float:
        """Another one every time: it is tried anew."""
        return float("nan")

    @classmethod
    @checked
    def execute(cls) -> io.NodeOutput:
        device = mm.get_torch_device()
        checks = list(selftest.all_checks(device))
        progress, found = Progress(len(checks)), []
        for each in selftest.outcomes(checks):
            found.append(each)
            progress.report(len(found))
        for each in found:
            if each.verdict == selftest.WRONG:
                _, name, error, limit, _, note = selftest.row(each)
                warn(f"{each.group}, {name} is wrong: " + (note or f"off by {error}, where {limit} is right"))
        show_text(selftest.summary(found))
        image = picture_to_wire(selftest_picture(found, selftest.machine(device)))
        return io.NodeOutput(selftest.report(found, device), image, ui=ui.PreviewImage(image, cls=cls))
