"""`sensenova download`: fetch a model's files from the hub."""

import os
from pathlib import Path

from ..hub.download import DEFAULT_MODEL
from .models import COMFYUI_MODELS


def add_parser(commands) -> None:
    parser = commands.add_parser("download", help="fetch a model from the Hugging Face hub")
    parser.add_argument("repo", nargs="?", default=DEFAULT_MODEL, help=f"OWNER/NAME (default: {DEFAULT_MODEL})")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="where its files go (default: models/sensenova/NAME of the ComfyUI that COMFYUI_PATH names, else the "
        "hub's cache)",
    )
    parser.add_argument("--revision", help="branch, tag or commit (default: the newest)")
    parser.add_argument("--tokenizer-only", action="store_true", help="the few MB that a single-file checkpoint needs")
    parser.add_argument("--file", metavar="NAME", help="of several .gguf or .safetensors files, this one")
    parser.set_defaults(run=run)


def run(options) -> int:
    from ..hub.download import download

    folder = download(
        options.repo,
        _target(options),
        revision=options.revision,
        tokenizer_only=options.tokenizer_only,
        file=options.file,
    )
    print(folder)
    return 0


def _target(options) -> Path | None:
    from ..hub.download import check_name
    from ..system.paths import path_of

    if options.to is not None:
        return path_of(options.to)
    if not os.environ.get("COMFYUI_PATH"):
        return None
    name = "tokenizer" if options.tokenizer_only else check_name(options.repo)
    return Path(os.environ["COMFYUI_PATH"]).expanduser() / COMFYUI_MODELS / name
