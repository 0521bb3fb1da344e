"""LoRAs."""

from comfy_api.latest import io

from ..sensenova_core.lora.presets import mismatch, preset_of
from . import folders
from .door import checked
from .progress import show_text, warn
from .sockets import CATEGORY, Model, Preset


class Lora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SenseNovaCoreLora",
            display_name="SenseNova U1 LoRA",
            category=CATEGORY,
            description="Adds a LoRA to a model, as many after one another as you like. Weights are changed as they "
            "run and never where they lie: another strength loads nothing, and off is exactly the model as it was. In "
            "place of ComfyUI's own Load LoRA, which cannot change this model, also before To ComfyUI.",
            search_aliases=["lora", "8-step", "adapter"],
            inputs=[
                Model.Input("model", tooltip="From the Loader or another LoRA."),
                io.Combo.Input(
                    "lora_name",
                    options=folders.lora_choices() or [folders.NO_LORA],
                    tooltip="A .safetensors LoRA of this model inside models/sensenova/loras or models/loras. Press R "
                    "to refresh the list.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="1 is as it was trained, 0 is off, less than 0 is its opposite.",
                ),
            ],
            outputs=[
                Model.Output(
                    display_name="model", tooltip="The same model with this LoRA, for any node, another LoRA included."
                ),
                Preset.Output(
                    display_name="preset",
                    tooltip="For the sampler and Interleave: 8 steps, cfg 1, shift 3 after an 8-step LoRA (as its "
                    "metadata or its name say it is) at a strength over 0; else nothing.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name, **others):
        return folders.lora_fingerprint(lora_name)

    @classmethod
    @checked
    def execute(cls, model: Model.Type, lora_name: str, strength: float) -> io.NodeOutput:
        engine = model.engine
        file = folders.lora_path(lora_name)
        lora = engine.read_lora(file)
        changed = model.with_lora(file, strength)
        preset = preset_of((engine.read_lora(path), other) for path, other in changed.loras)
        about = [f"Preset: {preset}"] if preset else []  # first: of a small node's text, only the beginning is seen
        about += [f"changes {len(lora.factors)} weights", *lora.notes]
        if warning := mismatch(lora, engine.config, engine.name):
            warn(warning)
        show_text("\n".join(about))
        return io.NodeOutput(changed, preset)
