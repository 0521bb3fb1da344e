"""The Loader."""

from comfy_api.latest import io

from ..sensenova_core.hub.family import DEFAULT_MODEL
from ..sensenova_core.settings import LoadSettings
from . import folders, host, widgets
from .door import checked
from .loaded import LoadedEngine
from .progress import tell
from .sockets import CATEGORY, Model

# In the order that saved workflows have their values in; settings that are new follow the inputs after them.
LOADING = ("dtype", "vram_mode", "max_memory", "attention")


ABOUT_DEMO = (
    "This is the demo: it knows simple shapes in eight colours at 128 x 128, and nothing else. For a real model put "
    "one into models/sensenova, or switch download on (35 GB)."
)


def checkpoint_input() -> io.Combo.Input:
    """The list of checkpoints, refreshed whenever the graph editor asks."""
    return io.Combo.Input(
        "checkpoint",
        options=folders.checkpoint_choices(),
        default=folders.AUTOMATIC,
        tooltip="A SenseNova-U1, U1.5 or U1.6 checkpoint inside models/sensenova, diffusion_models, unet or "
        "checkpoints: a folder (config.json, *.safetensors, tokenizer files), or a single .safetensors or .gguf file "
        "with a folder of tokenizer files beside it. Press R to refresh the list. automatic: the first that is there, "
        "or else the built-in demo, a tiny model that knows simple shapes and colours.",
    )


class Loader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreLoader",
            display_name="SenseNova U1 Loader",
            category=CATEGORY,
            description="Loads one SenseNova-U1, U1.5 or U1.6 checkpoint for every task. Files are checked in full "
            "before any weight is read, and weights go straight from the files to where they run.",
            search_aliases=["sensenova", "u1", "u1.5", "u1.6", "neo"],
            inputs=[
                checkpoint_input(),
                *widgets.inputs(LoadSettings, LOADING),
                io.Boolean.Input(
                    "download",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="If the checkpoint is not there (or, with automatic, none is), fetch the repository below "
                    "from the Hugging Face hub into models/sensenova: 35 GB for an 8B model. A checkpoint that was "
                    "chosen by name must be that repository. Cancelling keeps what has come, and the next run goes on "
                    "from there.",
                ),
                io.String.Input(
                    "repo",
                    default=DEFAULT_MODEL,
                    optional=True,
                    advanced=True,
                    tooltip="What to download, as OWNER/NAME, or as OWNER/NAME/FILE where a repository holds one model "
                    "in several files, such as a .gguf of each size. Nothing is ever fetched while download is off.",
                ),
                *widgets.further_inputs(LoadSettings, LOADING),
            ],
            outputs=[
                Model.Output(
                    display_name="model",
                    tooltip="For every other node of this pack. For ComfyUI's own samplers it goes through To ComfyUI.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint):
        """In place of ComfyUI's own check of the list: what is not there may be downloaded.

        Else `execute` says where it belongs. The graph editor would hide that behind an icon if it were said here.
        """
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint, *, download=False, repo=DEFAULT_MODEL, **others):
        return folders.fingerprint_of(checkpoint, repo if download else "")

    @classmethod
    @checked
    def execute(
        cls, checkpoint: str, *, download: bool = False, repo: str = DEFAULT_MODEL, **settings: str
    ) -> io.NodeOutput:
        name, path = folders.chosen(checkpoint, repo if download else "")
        model = LoadedEngine.load(path, **settings)
        copies = "".join(f"\nWarning: {words}" for words in host.warnings(__file__))
        about = ABOUT_DEMO if name == folders.BUILT_IN else model.engine.checkpoint.found()
        tell(f"Model: {name}\n{about}{copies}")
        return io.NodeOutput(model)
