"""The types on this pack's own wires. They match by name across all packs, hence the prefix."""

from comfy_api.latest import io

Model = io.Custom("SENSENOVA_CORE_MODEL")  # a host.LoadedModel
Conditioning = io.Custom("SENSENOVA_CORE_CONDITIONING")  # a sensenova_core.Conditioning

CATEGORY = "SenseNova U1"
