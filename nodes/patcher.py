"""How ComfyUI moves an engine's weights, and what its nodes may change of a model that is ours."""

from typing import Any, NoReturn

import comfy.model_patcher
import torch

from ..sensenova_core.errors import SenseNovaError
from .core_conditioning import KEY
from .core_model import EngineModel, FlowSampling, Wire

NO_CORE_LORA = (
    "this MODEL is SenseNova U1's, and ComfyUI's own LoRA nodes cannot change its weights; put the LoRA into SenseNova "
    "U1 LoRA, between the Loader and To ComfyUI"
)


class EnginePatcher(comfy.model_patcher.ModelPatcher):
    """Tells ComfyUI's memory management what an engine has on the device, layer by layer, and gives back what it asks.

    Layers come to the device when a run needs them; loading only says how many may stay. A MODEL is a clone of the one
    that a loaded engine has: with a Wire among its options, and what nodes of ComfyUI have added.
    """

    EVERYTHING = 1e30  # what ComfyUI offers where it sets no limit
    model: EngineModel

    @property
    def wire(self) -> Wire | None:
        return self.model_options["transformer_options"].get(KEY)

    def model_size(self) -> int:
        return max(self.size, self.loaded_size())

    def loaded_size(self) -> int:
        return self.model.engine.memory.residency.nbytes

    def current_loaded_device(self) -> torch.device:
        return self.load_device if self.loaded_size() else self.offload_device

    def get_free_memory(self, device: torch.device) -> float:
        """What samplers split a batch of branches by. The run was planned for all of them: they stay one pass."""
        return self.EVERYTHING

    # The signatures of what follows are ComfyUI's.
    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False) -> int:  # noqa: FBT002
        engine = self.model.engine
        self.unpatch_model(unpatch_weights=False)  # of the clone that was loaded before
        self.patch_model(load_weights=False)
        before = self.loaded_size()
        if self.wire is not None:
            engine.use_loras(self.wire.loras)
            self.size = engine.memory.wanted_bytes
        engine.allow(None if extra_memory >= self.EVERYTHING else int(before + extra_memory))
        engine.place()
        return self.loaded_size() - before

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False) -> int:  # noqa: FBT002
        return self.model.engine.give_back(int(memory_to_free))

    def detach(self, unpatch_all=True):  # noqa: FBT002
        if unpatch_all:  # False is bookkeeping only: ComfyUI asks for it at every repeated load
            self.unpatch_model(unpatch_weights=False)
            self.model.engine.release()
        return self.model

    def cleanup(self) -> None:
        """A sampler is done."""
        super().cleanup()
        self.model.engine.end_guessing()

    def add_object_patch(self, name: str, obj: Any) -> None:
        if name == "model_sampling":
            obj = FlowSampling.of(obj, self.get_model_object(name))
        super().add_object_patch(name, obj)

    def add_patches(self, *_: Any, **__: Any) -> NoReturn:
        raise SenseNovaError(NO_CORE_LORA)

    def add_hook_patches(self, *_: Any, **__: Any) -> NoReturn:
        raise SenseNovaError(NO_CORE_LORA)

    def get_key_patches(self, filter_prefix: str | None = None) -> NoReturn:
        raise SenseNovaError("this MODEL is SenseNova U1's, whose weights ComfyUI's nodes cannot merge; take them out")

    def state_dict_for_saving(self, *_: Any, **__: Any) -> NoReturn:
        raise SenseNovaError(
            "this MODEL is SenseNova U1's, which ComfyUI's nodes cannot save; its files are as they were"
        )
