"""A picture that the model judges by its prompt and draws again."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..sensenova_core.errors import SettingsError
from ..sensenova_core.report.correction import Correction
from ..sensenova_core.settings import CorrectionSettings, CritiqueSettings, SamplingSettings
from ..sensenova_core.writing.document import Drawing, Event, Text
from . import widgets
from .batches import check_image
from .decoding import decoding_input, decoding_settings
from .door import UNSEEN, check_choice, checked
from .interleave import NORMS, SAMPLING, WITHOUT
from .loaded import Run
from .pictures import to_wire
from .progress import DocumentProgress
from .sample import INTERVAL, sampling_settings
from .size import side_inputs, size_or_best
from .sockets import CATEGORY, Images, Model, Preset, References, preset_input, profile_outputs


class SelfCorrect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreSelfCorrect",
            display_name="SenseNova U1 Self-Correct",
            category=CATEGORY,
            description="The model compares its picture with the prompt, writes a critique, and draws a revision or "
            "says that nothing is wrong, all in one go. U1.6 was trained for it, on infographics above all. The "
            "critique appears here while it is written.",
            search_aliases=["reflection", "critique", "refine", "infographic"],
            inputs=[
                Model.Input("model", tooltip="From the Loader."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the picture is to show. It is drawn from this and compared with it.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="A picture that the sampler drew from this prompt, one alone, to begin with. Without it "
                    "the first one is drawn here too.",
                ),
                Images.Input("images", optional=True, tooltip="From Image Condition: references, as of an edit."),
                *widgets.inputs(CorrectionSettings, ["rounds"]),
                *widgets.inputs(CritiqueSettings, ["max_critique_tokens"], max_critique_tokens={"name": "max_tokens"}),
                decoding_input(),
                *side_inputs(automatic=True),
                *widgets.inputs(SamplingSettings, SAMPLING, cfg_norm={"options": NORMS}),
                *widgets.further_inputs(SamplingSettings, (*WITHOUT, *SAMPLING)),
                preset_input(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The last one, which is the result."),
                io.Image.Output(display_name="images", tooltip="The picture and all revisions, in order, as a batch."),
                io.String.Output(display_name="critique", tooltip="Every critique, and what followed from it."),
                *profile_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, decoding=UNSEEN):
        return check_choice("decoding", decoding)

    @classmethod
    @checked
    @widgets.called(**INTERVAL, crop=None, max_critique_tokens="max_tokens")
    def execute(
        cls, *, model: Model.Type, prompt: str, rounds: int, max_tokens: int, width: int, height: int,
        decoding: dict | None = None, image: Tensor | None = None, images: Images.Type | None = None,
        preset: Preset.Type | None = None, **drawing: Any,
    ) -> io.NodeOutput:  # fmt: skip
        first, images = _alone(image), images or References()
        if first is None:
            edited = images.images[0].size if images.images else None
            width, height = size_or_best(model, (width, height), image=edited)
        else:
            height, width = first.shape[1:3]
        settings = CorrectionSettings(
            sampling_settings(preset, width=width, height=height, **drawing),
            decoding_settings(decoding, max_tokens=max_tokens),
            rounds,
        )
        events = model.self_correct(
            prompt, images=images.images, settings=settings, first=first, max_pixels=images.max_pixels
        )
        correction = collect(events, settings, first=first)
        pictures = [*([] if image is None else [image]), *map(to_wire, correction.pictures)]
        return io.NodeOutput(pictures[-1], _batch(pictures), correction.text(), *events.report())


def _alone(image: Tensor | None) -> Tensor | None:
    """The picture to go on from. Raises SettingsError for a batch of several."""
    if image is None:
        return None
    check_image(image, "image")
    if len(image) > 1:
        raise SettingsError(
            f"image is a batch of {len(image)}", "give one picture, as ImageFromBatch takes it out of a batch"
        )
    return image.float()


def _batch(pictures: list[Tensor]) -> Tensor:
    last = pictures[-1]
    return torch.cat([picture.to(last.device, last.dtype) for picture in pictures])


def collect(events: Run[Event], settings: CorrectionSettings, *, first: Tensor | None) -> Correction:
    """Gather events, showing critiques and drawing steps on the node as they come.

    first: the picture that was given, if one was.
    """
    correction, begun = Correction(given=first is not None), int(first is not None)
    progress = DocumentProgress(
        pictures=settings.rounds + 1 - begun,
        steps=settings.sampling.steps,
        tokens=settings.decoding.max_tokens,
        first=begun,
    )
    for event in events:
        correction.add(event)
        if isinstance(event, Text):
            progress.wrote(correction.text(), event.tokens)
        elif isinstance(event, Drawing):
            progress.drew(event, correction.text())
    progress.finish(correction.text())
    return correction
