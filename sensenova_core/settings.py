"""Every setting: its default, range, choices and help. The command line, the nodes and README's tables read them here.

Imports nothing heavy. A setting is a field of one of the frozen dataclasses below, which check their values when they
are made and raise SettingsError. `settings_of(SamplingSettings)` tells what is known of its fields, by their names.
"""

import math
import re
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import SettingsError, check_choice, check_count, check_number, plain, quoted

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**64 - 1
MAX_SIDE = 16_384  # pixels; far over what a model draws well, and a few more only run out of memory
MAX_IMAGES = 10  # that are read for one picture, answer or document
MAX_ASPECT = 200  # how many times as long as wide a picture may be
# Pixels of one reference image, by task.
EDIT_MIN_PIXELS, EDIT_MAX_PIXELS, EDIT_PIXELS_OF_ALL = 512 * 512, 2048 * 2048, 4096 * 4096
UNDERSTAND_MIN_PIXELS, UNDERSTAND_MAX_PIXELS = 65_536, 4_194_304
BEST_AREA = 2048 * 2048  # of the published models, which name 4096 x 4096 as their max_pixels and are weaker there
DOCUMENT_AREA = 1536 * 1536

CFG_NORMS = ("none", "global", "channel", "cfg_zero_star")
DTYPES = ("float32", "bfloat16", "float16")
VRAM_MODES = ("auto", "full", "balanced", "low")
COMPUTES = ("auto", "bf16", "int8")
BACKENDS = ("auto", "sdpa", "flash", "flash3", "sage", "sdpa_cudnn", "sdpa_flash", "sdpa_efficient")
TASKS = ("draw", "understand", "interleave")
PAGE_FORMATS = ("markdown", "html")  # that a document is saved in; the first unless told otherwise
SIZE_UNITS = "GiB, MiB and KiB (of 1024), GB, MB and KB (of 1000)"

MAX_THINK_TOKENS = 1024  # of reasoning, unless told otherwise
MAX_DOCUMENT_TOKENS = 8192
MAX_CRITIQUE_TOKENS = 2048  # of all critiques of one picture and its revisions
USUAL_PROMPT = 400  # tokens, with the system message

# The branches of guidance. All denoise the same image and differ in what they have read before it.
CONDITION, IMAGES_ONLY, UNCONDITIONAL = "condition", "images_only", "unconditional"

Made = TypeVar("Made", bound="Settings")


@dataclass(frozen=True)
class Setting:
    """What is known of one setting.

    name: in the API, in messages and on nodes. option: on the command line and in JSON lines. low, high: the range,
    both included; over: an end that is not. usual, step, digits: the range, the step and the decimal places that a
    widget offers; the whole range, unless told. choices: the only values. help: what it does, in a few sentences;
    {name} stands for another setting. automatic: what it is where it is left to the model; "" where it may not be.
    needs: a yes-or-no setting without which it does nothing.
    """

    name: str
    option: str
    kind: type
    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    over: float = -math.inf
    usual: tuple[float, ...] = ()
    step: float = 1
    digits: int | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False
    automatic: str = ""
    needs: str = ""

    def __post_init__(self):
        object.__setattr__(self, "usual", self.usual or (self.low, self.high))

    def check(self, value: object) -> None:
        """Raise SettingsError unless `value` is in range or among the choices."""
        if self.choices:
            check_choice(self.name, value, self.choices)
        elif self.kind is int and not self.automatic:  # a side is checked once the model is known
            check_count(self.name, value, least=int(self.low), most=None if self.high == math.inf else int(self.high))
        elif self.kind is bool and not isinstance(value, bool):
            raise SettingsError(setting=self.name, value=value, remedy="give True or False")
        elif self.kind is float:
            check_number(self.name, value, self._expected(), low=self.low, over=self.over, high=self.high)

    def help_as(self, named: Callable[[str], str]) -> str:
        """The help, with other settings called as `named` calls them."""
        return re.sub(r"\{(\w+)\}", lambda other: named(other[1]), self.help)

    def _expected(self) -> str:
        """The range of a number, in words."""
        if self.over > -math.inf:
            return f"a number over {self.over:g}" + (f" and up to {self.high:g}" if self.high < math.inf else "")
        if self.high < math.inf:
            return f"a number from {self.low:g} to {self.high:g}"
        return f"a finite number, such as {self.default:g}"


def _setting(default: Any, help: str, *, name: str = "", option: str = "", **known: Any) -> Any:
    """A field of a dataclass of settings. name, option: where they differ from the field's name and from `name`."""
    told = {"kind": type(default), "name": name, "option": option, "help": help, **known}
    return field(default=default, metadata={"setting": told})


def _side(which: str) -> Any:
    return _setting(
        2048,
        f"{which} in pixels, a multiple of 32. The models were trained at some sizes; others work, with weaker "
        "pictures.",
        usual=(32, 8192),
        step=32,
        automatic="what the model draws best, and of an edit its first image's ratio",
    )


def _name(of: Field) -> str:
    """What a field is called where settings of several dataclasses stand together."""
    return of.metadata.get("setting", {}).get("name") or of.name


@cache
def settings_of(cls: type) -> dict[str, Setting]:
    """Name -> what is known of every setting of a dataclass, those of the dataclasses within it included."""
    found: dict[str, Setting] = {}
    for each in fields(cls):
        if "within" in each.metadata:
            found |= settings_of(each.metadata["within"])
        elif "setting" in each.metadata:
            told: dict[str, Any] = {**each.metadata["setting"], "name": _name(each), "default": each.default}
            told["option"] = told["option"] or told["name"]
            found[told["name"]] = Setting(**told)
    return found


@dataclass(frozen=True)
class Settings:
    """What all dataclasses of settings share: values are checked when one is made."""

    def __post_init__(self):
        known = settings_of(type(self))
        for each in fields(self):
            if "within" not in each.metadata:
                object.__setattr__(self, each.name, plain(getattr(self, each.name)))  # numpy's numbers, say
            if "setting" in each.metadata:
                known[_name(each)].check(getattr(self, each.name))

    @classmethod
    def of(cls: type[Made], **values: Any) -> Made:
        """From flat values, by their names in `settings_of`; those left out have their defaults.

        Raises SettingsError, and TypeError for a name that is no setting.
        """
        own = {}
        for each in fields(cls):
            if within := each.metadata.get("within"):
                own[each.name] = within.of(**{name: values.pop(name) for name in settings_of(within) if name in values})
            elif _name(each) in values:
                own[each.name] = values.pop(_name(each))
        return cls(**own, **values)


@dataclass(frozen=True)
class Guidance(Settings):
    """How the branches' velocities are combined.

    cfg: weight of the prompt; img_cfg: weight of the reference images (only an edit has any).
    norm: one of CFG_NORMS. interval: the (shifted) times between which guidance is on, both ends included.
    """

    cfg: float = _setting(
        4.0,
        "Guidance by the prompt. 4 for the full models; 1 is off, half the work, and what the distilled 8-step models "
        "need.",
        option="cfg_scale",
        usual=(0.0, 100.0),
        step=0.1,
        digits=2,
    )
    img_cfg: float = _setting(
        1.0,
        "Guidance by images. 1 is off; equal to {cfg}: ordinary guidance against nothing at all; else both are weighed "
        "separately, at three passes' cost. Does nothing where a picture is drawn from text alone.",
        option="img_cfg_scale",
        usual=(0.0, 100.0),
        step=0.1,
        digits=2,
    )
    norm: str = _setting(
        "none",
        "Tames strong guidance. global: never longer than the unguided step, over the whole image; channel: the same "
        "token by token; cfg_zero_star: rescales the unconditional branch, skips step 1 (text to image only).",
        name="cfg_norm",
        choices=CFG_NORMS,
    )
    interval: tuple[float, float] = _setting(
        (0.0, 1.0),
        "First and last time with guidance, after the shift; 0 is noise, 1 the finished image. Steps outside need only "
        "one pass.",
        name="cfg_interval",
        low=0.0,
        high=1.0,
        step=0.01,
        advanced=True,
    )

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.interval, tuple) or len(self.interval) != 2:
            raise SettingsError(
                setting="cfg_interval", value=self.interval, remedy="give two numbers, its start and its end"
            )
        for end in self.interval:
            check_number("cfg_interval", end, "a number from 0 to 1", subject="an end of {}")
        start, end = self.interval
        if not 0 <= start <= end <= 1:
            raise SettingsError(
                setting="cfg_interval",
                value=self.interval,
                problem=f"{start} to {end} is not an interval inside 0 to 1",
                remedy="give its start first, such as 0 to 1",
            )


@dataclass(frozen=True)
class SamplingSettings(Settings):
    """Everything that decides a picture besides model and conditioning. Checked when made; raises SettingsError.

    width, height: pixels. steps: 1 or more. shift: over 0; 1 is an even schedule. t_eps: over 0, the smallest
    distance to the end that a velocity is divided by. batch_size: images of one prompt from one noise stream.
    crop: draw a size that is no multiple of a token's side at the next larger multiples, and cut it back.
    denoise: over 0 to 1, the part of the way from noise that is drawn; under 1 it begins from an init image.
    feather: pixels by which a mask's border is widened.
    """

    width: int = _side("Width")
    height: int = _side("Height")
    steps: int = _setting(
        50,
        "Denoising steps: 50 for the full models, 8 for the distilled ones.",
        option="num_steps",
        low=1,
        high=10_000,
        usual=(1, 1000),
    )
    guidance: Guidance = field(default_factory=Guidance, metadata={"within": Guidance})
    shift: float = _setting(
        3.0,
        "Over 1 spends more steps near the noise, where the composition is decided. 3 as trained.",
        option="timestep_shift",
        over=0,
        usual=(0.01, 100.0),
        step=0.1,
    )
    t_eps: float = _setting(
        0.02,
        "Smallest distance to the end that a velocity is divided by.",
        over=0,
        usual=(0.0001, 1.0),
        step=0.001,
        digits=4,
        advanced=True,
    )
    seed: int = _setting(
        42, "The noise to start from; the same seed draws the same picture on every device.", low=0, high=MAX_SEED
    )
    batch_size: int = _setting(
        1, "Images drawn at once; the prompt is read once for all.", low=1, high=4096, usual=(1, 64)
    )
    crop: bool = _setting(
        default=False,
        help="Allow any size: draw at the next multiples of 32 and cut back, as for 3840 x 2160 or an edit at exactly "
        "its image's size.",
        advanced=True,
    )
    denoise: float = _setting(
        1.0,
        "How far a given picture is gone back into noise before it is drawn again: 1 forgets it, 0.3 keeps all but "
        "details. {steps} are taken either way, as in KSampler. Needs an init image.",
        over=0,
        high=1,
        usual=(0.01, 1.0),
        step=0.01,
        digits=3,
    )
    feather: int = _setting(
        0,
        "Pixels over which a mask fades into what is kept around it; farther out every pixel stays exactly as it was.",
        low=0,
        high=1024,
        usual=(0, 256),
    )

    def check_size(self, side: int) -> None:
        """Raise SettingsError unless both sides are multiples of `side`, what one token of the model covers, or
        cropped."""
        for name in ("width", "height"):
            value = getattr(self, name)
            check_number(name, value, f"a whole number of pixels, a multiple of {side}")
            if isinstance(value, int) and value > MAX_SIDE:
                raise SettingsError(setting=name, value=value, remedy=f"give at most {MAX_SIDE} pixels")
            if not isinstance(value, int) or value < 1 or (value % side and not self.crop):
                nearest = max(side, round(value / side) * side)
                raise SettingsError(
                    setting=name,
                    value=value,
                    problem=f"is {value}",
                    remedy=f"this model draws multiples of {side}, such as {nearest}",
                    hints={"crop": "with {} it cuts the picture back to any size"},
                )

    def as_dict(self) -> dict[str, Any]:
        """Flat, by the names that nodes and messages use; what is kept in a picture's metadata."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "guidance"}
        values |= {_name(each): getattr(self.guidance, each.name) for each in fields(self.guidance)}
        return values | {"cfg_interval": list(self.guidance.interval)}


@dataclass(frozen=True)
class DecodingSettings(Settings):
    """How text is written. Checked when made; raises SettingsError.

    sample: False takes the likeliest token each time, and nothing below matters but max_tokens and repetition_penalty.
    temperature: 0.0001 to 10000. top_k: 0 is off. top_p: over 0 to 1; 1 is off. repetition_penalty: 1 is off.
    """

    max_tokens: int = _setting(512, "Where the text is cut, in tokens.", low=1, usual=(1, 32_768))
    sample: bool = _setting(
        default=False, help="Draw tokens at random instead of the likeliest ones.", option="do_sample"
    )
    temperature: float = _setting(
        0.7,
        "Higher is more varied.",
        needs="sample",
        low=1e-4,  # beyond, float32 logits would overflow
        high=1e4,
        usual=(0.01, 5.0),
        step=0.05,
    )
    top_k: int = _setting(0, "Only the likeliest so many tokens; 0 is off.", needs="sample", low=0, usual=(0, 1000))
    top_p: float = _setting(
        1.0,
        "Only the likeliest tokens that together reach this likelihood; 1 is off.",
        needs="sample",
        over=0,
        high=1,
        usual=(0.01, 1.0),
        step=0.01,
    )
    repetition_penalty: float = _setting(
        1.0,
        "Over 1 discourages tokens that were written already; 1 is off.",
        low=1e-4,
        high=1e4,
        usual=(0.1, 5.0),
        step=0.05,
        advanced=True,
    )
    seed: int = _setting(42, "The same seed writes the same text.", low=0, high=MAX_SEED)


@dataclass(frozen=True)
class ReasoningSettings(DecodingSettings):
    """How reasoning before a picture is written."""

    max_tokens: int = _setting(
        MAX_THINK_TOKENS, "Where the reasoning is cut, in tokens.", name="max_think_tokens", low=1, usual=(1, 32_768)
    )


@dataclass(frozen=True)
class DocumentSettings(Settings):
    """How a document is made. Checked when made; raises SettingsError.

    sizes: (width, height) of each image in order; a single one serves all, and none is the size of `sampling`.
    think: reason first, and draw while reasoning. max_images: 0 for text alone; an image beyond it ends the document.
    decoding.max_tokens counts text only. system: the system message; None is the trained one.
    """

    sampling: SamplingSettings = field(default_factory=lambda: SamplingSettings(1536, 1536))
    sizes: tuple[tuple[int, int], ...] = ()
    decoding: DecodingSettings = field(default_factory=lambda: DecodingSettings(max_tokens=MAX_DOCUMENT_TOKENS))
    max_images: int = _setting(10, "A further picture ends the document.", low=0, usual=(0, 100))
    think: bool = _setting(default=False, help="Reason first, drawing in between.")
    system: str | None = _setting(
        None,
        "Replaces the system message that the model was trained with.",
        kind=str,
        name="system_message",
        advanced=True,
    )

    def __post_init__(self):
        super().__post_init__()
        sizes = self.sizes if isinstance(self.sizes, tuple) else (self.sizes,)
        if not all(isinstance(size, tuple) and len(size) == 2 for size in sizes):
            raise SettingsError(
                setting="sizes",
                value=self.sizes,
                problem=f"are {quoted(self.sizes)}",
                remedy="give (width, height) of each image",
            )
        _check_drawn_in_turn(self.sampling, "a document's images are drawn one by one")
        if 1 < len(self.sizes) < self.max_images:
            raise SettingsError(
                f"{len(self.sizes)} sizes for up to {self.max_images} images", "give one for all, or one for each"
            )

    def of_image(self, index: int) -> SamplingSettings:
        """How the image of that index (from 0) is drawn."""
        sizes = self.sizes or ((self.sampling.width, self.sampling.height),)
        width, height = sizes[0] if len(sizes) == 1 else sizes[index]
        return replace(self.sampling, width=width, height=height)


def _check_drawn_in_turn(sampling: SamplingSettings, why: str) -> None:
    """Raise SettingsError for what pictures cannot have that follow each other in one context."""
    if sampling.batch_size != 1:
        raise SettingsError(setting="batch_size", value=sampling.batch_size, remedy=why)
    if sampling.denoise != 1:
        remedy = "pictures that follow each other begin from noise; give 1"
        raise SettingsError(setting="denoise", value=sampling.denoise, remedy=remedy)
    if sampling.guidance.norm == "cfg_zero_star":
        raise SettingsError(
            setting="cfg_norm",
            value="cfg_zero_star",
            problem="cfg_zero_star is for text to image only",
            remedy="choose none, global or channel",
        )


@dataclass(frozen=True)
class CritiqueSettings(DecodingSettings):
    """How the critiques of a picture and its revisions are written. max_tokens: of all of them together."""

    max_tokens: int = _setting(
        MAX_CRITIQUE_TOKENS,
        "Where critiques are cut, in tokens: of all rounds together.",
        name="max_critique_tokens",
        low=1,
        usual=(1, 32_768),
    )


@dataclass(frozen=True)
class CorrectionSettings(Settings):
    """How the model corrects its own picture. Checked when made; raises SettingsError.

    sampling: of the picture and its revisions, which are as large. rounds: 1 or more; how many revisions there may be.
    """

    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    decoding: DecodingSettings = field(default_factory=CritiqueSettings)
    rounds: int = _setting(
        1,
        "How often the model may revise its picture: it does so as long as it finds something wrong.",
        option="self_correct",
        low=1,
        high=4096,
        usual=(1, 10),
    )

    def __post_init__(self):
        super().__post_init__()
        _check_drawn_in_turn(self.sampling, "a picture that is corrected is drawn alone; give 1")

    @property
    def document(self) -> DocumentSettings:
        """The same, as a document of the picture and its revisions."""
        return DocumentSettings(sampling=self.sampling, decoding=self.decoding, max_images=self.rounds + 1)


@dataclass(frozen=True)
class LoadSettings(Settings):
    """How a checkpoint is run. device: as torch spells it. See `sensenova_core.load`."""

    device: "str | torch.device" = "cpu"
    dtype: str = _setting(
        "auto",
        "What the weights run in. auto: as stored (bfloat16 in the published checkpoints), or bfloat16 where they are "
        "packed, as in GGUF, FP8 and INT8 files; float32 on a device without bfloat16. float32 is exact and takes "
        "twice the memory.",
        choices=("auto", *DTYPES),
    )
    vram_mode: str = _setting(
        "auto",
        "Where weights live; pictures are the same in every mode. auto: as many layers stay on the card as there is "
        "memory for, the others stream while it computes. full: the expert in use stays (17 GB for the 8B models). "
        "balanced: all layers stream through three buffers (3 GB in all). low: through two.",
        choices=VRAM_MODES,
    )
    max_memory: str | None = _setting(
        "auto",
        "What all of it may take of the card, such as 13GiB; with cpu=24GiB also of page-locked system memory: "
        f"0=13GiB,cpu=24GiB. In {SIZE_UNITS}. auto: what is free.",
    )
    attention: str = _setting(
        "auto",
        "auto: on an NVIDIA card the quickest of torch's kernels and the flash-attn that is installed, measured once "
        "and remembered; else sdpa. sdpa: what torch picks. sdpa_cudnn, sdpa_flash, sdpa_efficient: one of torch's "
        "kernels. flash, flash3, sage: the packages flash-attn, flash-attn 3 and SageAttention, which must be "
        "installed; sage is less exact. All but auto and sdpa need an NVIDIA card, and most float16 or bfloat16. One "
        "that is wrong here is refused.",
        option="attn_backend",
        choices=BACKENDS,
        advanced=True,
    )
    compute: str = _setting(
        "auto",
        "How linear layers multiply. auto: INT8 where weights are stored as INT8 and the device is quick at it, else "
        "in {dtype}. bf16: always in {dtype}, packed weights unpacked first. int8: INT8 whatever the weights are "
        "stored as; quicker on most cards, a little less exact.",
        choices=COMPUTES,
        advanced=True,
    )
    compile: bool = _setting(
        default=False,
        help="Have torch compile what layers do between their products: quicker steps, most of all on fast cards, "
        "after up to a minute when it is first used on a machine, and some seconds in every process. Needs triton on a "
        "card, a C++ compiler on a CPU; where they are missing, layers run as they are.",
        advanced=True,
    )
    enforce_eager: bool = _setting(
        default=False,
        help="Compile nothing, and launch everything by itself. Without it, each token of text is one CUDA graph on "
        "NVIDIA cards while all layers stay there, which is quicker and the same but for rounding.",
        advanced=True,
    )


@dataclass(frozen=True)
class ForecastSettings(Settings):
    """What is to be planned before there is a prompt for it. Checked when made; raises SettingsError.

    task: one of TASKS: a picture, an answer, or a document at its largest. images: how many are edited or
    read. think_tokens: of reasoning before a picture. max_tokens: of an answer. prompt_tokens: with the system message.
    inpaint: whether the picture is painted within a mask. card, ram: sizes such as "11GiB" of free memory to plan for,
    in place of what is free here.
    """

    task: str = _setting(
        "draw",
        "draw: a picture, or with images an edit. understand: an answer, which {width}, {height} and "
        "{batch_size} do not change. interleave: a document at its largest.",
        choices=TASKS,
    )
    images: int = _setting(0, "Images to edit, or to read.", option="num_images", low=0, high=MAX_IMAGES)
    think_tokens: int = _setting(
        0, "Tokens of reasoning before a picture.", option="max_think_tokens", low=0, usual=(0, 32_768)
    )
    max_tokens: int = _setting(DecodingSettings.max_tokens, "Of an answer.", low=1, usual=(1, 32_768), advanced=True)
    prompt_tokens: int = _setting(
        USUAL_PROMPT,
        "Of the prompt or the conversation so far, with the system message, without images.",
        low=1,
        usual=(1, 262_144),
        advanced=True,
    )
    inpaint: bool = _setting(
        default=False,
        help="Paint within a mask: the given picture, its noise and the mask are kept beside it.",
        advanced=True,
    )
    card: str = _setting("", "Plan for a card with so much free memory, such as 11GiB. Empty: the card that is here.")
    ram: str = _setting("", "Plan for so much free system memory, such as 24GiB. Empty: what is free here.")


ALL_KINDS = (
    SamplingSettings,
    DecodingSettings,
    ReasoningSettings,
    DocumentSettings,
    CritiqueSettings,
    CorrectionSettings,
    LoadSettings,
    ForecastSettings,
)


def edit_pixel_limits(images: int, best_area: int = BEST_AREA) -> tuple[int, int]:
    """(min_pixels, max_pixels) of each of `images` references of an edit or a document.

    best_area: pixels of the pictures that the model draws best; what it reads is scaled to no more, before both sides
    become multiples of a token's.
    """
    most = min(EDIT_MAX_PIXELS, EDIT_PIXELS_OF_ALL // max(images, 1), best_area)
    return min(EDIT_MIN_PIXELS, best_area), most


def understanding_pixel_limits(best_area: int = BEST_AREA) -> tuple[int, int]:
    """(min_pixels, max_pixels) of each image that is asked about."""
    return min(UNDERSTAND_MIN_PIXELS, best_area), min(UNDERSTAND_MAX_PIXELS, best_area)


def _sizes(labels: str) -> dict[str, tuple[int, int]]:
    """Label -> (width, height), of labels that end in it."""
    sizes = {label: label.split()[-1].split("x") for label in labels.split(" | ")}
    return {label: (int(width), int(height)) for label, (width, height) in sizes.items()}


# The sizes the published models were trained at, in pixels. Other multiples of a token work, but worse.
TRAINED_SIZES = _sizes(
    "1:1 2048x2048 | 16:9 2720x1536 | 9:16 1536x2720 | 3:2 2496x1664 | 2:3 1664x2496 | 4:3 2368x1760 | 3:4 1760x2368 "
    "| 2:1 2880x1440 | 1:2 1440x2880 | 3:1 3456x1152 | 1:3 1152x3456"
)
# U1.5 alone was trained up to areas of 4096 x 4096.
TRAINED_SIZES_U15 = _sizes("U1.5 only, 1:1 4096x4096 | U1.5 only, 16:9 3840x2176 | U1.5 only, 9:16 2176x3840")
# Of screens: drawn at the next multiples of a token's side, and cut back.
CROPPED_SIZES = _sizes("U1.5 only, with crop, 16:9 3840x2160 | U1.5 only, with crop, 9:16 2160x3840")
# For documents of text and pictures.
INTERLEAVE_SIZES = _sizes(
    "1:1 1536x1536 | 16:9 2048x1152 | 9:16 1152x2048 | 3:2 1888x1248 | 2:3 1248x1888 | 4:3 1760x1312 | 3:4 1312x1760 "
    "| 2:1 2144x1088 | 1:2 1088x2144 | 3:1 2592x864 | 1:3 864x2592"
)
