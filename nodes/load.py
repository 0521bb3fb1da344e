"""The Loader."""

from comfy_api.latest import io

from ..sensenova_core import load
from ..sensenova_core.hub.download import DEFAULT_MODEL
from ..sensenova_core.model.devices import DTYPES
from ..sensenova_core.report.profile import Profile
from ..sensenova_core.settings import BACKENDS, SIZE_UNITS, VRAM_MODES
from . import folders, runtime
from .sockets import CATEGORY, Model


def checkpoint_input() -> io.Combo.Input:
    """The list of checkpoints, refreshed whenever the graph editor asks."""
    return io.Combo.Input(
        "checkpoint",
        options=folders.checkpoint_choices(),
        default=folders.AUTOMATIC,
        tooltip="A SenseNova-U1 or U1.5 checkpoint inside models/sensenova, diffusion_models, unet or checkpoints: a "
        "folder (config.json, *.safetensors, tokenizer files), or a single .safetensors or .gguf file with a folder of "
        "tokenizer files beside it. Press R to refresh the list. automatic: the first that is there, or else the "
        "built-in demo, a tiny model that knows simple shapes and colours.",
    )


class Loader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreLoader",
            display_name="SenseNova U1 Loader",
            category=CATEGORY,
            description="Loads one SenseNova-U1 or U1.5 checkpoint for every task. Files are checked in full before "
            "any weight is read, and weights go straight from the files to where they run.",
            search_aliases=["sensenova", "u1", "u1.5", "neo"],
            inputs=[
                checkpoint_input(),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *DTYPES],
                    default="auto",
                    tooltip="What the weights run in. auto: as stored (bfloat16 in the published checkpoints), or "
                    "bfloat16 where they are packed, as in GGUF and FP8 files; float32 on a device without bfloat16. "
                    "float32 is exact and takes twice the memory.",
                ),
                io.Combo.Input(
                    "vram_mode",
                    options=list(VRAM_MODES),
                    default="auto",
                    tooltip="Where weights live; pictures are the same in every mode. auto: as many layers stay on "
                    "the card as ComfyUI has memory for, the others stream while it computes. full: the expert in use "
                    "stays (17 GB for the 8B models). balanced: all layers stream through three buffers (3 GB in all). "
                    "low: through two.",
                ),
                io.String.Input(
                    "max_memory",
                    default="auto",
                    tooltip="What all of it may take of the card, such as 13GiB; with cpu=24GiB also of page-locked "
                    f"system memory: 0=13GiB,cpu=24GiB. In {SIZE_UNITS}. auto: what ComfyUI has free.",
                ),
                io.Combo.Input(
                    "attention",
                    options=list(BACKENDS),
                    default="auto",
                    advanced=True,
                    tooltip="auto and sdpa: torch's own attention. flash: the flash-attn package, which must be "
                    "installed; float16 or bfloat16 on NVIDIA cards only.",
                ),
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
                    tooltip="What to download, as OWNER/NAME. Nothing is ever fetched while download is off.",
                ),
            ],
            outputs=[Model.Output(display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, checkpoint):
        """In place of ComfyUI's own check of the list: what is not there may be downloaded.

        Else `execute` says where it belongs. The graph editor would hide that behind an icon if it were said here.
        """
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint, download=False, repo=DEFAULT_MODEL, **kwargs):
        return folders.fingerprint_of(checkpoint, repo if download else "")

    @classmethod
    def execute(
        cls, checkpoint, dtype, vram_mode, max_memory, attention, download=False, repo=DEFAULT_MODEL
    ) -> io.NodeOutput:
        name = folders.checkpoint_meant(checkpoint)
        if download and not folders.is_there(checkpoint):
            path = folders.downloaded(checkpoint, repo)
            name = path.name if checkpoint == folders.AUTOMATIC else name
        else:
            path = folders.checkpoint_path(name)
        loading = Profile(runtime.torch_device())
        with loading.loading():
            engine = load(
                path,
                device=runtime.torch_device(),
                dtype=runtime.weight_dtype(dtype),
                vram_mode=vram_mode,
                max_memory=max_memory,
                attention=attention,
                place=False,
            )
        runtime.tell(f"Model: {name}\n{engine.checkpoint.found()}")
        return io.NodeOutput(runtime.LoadedEngine(engine, loading))
