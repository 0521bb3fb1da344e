"""Which kind of shape each token of an image shows, for training."""

from PIL import Image

from tools.demo.scenes import KINDS, Scene, outline

LEAST_COVER = 20  # of 255; what covers less of a cell is not seen in it


def kinds_in_cells(scene: Scene, size: tuple[int, int], side: int) -> list[int]:
    """The kind of the shape that covers most of each cell of a picture, row by row: 1 is the first kind, 0 none.

    size: (width, height) of the picture, and side of a cell, in pixels.
    """
    width, height = size
    count = (width // side) * (height // side)
    found, most = [0] * count, [LEAST_COVER] * count
    for shape in scene.shapes:
        mask, corner = outline(shape, width, height)
        whole = Image.new("L", size)
        whole.paste(mask, corner)
        for cell, cover in enumerate(whole.reduce(side).tobytes()):
            if cover > most[cell]:
                found[cell], most[cell] = KINDS.index(shape.kind) + 1, cover
    return found
