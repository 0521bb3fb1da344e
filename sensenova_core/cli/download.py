"""`sensenova download`: fetch a model's files from the hub."""

import os
from pathlib import Path

from ..hub.family import DEFAULT_MODEL, REPOSITORIES
from .models import COMFYUI_MODELS


def add_parser(commands) -> None:
    parser = commands.add_parser("download", help="fetch a model from the Hugging Face hub")
    parser.add_argument("repo", nargs="?", default=DEFAULT_MODEL, help=f"OWNER/NAME (default: {DEFAULT_MODEL})")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="where its files go (default: models/sensenova/NAME of the ComfyUI that COMFYUI_PATH names, of LoRAs "
        "models/sensenova/loras/NAME, else the hub's cache)",
    )
    parser.add_argument("--revision", help="branch, tag or commit (default: the newest)")
    parser.add_argument("--tokenizer-only", action="store_true", help="the few MB that a single-file checkpoint needs")
    parser.add_argument("--list", action="store_true", help="only say which repositories there are; asks nobody")
    parser.add_argument("--file", metavar="NAME", help="of several .gguf or .safetensors files, this one")
    parser.set_defaults(run=run)


def run(options) -> int:
    if options.list:
        width = max(map(len, REPOSITORIES))
        print(*(f"{repo:<{width}}  {holds}" for repo, holds in REPOSITORIES.items()), sep="\n")
        return 0
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
    loras = "loras" if "lora" in name.lower() else ""
    return Path(os.environ["COMFYUI_PATH"]).expanduser() / COMFYUI_MODELS / loras / name
