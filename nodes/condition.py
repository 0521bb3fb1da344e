"""Prompts and reference images -> conditioning, with or without reasoning."""

from comfy_api.latest import io

from ..sensenova_core.tokenizer import THINK_END
from . import host
from .decoding import decoding_input, decoding_settings
from .sockets import CATEGORY, Conditioning, Images, Model, References

MAX_IMAGES = 10


class ImageCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        images = io.Autogrow.TemplatePrefix(io.Image.Input("image"), prefix="image", min=1, max=MAX_IMAGES)
        masks = io.Autogrow.TemplatePrefix(io.Mask.Input("mask"), prefix="mask", min=0, max=MAX_IMAGES)
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
                    max=4096 * 4096,
                    step=1024,
                    tooltip="Pixels that each image is scaled down to, for speed and memory: one token per 32 x 32. "
                    "0 is the model's own limit (4194304, less with more than four images).",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[Images.Output(display_name="images")],
        )

    @classmethod
    def execute(cls, images, masks=None, max_pixels=0) -> io.NodeOutput:
        pictures = []
        for name, batch in images.items():
            metadata = host.source_metadata(cls.hidden.prompt, cls.hidden.unique_id, f"images.{name}")
            for picture in host.to_pictures(batch, (masks or {}).get(name.replace("image", "mask"))):
                picture.info |= metadata
                pictures.append(picture)
        if len(pictures) > MAX_IMAGES:
            raise ValueError(f"{len(pictures)} images are connected, batches counted; give at most {MAX_IMAGES}")
        return io.NodeOutput(References(tuple(pictures), max_pixels or None))


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
            outputs=[Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls, model, prompt, images=None, thinking=None) -> io.NodeOutput:
        images = images or References()
        thinking = thinking if thinking and thinking.strip() else None
        return io.NodeOutput(model.engine.encode(prompt, images.images, thinking, images.max_pixels))


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
                io.Int.Input(
                    "max_tokens", default=1024, min=1, max=32768, tooltip="Where the reasoning is cut, in tokens."
                ),
                decoding_input(),
            ],
            outputs=[
                Conditioning.Output(display_name="conditioning"),
                io.String.Output(display_name="thinking"),
            ],
        )

    @classmethod
    def execute(cls, model, conditioning, max_tokens, decoding=None) -> io.NodeOutput:
        settings = decoding_settings(decoding, max_tokens)
        progress, text = host.TextProgress(max_tokens), ""

        def show(piece: str) -> None:
            nonlocal text
            text += piece
            progress.report(text)

        model.make_ready(model.engine.reading_bytes(conditioning.tokens + max_tokens))
        thought = model.engine.think(conditioning, settings, show)
        closed = thought.think_text.endswith(THINK_END)
        progress.finish(thought.think_text + ("" if closed else "\n[the reasoning stopped without its end]"))
        return io.NodeOutput(thought, thought.think_text)
