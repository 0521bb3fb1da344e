"""What a file is that Pillow does not open as a picture, told by how it begins, and what to do about it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from PIL import TiffImagePlugin

HEAD = 4096  # bytes that are looked at
CONVERT = "save it as PNG or JPEG, and give that"
AGAIN = "copy or download it again"

_RAW = {"3fr", "arw", "cr2", "cr3", "crw", "dng", "erf", "iiq", "kdc", "mef", "mos", "mrw", "nef", "nrw", "orf", "pef"}
_RAW |= {"raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f"}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": "a camera's raw file"}
_BRANDS |= dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC")
# Beginning -> name.
_NAMES = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "a Photoshop file (PSD) of a kind that is not read",
    b"FUJIFILMCCD-RAW": "a camera's raw file",
    b"IIU\0": "a camera's raw file",
    b"IIRO": "a camera's raw file",
    b"FOVb": "a camera's raw file",
    b"%PDF": "PDF",
    b"%!PS": "a PostScript drawing",
    b"\xc5\xd0\xd3\xc6": "a PostScript drawing",
    b"\xd7\xcd\xc6\x9a": "a Windows drawing (WMF)",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"SDPX": "DPX",
    b"XPDS": "DPX",
    b"gimp xcf": "a GIMP file (XCF)",
    b"II\xbc": "JPEG XR",
    b"\x1aE\xdf\xa3": "a video",
    b"OggS": "a video",
    b"\0\0\x01\xba": "a video",
    b"PK\x03\x04": "a ZIP archive or an application's own file",
    b"Rar!": "an archive",
    b"7z\xbc\xaf": "an archive",
    b"\x1f\x8b": "a compressed file (gzip)",
    b"GGUF": "a GGUF checkpoint",
}
# Pillow reads these: a file that begins so and does not open is damaged, or of an unusual kind.
_PICTURES = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head)", re.IGNORECASE)


def must_not_open(head: bytes) -> bool:
    """Whether Pillow would start another program to read it."""
    return head.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6"))


def what_is(name: str, head: bytes, *, reopened: Callable[[], BinaryIO], error: Exception) -> str:
    """What is wrong with a file of this name and beginning that gave this error, and the remedy."""
    if not head:
        return f"it is empty; {AGAIN}"
    if named := _named(name, head):
        return f"it is {named}, which is not read; {CONVERT}"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS and not the picture itself; fetch it with: git lfs pull"
    if _PAGE.match(head):
        return "it is a web page and no picture; download the picture itself"
    form = next((form for begins, form in _PICTURES.items() if head.startswith(begins)), None)
    if form == "TIFF" and (layout := _layout(head, reopened)):
        return f"it is a TIFF of {layout}, which is not read; save it with 8 or 16 bits"
    if form:
        return f"it is a {form} that is damaged or ends early ({error}); {AGAIN}, or {CONVERT}"
    return "it is no picture file; give a PNG, JPEG, WebP, GIF, TIFF or BMP file"


def _named(name: str, head: bytes) -> str | None:
    suffix = Path(name).suffix.lower().lstrip(".")
    if head[4:8] == b"ftyp":
        brands = {head[place : place + 4] for place in range(8, 64, 4)}
        return next((named for brand, named in _BRANDS.items() if brand in brands), "a video")
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "a video"
    if suffix in _RAW:
        return "a camera's raw file"
    if suffix == "svgz" or (_SVG.search(head) and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")):
        return "SVG, a drawing"
    return next((named for begins, named in _NAMES.items() if head.startswith(begins)), None)


def raw_thumbnail(image) -> bool:
    """Whether what Pillow opened as a TIFF is the small picture in a camera's raw file."""
    if image.format != "TIFF":
        return False
    tags = image.tag_v2
    suffix = Path(str(getattr(image, "filename", ""))).suffix.lower().lstrip(".")
    return suffix in _RAW or 50706 in tags or bool(330 in tags and _number(tags.get(254)) & 1)  # DNG; a thumbnail's IFD


def _layout(head: bytes, reopened: Callable[[], BinaryIO]) -> str | None:
    """A TIFF's channels and their numbers, where these are why it is not read."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head[:8])
        with reopened() as stream:
            stream.seek(tags.next)
            tags.load(stream)
        channels, bits = int(tags.get(277, 1)), int(tags.get(258, (1,))[0])
        kind = {1: "whole numbers", 2: "signed numbers", 3: "floats"}.get(int(tags.get(339, (1,))[0]), "numbers")
    except Exception:  # whatever is wrong with its tags, it is damaged
        return None
    usual = bits in (1, 2, 4, 8, 16) and kind == "whole numbers"
    return None if usual else f"{channels} channel{'s' if channels > 1 else ''} of {bits}-bit {kind}"


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
