"""Any picture's pixels as 8-bit sRGB, with transparency where it has any: what a screen would show."""

import io

import numpy as np
from PIL import Image, ImageCms

# Of an embedded profile -> the mode of pictures whose numbers it explains.
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
_PLAIN = {"La": "LA", "RGBa": "RGBA"}  # premultiplied modes, which Pillow converts to their plain twins only
_GREY_LEVELS = {"L;2": 85, "L;4": 17}  # what a level of few bits is stretched by, where Pillow keeps its number
_SAME = 2  # levels: a profile that moves no colour by more is sRGB under another name
_FLAT = 32  # levels: a profile that leaves less contrast than this is damaged
_HDR = 16  # a float picture is of 0 .. 1 with highlights up to here; brighter numbers are of another unit
_SAMPLE = 2**20  # numbers that a picture's range is taken from


def as_shown(image: Image.Image) -> Image.Image:
    """RGB or RGBA. A colour profile is followed if it can be; other numbers than 8 bits are read by their range."""
    scale_transparency(image)
    image.load()
    image = _plain(image)
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if alpha is not None:
        image = image.convert("L" if image.mode == "LA" else "RGB")
    colours = _by_profile(image) or image.convert("RGB")
    if alpha is not None:
        colours = colours.copy() if colours is image else colours
        colours.putalpha(alpha)
    return colours


def scale_transparency(image: Image.Image) -> None:
    """Have a PNG's transparent colour count as its pixels will once they are decoded, which Pillow leaves out."""
    colour = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    stored = tile[0][3] if tile else None
    if stored in _GREY_LEVELS and isinstance(colour, int):
        image.info["transparency"] = colour * _GREY_LEVELS[stored]
    elif stored == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in colour)


def _plain(image: Image.Image) -> Image.Image:
    """The same in L, RGB, CMYK or LAB, or with transparency in LA or RGBA."""
    if image.mode in _PLAIN:
        return image.convert(_PLAIN[image.mode])
    if image.mode == "F" or image.mode.startswith("I"):
        return _levels(image)
    if image.mode in ("LA", "RGBA", "CMYK", "LAB"):
        return image
    if image.mode == "PA" or (image.mode in ("1", "L", "P", "RGB") and image.has_transparency_data):
        try:
            return image.convert("LA" if image.mode in ("1", "L") else "RGBA")
        except (ValueError, TypeError, OverflowError, SystemError):
            image = image.copy()
            image.info.pop("transparency", None)  # no colour of this picture's
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _levels(image: Image.Image) -> Image.Image:
    """16 and 32 bits and floats as L, or LA where one of their numbers is transparent."""
    values = np.asarray(image)
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else _range(values)
    levels = (values.astype(np.float32) - np.float32(low)) / np.float32((high - low) / 255)
    levels = np.nan_to_num(levels, nan=0, posinf=255, neginf=0).round().clip(0, 255).astype(np.uint8)
    grey, colour = Image.fromarray(levels), image.info.get("transparency")
    if isinstance(colour, int | float):
        grey.putalpha(Image.fromarray(np.where(values == colour, 0, 255).astype(np.uint8)))
    grey.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return grey


def _range(values: np.ndarray) -> tuple[float, float]:
    """The numbers that are black and white: of the usual unit that the picture fits in, else its own.

    Half a percent at the ends is left out, so that a few points do not darken all others.
    """
    sample = values.reshape(-1)[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    bright = sample[sample > 0]
    low, high = float(np.percentile(sample, 0.5)), float(np.percentile(bright, 99.5)) if bright.size else 0.0
    whole = high > 1 and not (sample % 1).any()  # as counted by 8 or 16 bits, however dark
    units = (1, 255, 65535)
    most = 1 if high <= 1 or (high <= _HDR and not whole) else next((unit for unit in units if high <= unit), high)
    if most == 65535 and not whole and high < most / 4:
        most = high  # measurements, such as heights
    if low >= -0.02 * most:
        return 0.0, most
    return (-1.0, 1.0) if low >= -1 and most == 1 else (low, max(high, low + 1e-6))


def _by_profile(image: Image.Image) -> Image.Image | None:
    """sRGB by the profile that the picture brings; None without one, and for one that does not fit or is damaged."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile or image.mode not in _SPACES.values():
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space  # pyright: ignore[reportAttributeAccessIssue]  # annotated as the stream
        if _SPACES.get(space.strip()) != image.mode:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, "RGB")
        probe = _probe(image.mode)
        seen = np.asarray(ImageCms.applyTransform(probe, transform), dtype=np.int16)
        if np.ptp(seen) < _FLAT:
            return None
        if np.abs(seen - np.asarray(probe.convert("RGB"), dtype=np.int16)).max() <= _SAME and image.mode != "CMYK":
            return None
        return ImageCms.applyTransform(image, transform)
    except Exception:  # of a stranger's profile anything can be wrong, and a picture without one is shown as well
        return None


def _probe(mode: str) -> Image.Image:
    """Colours all over a mode's space, 256 of them."""
    steps = np.indices((4,) * 4).reshape(4, -1).T * 85 if mode == "CMYK" else None
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    if steps is None:
        steps = np.indices((4, 8, 8)).reshape(3, -1).T * (85, 36, 36)
    return Image.frombytes(mode, (256, 1), steps.astype(np.uint8).tobytes())
