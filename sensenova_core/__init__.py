"""A small inference engine for the SenseNova-U1, U1.5 and U1.6 models.

    engine = sensenova_core.load("path/to/SenseNova-U1-8B-MoT", device="cuda")
    conditioning = engine.encode("A cute cat")
    for step in engine.sample(conditioning, width=2048, height=2048, steps=50, cfg=4.0, seed=42):
        print(step.index + 1, "of", step.total)
    image = step.image()  # float32 (batch, height, width, 3) in 0 .. 1

Importing this package is cheap; torch is imported when a name is first used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` finds, for editors and type checkers
    from .drawing.sampling import Step
    from .engine import Engine, load
    from .errors import CheckpointError, PromptError, SenseNovaError, SettingsError
    from .model.config import ModelConfig
    from .reading.prompt import Conditioning, Message
    from .settings import CorrectionSettings, DecodingSettings, DocumentSettings, Guidance, SamplingSettings
    from .writing.conversation import Answer
    from .writing.document import Drawing, End, Text
    from .writing.thinking import Thought

__version__ = "0.1.0"
DEMO = Path(__file__).with_name("demo")  # a checkpoint folder: a tiny model that draws simple shapes

_HOMES = {
    "drawing.sampling": ("Step",),
    "engine": ("Engine", "load"),
    "errors": ("CheckpointError", "PromptError", "SenseNovaError", "SettingsError"),
    "model.config": ("ModelConfig",),
    "reading.prompt": ("Conditioning", "Message"),
    "settings": ("CorrectionSettings", "DecodingSettings", "DocumentSettings", "Guidance", "SamplingSettings"),
    "writing.conversation": ("Answer",),
    "writing.document": ("Drawing", "End", "Text"),
    "writing.thinking": ("Thought",),
}
__all__ = [
    "DEMO",
    "Answer",
    "CheckpointError",
    "Conditioning",
    "CorrectionSettings",
    "DecodingSettings",
    "DocumentSettings",
    "Drawing",
    "End",
    "Engine",
    "Guidance",
    "Message",
    "ModelConfig",
    "PromptError",
    "SamplingSettings",
    "SenseNovaError",
    "SettingsError",
    "Step",
    "Text",
    "Thought",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)
