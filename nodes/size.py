"""Nodes and widgets for sizes."""

from comfy_api.latest import io

from ..sensenova_core.drawing.sizes import edit_size
from ..sensenova_core.errors import SettingsError, quoted
from ..sensenova_core.settings import CROPPED_SIZES, TRAINED_SIZES, TRAINED_SIZES_U15, SamplingSettings
from . import widgets
from .door import UNSEEN, check_choice, checked
from .sockets import CATEGORY, Images, Model

CUSTOM, AUTOMATIC = "custom", "automatic"
FULL_RESOLUTION, SAME = "its ratio, at full resolution", "the same as the image"


def side_inputs(*, automatic: bool = False) -> list[io.Input]:
    """Width and height. automatic: whether 0 is allowed, which leaves them to `size_or_best`."""
    sides = [widgets.offered(SamplingSettings)[name] for name in ("width", "height")]
    return [widgets.automatic(side) if automatic else widgets.widget(side) for side in sides]


def size_or_best(
    model: Model.Type, size: tuple[int, int], *, image: tuple[int, int] | None = None, document: bool = False
) -> tuple[int, int]:
    """A size (width, height) as it is; for 0 and 0 what the model draws best, in the ratio of `image` if there is one.

    document: whether it is for the pictures of a document. Raises SettingsError where one of the two is 0.
    """
    width, height = size
    if bool(width) != bool(height):
        raise SettingsError(f"width is {width} and height is {height}", "give both, or 0 for both")
    return size if width else model.engine.best_size(image, document=document)


def size_input(sizes: dict[str, tuple[int, int]]) -> io.DynamicCombo.Input:
    """A choice of an automatic size, of named ones, or of a size of one's own."""
    named = [io.DynamicCombo.Option(label, []) for label in (AUTOMATIC, *sizes)]
    return io.DynamicCombo.Input(
        "size",
        options=[*named, io.DynamicCombo.Option(CUSTOM, side_inputs())],
        tooltip="Ratio and width x height in pixels. automatic: what the model draws best, in the first image's "
        "ratio if there is one. custom: any multiples of 32, outside training.",
    )


def size_of(size: dict | None, hidden, sizes: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    """The (width, height) that a `size_input` of these sizes says, None for the automatic one.

    hidden: the node's, with its graph. Raises SettingsError for an unknown choice.
    """
    if size is None:  # ComfyUI leaves an unknown choice out
        given = (hidden.prompt or {}).get(hidden.unique_id, {}).get("inputs", {}).get("size")
        choices = ", ".join(map(repr, (AUTOMATIC, CUSTOM, *sizes)))
        raise SettingsError(f"{quoted(given)} is unknown", f"choose one of {choices}", setting="size", value=given)
    if size["size"] == AUTOMATIC:
        return None
    return (size["width"], size["height"]) if size["size"] == CUSTOM else sizes[size["size"]]


class Resolution(io.ComfyNode):
    SIZES = TRAINED_SIZES | TRAINED_SIZES_U15 | CROPPED_SIZES

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreResolution",
            display_name="SenseNova U1 Resolution",
            category=CATEGORY,
            description="Width and height that the models were trained at, by ratio, or a size of your own. automatic "
            "is 0 and 0, which leaves the size to the model that draws. Sizes with crop need the sampler's crop.",
            search_aliases=["size", "aspect ratio"],
            inputs=[size_input(cls.SIZES)],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[
                io.Int.Output(
                    display_name="width", tooltip="In pixels, 0 where it is automatic: for the sampler's width."
                ),
                io.Int.Output(
                    display_name="height", tooltip="In pixels, 0 where it is automatic: for the sampler's height."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, size=UNSEEN):
        return check_choice("size", size)

    @classmethod
    @checked
    def execute(cls, size: dict | None = None) -> io.NodeOutput:
        return io.NodeOutput(*(size_of(size, cls.hidden, cls.SIZES) or (0, 0)))


class EditSize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreEditSize",
            display_name="SenseNova U1 Edit Size",
            category=CATEGORY,
            description="The size to draw an edit at, from its first image.",
            search_aliases=["size", "resolution"],
            inputs=[
                Images.Input("images", tooltip="From Image Condition."),
                io.Combo.Input(
                    "mode",
                    options=[FULL_RESOLUTION, SAME],
                    default=FULL_RESOLUTION,
                    tooltip="Full resolution: the image's ratio at about 2048 x 2048, where the published models "
                    "are sharpest. The sampler's own 0 and 0 is that size for any model, the demo included. The same: "
                    "exactly the image's size; switch on the sampler's crop, which draws at the next multiples of 32 "
                    "and cuts back.",
                ),
            ],
            outputs=[
                io.Int.Output(display_name="width", tooltip="In pixels, for the sampler's width."),
                io.Int.Output(display_name="height", tooltip="In pixels, for the sampler's height."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, images: Images.Type, mode: str) -> io.NodeOutput:
        width, height = images.images[0].size
        return io.NodeOutput(*((width, height) if mode == SAME else edit_size(width, height)))
