"""Prompts and reference images -> conditioning, with or without reasoning."""

from collections.abc import Iterable

from comfy_api.latest import io
from torch import Tensor

from ..sensenova_core.errors import SettingsError
from ..sensenova_core.reading.images import check_ratio
from ..sensenova_core.settings import EDIT_PIXELS_OF_ALL, MAX_IMAGES, ReasoningSettings
from . import pictures, widgets
from .batches import check_image, to_pictures
from .decoding import decoding_input, decoding_settings
from .door import UNSEEN, check_choice, checked
from .progress import TextProgress, warn
from .sockets import CATEGORY, Conditioning, Images, Model, References, profile_outputs

THOUGHT_ALREADY = (
    "the conditioning has reasoning already, which new reasoning replaces; leave Text Encode's thinking unconnected, "
    "or take this node out"
)
IMAGE_TIP = (
    "A picture at its own size, or a batch, which counts as so many. Another input appears when it is connected."
)
MASK_TIP = "Of the image of the same number: what it covers becomes white. It is scaled to the image."
STOPPED = "\n[the reasoning stopped without its end]"


class ImageCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        images = io.Autogrow.TemplatePrefix(
            io.Image.Input("image", tooltip=IMAGE_TIP), prefix="image", min=1, max=MAX_IMAGES
        )
        masks = io.Autogrow.TemplatePrefix(
            io.Mask.Input("mask", tooltip=MASK_TIP), prefix="mask", min=0, max=MAX_IMAGES
        )
        return io.Schema(
            node_id="SenseNovaCoreImageCondition",
            display_name="SenseNova U1 Image Condition",
            category=CATEGORY,
            description="One to ten images for the model to read, each at its own size: references of an edit, "
            "pictures to ask about, or the beginning of a document. Write <image> in the prompt where one belongs.",
            search_aliases=["reference", "edit", "image input"],
            inputs=[
                io.Autogrow.Input(
                    "images",
                    template=images,
                    tooltip="Images in the order the prompt means them. A batch counts as so many images. Transparency "
                    "is flattened on white.",
                ),
                io.Autogrow.Input(
                    "masks",
                    template=masks,
                    tooltip="mask0 belongs to image0, and so on: what it covers becomes white, as Load Image's mask "
                    "does for a transparent picture.",
                ),
                io.Int.Input(
                    "max_pixels",
                    default=0,
                    min=0,
                    max=EDIT_PIXELS_OF_ALL,
                    step=1024,
                    tooltip="Pixels that each image is scaled down to, for speed and memory: one token per 32 x 32. "
                    "0 is the model's own limit (4194304, less with more than four images).",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[
                Images.Output(
                    display_name="images", tooltip="For Text Encode (an edit), Understand, Interleave or Self-Correct."
                )
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, images: dict[str, Tensor], masks: dict[str, Tensor] | None = None, max_pixels: int = 0, **unknown: object
    ) -> io.NodeOutput:
        images, masks = images or {}, masks or {}
        _check_names(images, masks, unknown)
        for name, batch in images.items():
            check_image(batch, name)
        if not images:
            raise SettingsError("no image is connected", "connect one, or leave this node out to draw from text")
        if (number := sum(map(len, images.values()))) > MAX_IMAGES:
            raise SettingsError(f"{number} images are connected, batches counted", f"give at most {MAX_IMAGES}")
        read = []
        for name, batch in images.items():
            metadata = pictures.source_metadata(cls.hidden.prompt, cls.hidden.unique_id, f"images.{name}")
            for picture in to_pictures(batch, masks.get(_mask_of(name)), name):
                check_ratio(*picture.size, f"Image-{len(read) + 1}, from {name},")
                picture.info |= metadata
                read.append(picture)
        return io.NodeOutput(References(tuple(read), max_pixels or None))


def _check_names(images: Iterable[str], masks: Iterable[str], unknown: Iterable[str]) -> None:
    """Raise SettingsError for a link to an input that is not there, which only a graph over the API can have, and for a
    mask without its image."""
    if unknown:
        last = MAX_IMAGES - 1
        raise SettingsError(
            f"{', '.join(unknown)} is connected, but the inputs are images.image0 to images.image{last} and "
            f"masks.mask0 to masks.mask{last}",
            f"give at most {MAX_IMAGES} images",
        )
    if alone := sorted(set(masks) - {_mask_of(name) for name in images}):
        needed = ", ".join(name.replace("mask", "image") for name in alone)
        raise SettingsError(
            f"{', '.join(alone)} is connected without {needed}", "connect the image, or remove the mask"
        )


def _mask_of(image: str) -> str:
    return image.replace("image", "mask")


class TextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreTextEncode",
            display_name="SenseNova U1 Text Encode",
            category=CATEGORY,
            description="A prompt for the model to draw, or with images an instruction to edit them. The model reads "
            "it once, when a sampler first needs it; other seeds and sizes reuse what was read.",
            search_aliases=["prompt"],
            inputs=[
                Model.Input("model", tooltip="From the Loader."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw or change, in any language; long descriptions work well. May be empty. With "
                    "several images they are called Image-1, Image-2, ... unless <image> places them.",
                ),
                Images.Input("images", optional=True, tooltip="From Image Condition: makes this an edit of them."),
                io.String.Input(
                    "thinking",
                    optional=True,
                    force_input=True,
                    tooltip="Reasoning to draw by, such as a Think node's text that you have changed.",
                ),
            ],
            outputs=[
                Conditioning.Output(
                    display_name="conditioning",
                    tooltip="For Flow-Match Sampler or To ComfyUI; through Think first, to have the model reason.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, *, model: Model.Type, prompt: str, images: Images.Type | None = None, thinking: str | None = None
    ) -> io.NodeOutput:
        images = images or References()
        thought = thinking if thinking and thinking.strip() else None
        encoded = model.engine.encode(prompt, images.images, think_text=thought, max_pixels=images.max_pixels)
        return io.NodeOutput(encoded)


class Think(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreThink",
            display_name="SenseNova U1 Think",
            category=CATEGORY,
            description="Lets the model reason about the picture before it is drawn. The reasoning appears here while "
            "it is written; it can be kept, changed and fed back through Text Encode's thinking input.",
            search_aliases=["reasoning", "chain of thought"],
            inputs=[
                Model.Input("model", tooltip="From the Loader."),
                Conditioning.Input("conditioning", tooltip="From Text Encode, without reasoning."),
                *widgets.inputs(ReasoningSettings, ["max_think_tokens"], max_think_tokens={"name": "max_tokens"}),
                decoding_input(),
            ],
            outputs=[
                Conditioning.Output(display_name="conditioning", tooltip="The prompt with its reasoning, to draw."),
                io.String.Output(
                    display_name="thinking",
                    tooltip="The reasoning alone: to read, or to change and give to Text Encode's thinking.",
                ),
                *profile_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, decoding=UNSEEN):
        return check_choice("decoding", decoding)

    @classmethod
    @checked
    def execute(
        cls, *, model: Model.Type, conditioning: Conditioning.Type, max_tokens: int, decoding: dict | None = None
    ) -> io.NodeOutput:
        thoughts = model.think(conditioning, decoding_settings(decoding, max_tokens=max_tokens))
        progress = TextProgress(max_tokens)
        if conditioning.think_text is not None:
            warn(THOUGHT_ALREADY)
        for thought in thoughts:
            progress.report(thought.text, thought.tokens)
        thought = thoughts.last
        progress.finish(thought.text + ("" if thought.closed else STOPPED))
        return io.NodeOutput(thought.conditioning, thought.text, *thoughts.report())
