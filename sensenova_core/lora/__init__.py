"""LoRA files: what they change, and weights with these changes added."""

from .file import Lora, lora_file, lora_states, read_lora
from .merging import merge

__all__ = ["Lora", "lora_file", "lora_states", "merge", "read_lora"]
