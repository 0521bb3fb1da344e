"""Nodes and widgets for sizes."""

from comfy_api.latest import io

from ..sensenova_core.drawing.sizes import edit_size
from ..sensenova_core.errors import SettingsError
from ..sensenova_core.settings import TRAINED_SIZES, TRAINED_SIZES_U15
from .sockets import CATEGORY, Images

CUSTOM, AUTOMATIC = "custom", "automatic"
MAX_SIDE = 8192
FULL_RESOLUTION, SAME = "its ratio, at full resolution", "the same as the image"


def side_input(name: str, automatic: bool = False) -> io.Int.Input:
    """automatic: whether 0 is allowed, which leaves the size to `size_or_best`."""
    return io.Int.Input(
        name,
        default=0 if automatic else 2048,
        min=0 if automatic else 32,
        max=MAX_SIDE,
        step=32,
        tooltip=f"{name.capitalize()} in pixels, a multiple of 32. The models were trained at the sizes that the "
        "Resolution node lists; others work, with weaker pictures."
        + automatic
        * " 0, for both: what the model draws best, and of an edit its first image's ratio.",
    )


def size_or_best(
    model, width: int, height: int, image: tuple[int, int] | None = None, document: bool = False
) -> tuple[int, int]:
    """(width, height) as they are; for 0 and 0 what the model draws best, in the ratio of `image` if there is one.

    document: whether it is for the pictures of a document. Raises SettingsError where one of the two is 0.
    """
    if bool(width) != bool(height):
        raise SettingsError(f"width is {width} and height is {height}; give both, or 0 for both")
    return (width, height) if width else model.engine.best_size(image, document)


def size_input(sizes: dict[str, tuple[int, int]]) -> io.DynamicCombo.Input:
    """A choice of an automatic size, of named ones, or of a size of one's own."""
    named = [io.DynamicCombo.Option(label, []) for label in (AUTOMATIC, *sizes)]
    return io.DynamicCombo.Input(
        "size",
        options=[*named, io.DynamicCombo.Option(CUSTOM, [side_input("width"), side_input("height")])],
        tooltip="Ratio and width x height in pixels. automatic: what the model draws best, in the first image's "
        "ratio if there is one. custom: any multiples of 32, outside training.",
    )


def size_of(size: dict | None, hidden, sizes: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    """The (width, height) that a `size_input` of these sizes says, None for the automatic one.

    hidden: the node's, with its graph. Raises ValueError for an unknown choice.
    """
    if size is None:  # ComfyUI leaves an unknown choice out
        given = (hidden.prompt or {}).get(hidden.unique_id, {}).get("inputs", {}).get("size")
        choices = ", ".join(map(repr, (AUTOMATIC, CUSTOM, *sizes)))
        raise ValueError(f"size {given!r} is unknown; choose one of {choices}")
    if size["size"] == AUTOMATIC:
        return None
    return (size["width"], size["height"]) if size["size"] == CUSTOM else sizes[size["size"]]


class Resolution(io.ComfyNode):
    SIZES = TRAINED_SIZES | TRAINED_SIZES_U15

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreResolution",
            display_name="SenseNova U1 Resolution",
            category=CATEGORY,
            description="Width and height that the models were trained at, by ratio, or a size of your own. automatic "
            "is 0 and 0, which leaves the size to the model that draws.",
            search_aliases=["size", "aspect ratio"],
            inputs=[size_input(cls.SIZES)],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[io.Int.Output(display_name="width"), io.Int.Output(display_name="height")],
        )

    @classmethod
    def execute(cls, size=None) -> io.NodeOutput:
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
            outputs=[io.Int.Output(display_name="width"), io.Int.Output(display_name="height")],
        )

    @classmethod
    def execute(cls, images, mode) -> io.NodeOutput:
        width, height = images.images[0].size
        return io.NodeOutput(*((width, height) if mode == SAME else edit_size(width, height)))
