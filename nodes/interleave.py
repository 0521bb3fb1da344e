"""Documents of text and pictures."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..sensenova_core.errors import SettingsError, quoted
from ..sensenova_core.report.outputs import check_writable
from ..sensenova_core.report.pages import DocumentBuilder, page, save_numbered_document
from ..sensenova_core.settings import (
    CFG_NORMS,
    INTERLEAVE_SIZES,
    MAX_DOCUMENT_TOKENS,
    PAGE_FORMATS,
    DecodingSettings,
    DocumentSettings,
    SamplingSettings,
)
from ..sensenova_core.writing.document import Drawing, Event, Text
from . import widgets
from .decoding import decoding_input, decoding_settings
from .door import UNSEEN, check_choice, checked
from .pictures import NOTHING, picture_to_wire
from .progress import DocumentProgress, show_picture, show_text
from .sample import DRAWING, INTERVAL, sampling_settings
from .size import size_input, size_of
from .sockets import CATEGORY, Document, Images, Model, Preset, References, preset_input, profile_outputs

NORMS = [norm for norm in CFG_NORMS if norm != "cfg_zero_star"]  # which is for text to image only
# As in sample.py; one picture at a time, of the model's own sizes.
SAMPLING = (*DRAWING, "t_eps")
WITHOUT = ("width", "height", "batch_size", "crop", "denoise", "feather")
TOKENS = {"default": MAX_DOCUMENT_TOKENS, "max": 65_536}


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
                *widgets.inputs(DocumentSettings, ("think", "max_images")),
                *widgets.inputs(DecodingSettings, ["max_tokens"], max_tokens=TOKENS),
                decoding_input(),
                *widgets.inputs(SamplingSettings, SAMPLING, cfg_norm={"options": NORMS}),
                *widgets.inputs(DocumentSettings, ["system_message"], system_message={"multiline": True}),
                *widgets.further_inputs(SamplingSettings, (*WITHOUT, *SAMPLING)),
                preset_input(),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[
                io.Image.Output(
                    display_name="pictures",
                    is_output_list=True,
                    tooltip="In order, one by one: what follows runs for each, and not at all where there is none.",
                ),
                io.String.Output(display_name="text", tooltip="All text, with <image> where a picture stands."),
                Document.Output(display_name="document", tooltip="Text and pictures together, for Save Document."),
                *profile_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, size=UNSEEN, decoding=UNSEEN):
        made = [check_choice("size", size), check_choice("decoding", decoding)]
        return next((words for words in made if words is not True), True)

    @classmethod
    @checked
    @widgets.called(**INTERVAL, crop=None)
    def execute(
        cls, *, model: Model.Type, prompt: str, think: bool, max_images: int, max_tokens: int,
        size: dict | None = None, decoding: dict | None = None, images: Images.Type | None = None,
        system_message: str = "", preset: Preset.Type | None = None, **drawing: Any,
    ) -> io.NodeOutput:  # fmt: skip
        images = images or References()
        first = images.images[0].size if images.images else None
        width, height = size_of(size, cls.hidden, INTERLEAVE_SIZES) or model.engine.best_size(first, document=True)
        settings = DocumentSettings(
            sampling_settings(preset, width=width, height=height, **drawing),
            sizes=((width, height),),
            decoding=decoding_settings(decoding, max_tokens=max_tokens),
            max_images=max_images,
            think=think,
            system=system_message or None,
        )
        events = model.interleave(prompt, images=images.images, settings=settings, max_pixels=images.max_pixels)
        document = collect(events, settings)
        picture = page(document)
        show_picture(picture)
        shown = ui.PreviewImage(picture_to_wire(picture), cls=cls)
        pictures = [picture_to_wire(picture) for picture in document.images] or [NOTHING]
        return io.NodeOutput(pictures, document.text, document, *events.report(), ui=shown)


def collect(events: Iterable[Event], settings: DocumentSettings) -> Document.Type:
    """Gather events into a document, showing text and drawing steps on the node as they come."""
    builder, steps, tokens = DocumentBuilder(), settings.sampling.steps, settings.decoding.max_tokens
    progress = DocumentProgress(pictures=settings.max_images, steps=steps, tokens=tokens)
    for event in events:
        builder.add(event)
        if isinstance(event, Text):
            progress.wrote(builder.document().text, event.tokens)
        elif isinstance(event, Drawing):
            progress.drew(event, builder.document().text)
    document = builder.document()
    progress.finish(document.text + ("" if document.ended == "end" else f"\n[ended by {document.ended}]"))
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
                    "format",
                    options=list(PAGE_FORMATS),
                    default=PAGE_FORMATS[0],
                    tooltip="document.md or document.html.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Of the file that was written.")],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        """Before anything is drawn; None is a link."""
        return (filename_prefix and _problem(filename_prefix, "document.html")) or True

    @classmethod
    @checked
    def execute(cls, document: Document.Type, filename_prefix: str, format: str) -> io.NodeOutput:
        if problem := _problem(filename_prefix, "document.html"):
            raise SettingsError(problem)
        folder, stem = _place(filename_prefix)
        path = save_numbered_document(document, folder, stem, form=format)
        show_text(str(path))  # the graph editor draws PreviewText for its own nodes only
        return io.NodeOutput(str(path), ui={"text": (str(path),), "documents": _files(path.parent)})


def _files(folder: Path) -> list[dict[str, str]]:
    """A document's files as ComfyUI's history lists files, for programs that fetch results over its API."""
    subfolder = Path(os.path.relpath(folder, folder_paths.get_output_directory())).as_posix()
    return [{"filename": path.name, "subfolder": subfolder, "type": "output"} for path in sorted(folder.iterdir())]


def _place(prefix: str) -> tuple[Path, str]:
    """A folder, which is ComfyUI's output folder or lies below it, and what names in it begin with."""
    try:
        os.fsencode(prefix)  # else what no name can hold is found out when the folder is made
        folder, name, *_ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    except Exception:  # ComfyUI raises nothing more special for a place outside of its output folder
        problem = f"{quoted(prefix)} names no folder below ComfyUI's output folder"
        raise SettingsError(problem, "give a short name of letters and digits", setting="filename_prefix") from None
    return Path(folder), name


def _problem(prefix: str, file: str) -> str | None:
    """Why `file` could not be saved in a folder prefix_00001, so that nobody waits for it; None where it could.

    Of places outside of the output folder as well, which ComfyUI refuses when it comes to saving.
    """
    root = folder_paths.get_output_directory()
    below = Path(root, f"{os.path.normpath(prefix)}_00001", file)
    try:
        prefix.encode()
        if "\0" not in prefix and not Path(os.path.realpath(below)).is_relative_to(os.path.realpath(root)):
            return None
        check_writable(below)
    except UnicodeEncodeError:
        return f"filename_prefix {ascii(prefix)[:100]} has letters that no file name has; give another name"
    except SettingsError as error:
        return str(error)
    return None
