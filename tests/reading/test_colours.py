"""Transparency, colour profiles and numbers of every kind, as a screen shows them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from sensenova_core.reading.images import flattened

WHITE = (255, 255, 255)


def stored(image: Image.Image, form: str = "PNG", **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def corners(image: Image.Image) -> tuple:
    """Its first pixel and its middle one."""
    flat = flattened(image)
    assert flat.mode == "RGB" and flat.size == image.size
    return flat.getpixel((0, 0)), flat.getpixel((flat.width // 2, flat.height // 2))


def framed(mode: str, clear, full) -> Image.Image:
    image = Image.new(mode, (16, 12), clear)
    image.paste(full, (4, 3, 12, 9))
    return image


def palette(frames: Image.Image | None = None) -> Image.Image:
    image = framed("P", 0, 1)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255] + [0] * 759)
    return image


def with_colour(image: Image.Image, colour) -> Image.Image:
    image.info["transparency"] = colour
    return image


RED, GREY, BLACK = (255, 0, 0), (128, 128, 128), (0, 0, 0)
RGBA = framed("RGBA", (0, 0, 0, 0), (*RED, 255))
CLEAR = {
    "RGBA": (lambda: RGBA, RED),
    "RGBa": (lambda: RGBA.convert("RGBa"), RED),
    "LA": (lambda: framed("LA", (0, 0), (128, 255)), GREY),
    "La": (lambda: framed("LA", (0, 0), (128, 255)).convert("La"), GREY),
    "PA": (lambda: RGBA.convert("PA"), RED),
    "palette of RGBA": (lambda: stored(RGBA.quantize(8)), RED),
    "palette, one index": (lambda: stored(palette(), transparency=0), RED),
    "palette, a table": (lambda: stored(palette(), transparency=b"\0\xff"), RED),
    "GIF": (lambda: stored(palette(), "GIF", transparency=0), RED),
    "WebP": (lambda: stored(RGBA, "WEBP", lossless=True), RED),
    "ICO": (lambda: stored(RGBA.resize((16, 16), 0), "ICO"), RED),
    "TIFF": (lambda: stored(RGBA, "TIFF"), RED),
    "RGB, a colour": (lambda: stored(framed("RGB", BLACK, RED), transparency=BLACK), RED),
    "RGB, a colour, in memory": (lambda: with_colour(framed("RGB", BLACK, RED), BLACK), RED),
    "L, a level": (lambda: stored(framed("L", 3, 128), transparency=3), GREY),
    "1, black": (lambda: stored(framed("1", 0, 1), transparency=0), WHITE),
    "1, white": (lambda: stored(framed("1", 1, 0), transparency=1), BLACK),
    "16 bits, a level": (lambda: stored(sixteen(), transparency=7), GREY),
    "I, a level": (lambda: with_colour(Image.fromarray(np.array(sixteen(), dtype=np.int32)), 7), GREY),
}


def sixteen() -> Image.Image:
    values = np.full((12, 16), 7, dtype=np.uint16)
    values[3:9, 4:12] = 128 * 257
    return Image.fromarray(values)


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_transparent_is_white(name):
    make, full = CLEAR[name]
    assert corners(make()) == (WHITE, full)


@pytest.mark.parametrize("bits, level", [(2, 1), (4, 1), (4, 14)])
def test_a_transparent_level_of_few_bits(bits, level):
    """Pillow scales the pixels of such a PNG and not the level."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = level * 0b01010101 if bits == 2 else level * 0b00010001
    head = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    rows = (b"\0" + bytes([row]) * bits) * 4 + (b"\0" + bytes(bits)) * 4
    parts = chunk(b"IHDR", head), chunk(b"tRNS", struct.pack(">H", level)), chunk(b"IDAT", zlib.compress(rows))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")
    flat = flattened(Image.open(io.BytesIO(png)))
    assert flat.getpixel((0, 0)) == WHITE and flat.getpixel((0, 7)) == BLACK


@pytest.mark.parametrize("colour", [None, "red", b"", b"\0" * 900, (1, 2), 5.5, -1, 10**6, (300, 0, 0), ...], ids=repr)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "I", "F", "I;16", "CMYK"])
def test_a_transparent_colour_that_is_none_is_left_out(mode, colour):
    image = with_colour(Image.new(mode, (8, 8)), colour)
    assert flattened(image).size == (8, 8)


@pytest.mark.parametrize("mode", ["HSV", "YCbCr", "LAB", "CMYK", "RGBX", "P"])
def test_other_colours(mode):
    colour = Image.new("RGB", (8, 8), (200, 60, 30))
    flat = flattened(colour.convert(mode)).getpixel((4, 4))
    assert max(abs(a - b) for a, b in zip(flat, (200, 60, 30), strict=True)) <= 26  # a palette of 6 levels each


def floats(*values: float) -> Image.Image:
    return Image.fromarray(np.tile(np.array(values, dtype=np.float32), (4, 1)))


RAMP = np.linspace(0, 1, 64)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: floats(*RAMP), RAMP),
        (lambda: floats(*RAMP * 255), RAMP),
        (lambda: floats(*RAMP * 65535), RAMP),
        (lambda: floats(*RAMP * 2 - 1), RAMP),
        (lambda: floats(*RAMP * 4), (RAMP * 4).clip(0, 1)),  # highlights over white
        (lambda: floats(*RAMP * 1500.5), RAMP),  # heights
        (lambda: floats(*RAMP * 0.4), RAMP * 0.4),
        (lambda: floats(*RAMP[:-1], np.inf), RAMP),
        (lambda: floats(np.nan, *RAMP[1:]), RAMP),
        (lambda: stored(floats(*RAMP), "TIFF"), RAMP),
        (lambda: stored(floats(*RAMP), "TIFF", compression="tiff_lzw"), RAMP),
        (lambda: stored(floats(*RAMP * 255), "TIFF", compression="tiff_adobe_deflate"), RAMP),
        (lambda: Image.fromarray(np.tile((RAMP * 255).astype(np.int32), (4, 1))), RAMP),
        (lambda: Image.fromarray(np.tile((RAMP * 65535).astype(np.int32), (4, 1))), RAMP),
        (lambda: Image.fromarray(np.tile((RAMP * 2**30).astype(np.int32), (4, 1))), RAMP),
        (lambda: stored(Image.fromarray(np.tile((RAMP * 2**30).astype(np.int32), (4, 1))), "TIFF"), RAMP),
        (lambda: stored(Image.fromarray(np.tile((RAMP * 65535).astype(np.uint16), (4, 1))), "TIFF"), RAMP),
    ],
)
def test_numbers_are_read_by_their_range(make, expected):
    levels = np.asarray(flattened(make()), dtype=np.float32)[0, :, 0] / 255
    assert np.abs(levels - expected).max() < 0.02


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_sixteen_bits_of_every_order(mode):
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (4, 2), np.full(8, 100 * 257).astype(order).tobytes())
    assert flattened(image).getpixel((1, 1)) == (100, 100, 100)


@pytest.mark.parametrize("values", [[0.0] * 8, [np.nan] * 8, [np.inf] * 8, [-5.0] * 8, [1e38, -1e38] * 4], ids=repr)
def test_odd_floats_are_a_picture_too(values):
    assert flattened(floats(*values)).size == (8, 4)


def wide_gamut() -> bytes:
    """A profile with green and red swapped, so that one sees whether it is followed."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(raw[128:132], "big")
    places = {bytes(raw[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    raw[red : red + 4], raw[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(raw)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_colour_profile_becomes_srgb(form):
    options = {"quality": 100} | ({"lossless": True} if form == "WEBP" else {})
    image = stored(Image.new("RGB", (32, 32), (230, 20, 20)), form, icc_profile=wide_gamut(), **options)
    red, green, blue = flattened(image).getpixel((9, 9))
    assert green > 200 and red < 60 and blue < 60


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_profile_beside_transparency(mode):
    image = framed("RGBA", (0, 0, 0, 0), (230, 20, 20, 255))
    image = stored(image.quantize(4) if mode == "P" else image, icc_profile=wide_gamut())
    clear, (red, green, _) = corners(image)
    assert clear == WHITE and green > 200 and red < 60


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "LAB", "F", "I;16", "1", "YCbCr"])
@pytest.mark.parametrize(
    "profile",
    [
        b"",
        b"no profile",
        bytes(2_000_000),
        wide_gamut()[:300],
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes(),
        "text",
        None,
        7,
    ],
    ids=["empty", "words", "zeros", "cut", "of LAB", "of XYZ", "text", "none", "a number"],
)
def test_a_profile_that_is_none_is_ignored(mode, profile):
    image = Image.new(mode, (8, 8), 1)
    expected = flattened(image).tobytes()
    image.info["icc_profile"] = profile
    if mode != "LAB":  # whose own profile is a right one
        assert flattened(image).tobytes() == expected


def test_srgb_changes_no_number():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    tagged = image.copy()
    tagged.info["icc_profile"] = srgb()
    assert flattened(tagged).tobytes() == image.tobytes()


@pytest.mark.parametrize("name", CLEAR)
def test_flattening_twice_is_flattening_once(name):
    once = flattened(CLEAR[name][0]())
    assert flattened(once).tobytes() == once.tobytes()


def test_damaged_profiles_do_not_blacken_a_picture():
    """Mutated, cut and blanked profiles: each is followed or ignored, and nothing is raised."""
    draw, good = np.random.default_rng(3), wide_gamut()
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for _ in range(300):
        raw = bytearray(good)
        for place in draw.integers(0, len(raw), draw.integers(1, 20)):
            raw[place] = draw.integers(0, 256)
        image.info["icc_profile"] = bytes(raw)
        assert np.ptp(np.asarray(flattened(image))) > 16
