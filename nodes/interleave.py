"""Documents of text and pictures."""

from collections.abc import Iterable

from comfy_api.latest import io, ui

from ..sensenova_core.errors import SettingsError
from ..sensenova_core.report.pages import FORMATS, DocumentBuilder, page, save_numbered_document
from ..sensenova_core.report.pages import Document as Pages
from ..sensenova_core.settings import INTERLEAVE_SIZES, DocumentSettings, Guidance, SamplingSettings
from ..sensenova_core.writing.document import Drawing, Event, Text
from . import runtime
from .decoding import decoding_input, decoding_settings
from .sample import preset_or, sampling_inputs, time_floor_input
from .size import size_input, size_of
from .sockets import (
    CATEGORY,
    Document,
    Images,
    Model,
    References,
    preset_input,
    profile_output,
)

NORMS = ("none", "global", "channel")


class Interleave(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreInterleave",
            display_name="SenseNova U1 Interleave",
            category=CATEGORY,
            description="Writes an illustrated document: the model decides where pictures belong and draws them as it "
            "goes. Text and pictures appear here while they are made.",
            search_aliases=["story", "tutorial", "illustrated document"],
            is_output_node=True,
            inputs=[
                Model.Input("model", tooltip="From the Loader."),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, tooltip="What the document is about."),
                Images.Input("images", optional=True, tooltip="From Image Condition: pictures to start from."),
                size_input(INTERLEAVE_SIZES),
                io.Boolean.Input("think", default=False, tooltip="Reason first, drawing in between."),
                io.Int.Input("max_images", default=10, min=0, max=100, tooltip="A further picture ends the document."),
                io.Int.Input("max_tokens", default=8192, min=1, max=65536, tooltip="Text tokens at most."),
                decoding_input(),
                *sampling_inputs(NORMS),
                time_floor_input(),
                io.String.Input(
                    "system_message",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip="Replaces the system message that the model was trained with; empty keeps it.",
                ),
                preset_input(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[
                io.Image.Output(display_name="pictures", is_output_list=True),
                io.String.Output(display_name="text"),
                Document.Output(display_name="document"),
                profile_output(),
            ],
        )

    @classmethod
    def execute(
        cls, model, prompt, think, max_images, max_tokens, steps, cfg, img_cfg, cfg_norm, cfg_start, cfg_end,
        shift, seed, size=None, decoding=None, images=None, t_eps=0.02, system_message="", preset=None,
    ) -> io.NodeOutput:  # fmt: skip
        steps, cfg, shift = preset_or(preset, steps, cfg, shift)
        images = images or References()
        first = images.images[0].size if images.images else None
        width, height = size_of(size, cls.hidden, INTERLEAVE_SIZES) or model.engine.best_size(first, document=True)
        guidance = Guidance(cfg, img_cfg, cfg_norm, (cfg_start, cfg_end))
        settings = DocumentSettings(
            SamplingSettings(width, height, steps, guidance, shift, t_eps, seed),
            sizes=((width, height),),
            decoding=decoding_settings(decoding, max_tokens),
            max_images=max_images,
            think=think,
            system=system_message or None,
        )
        events = model.engine.interleave(prompt, images.images, settings, images.max_pixels)
        profile = model.make_ready(model.engine.document_task(settings, len(images.images)))
        with profile.generating(model.engine):
            document = collect(events, steps)
        profile.drew(len(document.images), model.engine.config.grid(width=width, height=height).tokens)
        profile.wrote(document.tokens)
        picture = page(document)
        runtime.show_picture(picture)
        shown = ui.PreviewImage(runtime.picture_to_wire(picture), cls=cls)
        pictures = [runtime.picture_to_wire(picture) for picture in document.images] or [runtime.NOTHING]
        return io.NodeOutput(pictures, document.text, document, profile.summary(model.engine), ui=shown)


def collect(events: Iterable[Event], steps: int) -> Pages:
    """Gather events into a document, showing text and drawing steps on the node as they come."""
    builder, text, drawing = DocumentBuilder(), runtime.TextProgress(None), None
    for event in events:
        builder.add(event)
        if isinstance(event, Text):
            if drawing is not None:
                drawing.report(0)  # the bar is of one picture, and this one is done
                drawing = None
            text.report(builder.document().text)
        elif isinstance(event, Drawing):
            if event.step.index == 0:
                drawing = runtime.Progress(steps)
            drawing.report(event.step.index + 1, event.step.image() if drawing.previews else None)
    document = builder.document()
    text.finish(document.text + ("" if document.ended == "end" else f"\n[ended by {document.ended}]"))
    return document


class SaveDocument(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreSaveDocument",
            display_name="SenseNova U1 Save Document",
            category=CATEGORY,
            description="Saves an illustrated document as one Markdown or HTML file with its pictures, in a folder of "
            "its own below ComfyUI's output folder.",
            is_output_node=True,
            inputs=[
                Document.Input("document", tooltip="From Interleave."),
                io.String.Input(
                    "filename_prefix",
                    default="SenseNova_document",
                    tooltip="The folder's name, numbered; / makes subfolders.",
                ),
                io.Combo.Input(
                    "format", options=list(FORMATS), default="markdown", tooltip="document.md or document.html."
                ),
            ],
            outputs=[io.String.Output(display_name="path")],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        """Before anything is drawn; None is a link."""
        return (filename_prefix and runtime.output_error(filename_prefix, "document.html")) or True

    @classmethod
    def execute(cls, document, filename_prefix, format) -> io.NodeOutput:
        if problem := runtime.output_error(filename_prefix, "document.html"):
            raise SettingsError(problem)
        path = save_numbered_document(document, *runtime.output_place(filename_prefix), format)
        runtime.show_text(str(path))  # the graph editor draws PreviewText for its own nodes only
        return io.NodeOutput(str(path), ui=ui.PreviewText(str(path)))
