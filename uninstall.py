"""Take back what this pack put outside of its own folder: the three example pictures in ComfyUI's input folder.

ComfyUI-Manager runs this before it removes a clone; otherwise: python uninstall.py [INPUT_FOLDER]. Pictures that were
changed stay, and so does all that users made or fetched.
"""

import sys
from pathlib import Path

PACK = Path(__file__).absolute().parent
EXAMPLES = PACK / "workflows" / "pictures"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PACK.parents[1] / "input"
    for picture in EXAMPLES.glob("*.png"):
        copy = folder / picture.name
        if copy.is_file() and copy.read_bytes() == picture.read_bytes():
            copy.unlink()
            print("removed", copy)


if __name__ == "__main__":
    main()
