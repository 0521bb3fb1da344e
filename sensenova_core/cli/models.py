"""Which folder `--model` means."""

from pathlib import Path

from ..errors import CheckpointError

DEFAULT_MODEL = "SenseNova/SenseNova-U1-8B-MoT"


def add_model_option(parser) -> None:
    parser.add_argument(
        "--model",
        "--model-path",
        default=DEFAULT_MODEL,
        metavar="PATH",
        help=f"checkpoint folder, or a hub id that has been downloaded already (default: {DEFAULT_MODEL})",
    )


def resolve_model(model: str) -> Path:
    """A folder as it is; a hub id as its folder in the local hub cache. Never downloads; raises CheckpointError."""
    path = Path(model).expanduser()
    if path.exists() or model.count("/") != 1 or model.startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"{model}: no such folder, and nothing under that id in the local hub cache; "
            f"give a folder with --model, or run: hf download {model}"
        ) from error
