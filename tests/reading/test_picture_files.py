"""Picture files as people have them: how they are named, what they are, and what is wrong with them."""

import io
import json
import logging
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from sensenova_core import PromptError
from sensenova_core.cli.models import open_images
from sensenova_core.reading import picture_files
from sensenova_core.reading.images import flattened, seeds_of
from sensenova_core.reading.picture_files import open_picture, shown, text_of

SIZE = (40, 24)
ODD_NAME = os.fsdecode(b"caf\xe9.png")


def saved(path: Path, form: str = "PNG", image: Image.Image | None = None, **options) -> Path:
    (image or Image.new("RGB", SIZE, "red")).save(path, form, **options)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(path: Path, *chunks: bytes) -> Path:
    """A PNG with more chunks after its header."""
    content = saved(path).read_bytes()
    path.write_bytes(content[:33] + b"".join(chunks) + content[33:])
    return path


def refusal(path) -> str:
    with pytest.raises(PromptError) as caught:
        open_picture(path)
    text = str(caught.value)
    assert text.startswith("image ") and "\n" not in text and len(text) < 400 and ";" in text
    text.encode("utf-8")
    return text


@pytest.mark.parametrize(
    "written",
    [
        "{folder}/my cat (1).png",
        "  {folder}/my cat (1).png ",
        "'{folder}/my cat (1).png'",
        '"{folder}/my cat (1).png"',
        "\u201c{folder}/my cat (1).png\u201d",
        "{folder}/my\\ cat\\ \\(1\\).png",
        "file://{folder}/my%20cat%20(1).png",
        "file://localhost{folder}/my%20cat%20%281%29.png",
        "~/my cat (1).png",
        "~/my\\ cat\\ (1).png",
        "'~/my cat (1).png'",
        "{folder}/sub\\deep cat.png",
        "{folder}\\sub\\deep cat.png",
    ],
)
def test_every_way_to_write_a_path(tmp_path, monkeypatch, written):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sub").mkdir()
    saved(tmp_path / "my cat (1).png")
    saved(tmp_path / "sub" / "deep cat.png")
    [image] = open_images([written.format(folder=tmp_path)])
    assert image.size == SIZE


@pytest.mark.parametrize("name", ["'quoted'.png", "~", "a\\ b.png", "file:x.png", " spaces .png", "%20.png", "-x.png"])
def test_a_name_that_is_there_is_taken_as_it_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / name)
    assert open_picture(name).size == SIZE


def test_a_name_that_is_not_utf_8(tmp_path):
    assert open_picture(str(saved(tmp_path / ODD_NAME))).size == SIZE
    assert "caf\ufffd.gif" in refusal(str(tmp_path / "caf\udce9.gif"))
    (tmp_path / ODD_NAME).write_bytes(b"nothing")
    assert "caf\ufffd.png" in refusal(str(tmp_path / ODD_NAME))


@pytest.mark.parametrize(
    "name", ["", "gone.png", "gone/gone.png", "a" * 5000, "a\0b.png", "\udcff", "file://", "~nobody/x"]
)
def test_what_is_not_there(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PromptError, match="give the path of a picture file"):
        open_picture(name)


def test_long_names_are_cut():
    assert shown("x" * 300 + ".png") == "\u2026" + "x" * 95 + ".png"
    assert shown("a\nb\x1b.png") == "a\ufffdb\ufffd.png"


def test_a_folder(tmp_path):
    assert "it is a folder" in refusal(tmp_path)


def test_a_named_pipe(tmp_path):
    pipe, content = tmp_path / "pipe", saved(tmp_path / "a.png").read_bytes()
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    assert open_picture(str(pipe)).size == SIZE
    writer.join()


def test_a_pipe_without_end(monkeypatch):
    monkeypatch.setattr(picture_files, "MAX_BYTES", 2**20)
    assert "sends more than" in refusal("/dev/zero")
    assert "it is empty" in refusal("/dev/null")


@pytest.mark.parametrize("name", ["/dev/stdin", "-"])
def test_standard_input_is_read_once_for_size_and_picture(tmp_path, name):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "sensenova_core", "generate", "--model", "demo", "--num-steps", "1"]
    command += ["--max-pixels", "4096", "--same-size", "--image", name, "--output", str(tmp_path / "out.png")]
    picture = saved(tmp_path / "a.png", image=Image.new("RGB", (64, 32))).read_bytes()
    done = subprocess.run(command, input=picture, capture_output=True, cwd=root, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (64, 32)


NOT_READ = {
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "phone.jpg": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
    "new.avif": (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "AVIF"),
    "a.jxl": (b"\xff\x0a\xfa\x7f", "JPEG XL"),
    "b.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "a.psb": (b"8BPS\0\2\0\0", "Photoshop"),
    "a.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera's raw"),
    "a.nef": (b"MM\0*\0\0\0\x08", "camera's raw"),
    "a.raf": (b"FUJIFILMCCD-RAW 0201", "camera's raw"),
    "a.svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "b.svg": (b"\xef\xbb\xbf<svg width='3'>", "SVG"),
    "a.pdf": (b"%PDF-1.7\n", "PDF"),
    "a.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "a.exr": (b"v/1\x01\2\0\0\0", "OpenEXR"),
    "a.hdr": (b"#?RADIANCE\n", "Radiance"),
    "a.dpx": (b"SDPX\0\0\x20\0", "DPX"),
    "a.mp4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video"),
    "a.mkv": (b"\x1aE\xdf\xa3\1\0\0\0", "a video"),
    "a.xcf": (b"gimp xcf v011\0", "GIMP"),
    "a.zip": (b"PK\x03\x04\x14\0", "archive"),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_not_read_is_named_with_what_to_do(tmp_path, name):
    content, kind = NOT_READ[name]
    (tmp_path / name).write_bytes(content + bytes(200))
    text = refusal(tmp_path / name)
    assert kind in text and "save it as PNG or JPEG" in text and "download" not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty; copy or download it again"),
        (b"<!DOCTYPE html><html>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"a text about a cat", "it is no picture file; give a PNG"),
        (bytes(5000), "it is no picture file"),
    ],
)
def test_what_is_no_picture(tmp_path, content, words):
    (tmp_path / "x.png").write_bytes(content)
    assert words in refusal(tmp_path / "x.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_a_picture_that_ends_early(tmp_path, form, part):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    content = saved(tmp_path / "a", form, noise).read_bytes()
    (tmp_path / "a").write_bytes(content[: int(len(content) * part)])
    assert "copy or download it again" in refusal(tmp_path / "a")


def test_floats_of_several_channels_are_named(tmp_path):
    tags = [(256, 4, 8), (257, 4, 8), (258, 3, 32), (259, 3, 1), (262, 3, 2), (273, 4, 8), (277, 3, 3), (278, 4, 8)]
    tags += [(279, 4, 768), (339, 3, 3)]
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    (tmp_path / "a.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 8 + 768) + bytes(768) + directory + bytes(4))
    assert "a TIFF of 3 channels of 32-bit floats, which is not read; save it with 8 or 16 bits" in refusal(
        tmp_path / "a.tif"
    )


def test_a_camera_s_thumbnail_is_not_taken_for_its_picture(tmp_path):
    ifd = TiffImagePlugin.ImageFileDirectory_v2()
    ifd[50706] = b"\1\4\0\0"
    ifd.tagtype[50706] = 1
    for name in ("a.dng", "b.tif"):
        saved(tmp_path / name, "TIFF", tiffinfo=ifd)
        assert "a camera's raw file" in refusal(tmp_path / name)
    saved(tmp_path / "c.arw", "TIFF")
    assert "a camera's raw file" in refusal(tmp_path / "c.arw")


def turned(path: Path, form: str, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", SIZE, "blue")
    image.paste("red", (0, 0, 20, 12))
    return saved(path, form, image, exif=exif, **({"quality": 100} if form == "JPEG" else {}))


CORNERS = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_photos_stand_upright(tmp_path, form, orientation):
    image = open_picture(turned(tmp_path / "a", form, orientation)).convert("RGB")
    assert image.size == (SIZE if orientation < 5 else SIZE[::-1])
    right, down = CORNERS[orientation]
    red, _, blue = image.getpixel((right * (image.width - 3) + 1, down * (image.height - 3) + 1))
    assert red > 200 and blue < 50


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none(tmp_path, orientation):
    assert open_picture(turned(tmp_path / "a", "JPEG", orientation)).size == SIZE


def test_several_frames_are_said_once(tmp_path, caplog):
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue")]
    with caplog.at_level(logging.INFO):
        for form in ("GIF", "PNG", "TIFF", "WEBP"):
            path = saved(tmp_path / f"a.{form}", form, frames[0], save_all=True, append_images=frames[1:])
            red, _, blue = open_picture(path).convert("RGB").getpixel((3, 3))
            assert red > 240 and blue < 20
            open_picture(path)
            assert caplog.text.count(f"a.{form}: it holds several frames or pages; the first is read") == 1


def test_what_holds_several_pictures_of_one(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        big = Image.new("RGB", (64, 64), "red")
        assert open_picture(saved(tmp_path / "a.ico", "ICO", big, sizes=[(16, 16), (64, 64)])).size == (64, 64)
        assert open_picture(saved(tmp_path / "a.mpo", "MPO", big, save_all=True, append_images=[big])).size == (64, 64)
    assert "several" not in caplog.text


EXTRAS = {
    "long": [chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 3_000_000))],
    "endless": [chunk(b"zTXt", b"a%d\0\0" % n + zlib.compress(bytes(2**25))) for n in range(4)],
    "bomb": [chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2**27)))],
    "nested": [chunk(b"tEXt", b"prompt\0" + b"[" * 200_000)],
    "nested objects": [chunk(b"tEXt", b"sensenova\0" + b'{"a":' * 200_000)],
    "large profile": [chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(3_000_000)))],
    "huge profile": [chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2**27)))],
    "profile's method": [chunk(b"iCCP", b"p\0\7" + b"1234")],
    "empty profile": [chunk(b"iCCP", b"")],
    "wrong sum": [chunk(b"tEXt", b"a\0b")[:-4] + b"1234"],
    "short": [chunk(b"gAMA", b"\0"), chunk(b"cHRM", b""), chunk(b"pHYs", b"1")],
    "exif": [chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")],
    "digits": [chunk(b"tEXt", b'sensenova\0{"seed": ' + b"9" * 9000 + b"}")],
}


@pytest.mark.parametrize("name", EXTRAS)
def test_extras_of_a_png_do_not_keep_it_from_being_read(tmp_path, name):
    path = with_chunks(tmp_path / "a.png", *EXTRAS[name])
    image = open_picture(path)
    assert flattened(image).getpixel((1, 1)) == (255, 0, 0)
    assert isinstance(seeds_of(image), frozenset) and isinstance(text_of(path), dict)


def test_a_long_graph_still_tells_its_seed(tmp_path):
    node = {"class_type": "SenseNovaCoreFlowMatchSampler", "inputs": {"seed": 7, "note": "x" * 2_000_000}}
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps({"1": node}), zip=True)
    path = saved(tmp_path / "a.png", pnginfo=info)
    assert seeds_of(open_picture(path)) == {7} and "prompt" in text_of(path)


@pytest.mark.parametrize(
    "value", [b"7", 7, [], {}, "null", "true", '{"seed": true}', '[{"seed": 1}]', "\ud800"], ids=repr
)
@pytest.mark.parametrize("key", ["prompt", "sensenova"])
def test_metadata_of_any_type(key, value):
    image = Image.new("RGB", (4, 4))
    image.info[key] = value
    assert seeds_of(image) == frozenset()


@pytest.mark.parametrize("name", [*NOT_READ, "gone.png", "a\0.png"])
def test_metadata_of_what_is_no_picture(tmp_path, name):
    if name in NOT_READ:
        (tmp_path / name).write_bytes(NOT_READ[name][0])
    assert text_of(tmp_path / name) == {}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "MPO", "GIF"])
def test_damage_before_the_pixels(tmp_path, form):
    """Flipped bytes: the picture, or one sentence; what is shown by Pillow opens here as well."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 1, "Maker"
    content = saved(tmp_path / "a", form, **({} if form == "GIF" else {"exif": exif})).read_bytes()
    draw, opened = np.random.default_rng(5), 0
    for _ in range(150):
        raw = bytearray(content)
        for place in draw.integers(0, min(len(raw), 300), draw.integers(1, 5)):
            raw[place] = draw.integers(0, 256)
        (tmp_path / "b").write_bytes(raw)
        try:
            open_picture(tmp_path / "b")
            opened += 1
        except PromptError as error:
            assert "image " in str(error) and ";" in str(error) and not pillow_shows(bytes(raw))
    assert opened


def pillow_shows(content: bytes) -> bool:
    """Whether Pillow alone reads it as a picture of the usual size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        except Exception:
            return False
    return image.size == SIZE


def test_a_photo_of_180_megapixels(tmp_path):
    path = saved(tmp_path / "a.png", image=Image.new("L", (13_500, 13_300), 90))
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture(path).size == (13_500, 13_300)
    assert before == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK)
    assert text_of(path) == {}


@pytest.mark.parametrize("size", [(30_000, 30_000), (100_000, 99_999), (2**31 - 1, 2**24)])
def test_larger_ones_are_refused_before_they_are_decoded(tmp_path, size):
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert "over 536 million; scale it down first" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1)])
def test_pictures_of_one_pixel(engines, tmp_path, size):
    image = open_picture(saved(tmp_path / "a.png", image=Image.new("P", size)))
    [read] = engines("tiny-u15").encode("x", [image]).images
    assert read.original == size


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_pictures_without_pixels(engines, tmp_path, size):
    with pytest.raises(PromptError, match="has no pixels; give a picture that has some"):
        engines("tiny-u15").encode("x", [Image.new("RGB", size)])
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    refusal(tmp_path / "a.png")


def test_a_file_that_python_callers_opened_is_refused_in_words(engines, tmp_path):
    content = saved(tmp_path / "a.jpg", "JPEG", Image.effect_noise((300, 300), 90)).read_bytes()
    image = Image.open(io.BytesIO(content[: len(content) // 2]))
    with pytest.raises(PromptError, match="Image-2 cannot be decoded"):
        engines("tiny-u15").encode("x", [Image.new("RGB", (64, 64)), image])
