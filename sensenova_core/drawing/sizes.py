"""The sizes the published models were trained at, in pixels. Other multiples of a token work, but worse."""

from ..model.config import BEST_AREA
from ..reading.images import smart_resize

# label -> (width, height), for text to image and edits
TRAINED_SIZES = {
    "1:1 2048x2048": (2048, 2048),
    "16:9 2720x1536": (2720, 1536),
    "9:16 1536x2720": (1536, 2720),
    "3:2 2496x1664": (2496, 1664),
    "2:3 1664x2496": (1664, 2496),
    "4:3 2368x1760": (2368, 1760),
    "3:4 1760x2368": (1760, 2368),
    "2:1 2880x1440": (2880, 1440),
    "1:2 1440x2880": (1440, 2880),
    "3:1 3456x1152": (3456, 1152),
    "1:3 1152x3456": (1152, 3456),
}
# U1.5 alone was trained up to areas of 4096 x 4096.
TRAINED_SIZES_U15 = {
    "U1.5 only, 1:1 4096x4096": (4096, 4096),
    "U1.5 only, 16:9 3840x2176": (3840, 2176),
    "U1.5 only, 9:16 2176x3840": (2176, 3840),
}
# For documents of text and pictures.
INTERLEAVE_SIZES = {
    "1:1 1536x1536": (1536, 1536),
    "16:9 2048x1152": (2048, 1152),
    "9:16 1152x2048": (1152, 2048),
    "3:2 1888x1248": (1888, 1248),
    "2:3 1248x1888": (1248, 1888),
    "4:3 1760x1312": (1760, 1312),
    "3:4 1312x1760": (1312, 1760),
    "2:1 2144x1088": (2144, 1088),
    "1:2 1088x2144": (1088, 2144),
    "3:1 2592x864": (2592, 864),
    "1:3 864x2592": (864, 2592),
}


DOCUMENT_AREA = 1536 * 1536


def edit_size(width: int, height: int, best_area: int = BEST_AREA) -> tuple[int, int]:
    """(width, height) that an edit of such a picture is drawn at: its ratio, at the area that the model draws best."""
    rows, columns = smart_resize(height, width, 32, best_area, best_area)
    return columns, rows


def document_size(width: int, height: int, best_area: int = BEST_AREA) -> tuple[int, int]:
    """(width, height) that a document's pictures are drawn at when it starts from such a picture."""
    rows, columns = smart_resize(height, width, 32, min(512 * 512, best_area), min(2_097_152, best_area))
    return columns, rows


def best_size(
    best_area: int = BEST_AREA, image: tuple[int, int] | None = None, document: bool = False
) -> tuple[int, int]:
    """(width, height) that is drawn unless told otherwise: what the model draws best.

    image: (width, height) of the first reference, whose ratio it takes; without one it is a square.
    document: whether it is for the pictures of a document.
    """
    if image is not None:
        return (document_size if document else edit_size)(*image, best_area)
    return edit_size(1, 1, min(best_area, DOCUMENT_AREA) if document else best_area)
