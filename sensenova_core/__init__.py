"""A small inference engine for the SenseNova-U1 and U1.5 models.

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
    from .settings import DecodingSettings, DocumentSettings, Guidance, SamplingSettings
    from .writing.conversation import Answer
    from .writing.document import Drawing, End, Text

__version__ = "0.1.0"
DEMO = Path(__file__).with_name("demo")  # a checkpoint folder: a tiny model that draws simple shapes

_HOMES = {
    "load": ".engine",
    "Engine": ".engine",
    "Conditioning": ".reading.prompt",
    "Message": ".reading.prompt",
    "Answer": ".writing.conversation",
    "Thought": ".writing.thinking",
    "DecodingSettings": ".settings",
    "DocumentSettings": ".settings",
    "Text": ".writing.document",
    "Drawing": ".writing.document",
    "End": ".writing.document",
    "SamplingSettings": ".settings",
    "Step": ".drawing.sampling",
    "Guidance": ".settings",
    "ModelConfig": ".model.config",
    "SenseNovaError": ".errors",
    "CheckpointError": ".errors",
    "PromptError": ".errors",
    "SettingsError": ".errors",
}
__all__ = [
    "DEMO",
    "Answer",
    "CheckpointError",
    "Conditioning",
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
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name], __name__), name)
    except ImportError as error:
        from .errors import missing_package

        raise ImportError(missing_package(error), name=error.name) from error
