"""The size that is drawn unless told otherwise: what the model draws best."""

from ..reading.images import smart_resize
from ..settings import BEST_AREA, DOCUMENT_AREA


def edit_size(width: int, height: int, best_area: int = BEST_AREA) -> tuple[int, int]:
    """(width, height) that an edit of such a picture is drawn at: its ratio, at the area that the model draws best."""
    rows, columns = smart_resize(height, width, 32, limits=(best_area, best_area))
    return columns, rows


def document_size(width: int, height: int, best_area: int = BEST_AREA) -> tuple[int, int]:
    """(width, height) that a document's pictures are drawn at when it starts from such a picture."""
    limits = min(512 * 512, best_area), min(2_097_152, best_area)
    rows, columns = smart_resize(height, width, 32, limits=limits)
    return columns, rows


def best_size(
    best_area: int = BEST_AREA, *, image: tuple[int, int] | None = None, document: bool = False
) -> tuple[int, int]:
    """(width, height) that is drawn unless told otherwise: what the model draws best.

    image: (width, height) of the first reference, whose ratio it takes; without one it is a square.
    document: whether it is for the pictures of a document.
    """
    if image is not None:
        return (document_size if document else edit_size)(*image, best_area)
    return edit_size(1, 1, min(best_area, DOCUMENT_AREA) if document else best_area)
