"""The Chinese of the nodes and of their pages.

    python -m tools.translations [--server URL]     write locales/zh and README_CN's tables; print what is missing
    python -m tools.translations add FILLED.json    take in what was missing, filled in
    python -m tools.translations changed PAGE       what changed in an English page since it was translated
    python -m tools.translations accept PAGE ...    its Chinese page is up to date again

zh.json beside this file has the Chinese of each English string. What the nodes say now is asked of a running ComfyUI,
or of one that is started for it (COMFYUI_PATH). An English string that is new or was changed is printed as JSON to be
filled in; a Chinese one whose English is gone leaves zh.json, and is printed as well.
"""

import argparse
import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live import comfyui
from tools import readme_tables
from tools.translations import pages, strings


@contextmanager
def running() -> Iterator[str]:
    """The address of a ComfyUI with this pack."""
    installation = comfyui.find()
    if installation is None:
        sys.exit(comfyui.NOT_FOUND)
    with tempfile.TemporaryDirectory() as base:
        comfyui.prepare_base(installation, Path(base))
        with comfyui.Server(installation, Path(base)) as server:
            yield server.url


def nodes_of(url: str) -> strings.Nodes:
    with urllib.request.urlopen(f"{url}/object_info") as answer:
        nodes = json.load(answer)
    module = f"custom_nodes.{comfyui.PACK}"
    return {id: node for id, node in nodes.items() if node["python_module"] == module}


def write(nodes: strings.Nodes) -> bool:
    """Write everything, and print what is missing and what is gone; returns whether all is there."""
    known, english = strings.chinese(), strings.english(nodes)
    missing = {text: "" for text in english if text not in known}
    gone = {text: known[text] for text in known.keys() - {*english}}
    _keep({text: known[text] for text in english if text in known})
    for name, contents in strings.files(nodes, lambda text: known.get(text, text)).items():
        strings.LOCALE.mkdir(parents=True, exist_ok=True)
        (strings.LOCALE / name).write_text(strings.written(contents), encoding="utf-8")
    readme_tables.write()
    if gone:
        print("gone, and taken out of zh.json:", strings.written(gone), file=sys.stderr)
    for remedy in pages.stale().values():
        print(remedy, file=sys.stderr)
    print(strings.written(missing), end="")
    return not missing and not pages.stale()


def add(filled: Path) -> None:
    given = json.loads(filled.read_text(encoding="utf-8"))
    _keep(strings.chinese() | {text: said for text, said in given.items() if said})


def _keep(translations: dict[str, str]) -> None:
    strings.CHINESE.write_text(strings.written(translations), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", metavar="URL", help="a ComfyUI that runs with this pack")
    parser.add_argument("what", nargs="?", choices=["add", "changed", "accept"])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    options = parser.parse_args()
    for file in options.files:
        if options.what == "add":
            add(file)
        elif options.what == "changed":
            print(pages.changed(file.resolve()), end="")
        else:
            pages.accept(file.resolve())
    if options.what in ("changed", "accept"):
        return 0
    if options.server:
        return not write(nodes_of(options.server))
    with running() as url:
        return not write(nodes_of(url))


if __name__ == "__main__":
    sys.exit(main())
