"""Engines on a pretended card, and what they are to tell: what the CPU tells."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

import sensenova_core
from sensenova_core import DecodingSettings, DocumentSettings, Engine, SamplingSettings
from sensenova_core.settings import Guidance
from sensenova_core.writing.document import Drawing
from tests.support.geometries import EXPERTS, geometry, write_checkpoint
from tests.support.instructions import few_instructions  # noqa: F401  # for all tests here
from tests.support.loras import matrices, write_lora
from tests.support.packing import everywhere, wide, write_gguf
from tests.support.pictures import picture
from tests.support.watch import draw, last_of, saying, thought_through

from .card import Card
from .driver import pretended
from .tensor import take_guard

LAYERS = 5  # of each expert: more than stream through
STORED = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},  # beside norms in float32
    "experts": {"dtype": torch.bfloat16, "norms": torch.bfloat16},
}
SIZE = {"width": 32, "height": 32, "seed": 5}
DOCUMENT = DocumentSettings(SamplingSettings(32, 32, 1, Guidance(4.0)))
Rehearsed = Callable[..., AbstractContextManager[Engine]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is here where torch is not one that a card can be pretended to."""
    try:
        take_guard()
    except (OSError, ValueError) as error:
        reason = pytest.mark.skip(reason=f"no card can be pretended to this torch: {error}")
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(reason)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Callable[[str], Path]:
    """Name -> a checkpoint: one of STORED, or "packed", a GGUF file."""
    made: dict[str, Path] = {}

    def written(name: str) -> Path:
        place = tmp_path_factory.mktemp(name)
        if name == "packed":
            plain = write_checkpoint(place / "plain", wide(LAYERS))
            return write_gguf(plain, place / "gguf", everywhere("Q8_0"))[0] / "model.gguf"
        config = geometry(0)
        config["llm_config"] |= {"num_hidden_layers": LAYERS, "hidden_size": 64, "intermediate_size": 160}
        if name == "experts":
            config["llm_config"] |= {"model_type": "qwen3_moe", **EXPERTS}
        return write_checkpoint(place, config, **STORED[name])

    def find(name: str) -> Path:
        if name not in made:
            made[name] = written(name)
        return made[name]

    return find


@pytest.fixture(scope="session")
def lora(folder, tmp_path_factory) -> Path:
    """For the checkpoint "float32"."""
    file = tmp_path_factory.mktemp("lora") / "x.safetensors"
    write_lora(file, matrices(folder("float32"), lambda name: "embed" not in name))
    return file


@pytest.fixture
def rehearsed(folder) -> Rehearsed:
    """(name, card=a Card, settings of `load`) -> an engine on that card, for a `with` block. Once that has ended, there
    has been no race, and nothing that CUDA would have refused."""

    @contextmanager
    def engine_of(name: str = "float32", *, card: Card | None = None, **settings) -> Iterator[Engine]:
        card = card or Card()
        with pretended(card):
            engine = sensenova_core.load(folder(name), device="cuda:0", **settings)
            try:
                yield engine
            finally:
                engine.release()
        assert not card.order.races and not card.faults

    return engine_of


def everything(engine: Engine) -> dict[str, torch.Tensor | str | list]:
    """A picture, a thought, an edit, an answer and a document."""
    few, told = DecodingSettings(2), {}
    conditioning = engine.encode("a red circle")
    told["picture"] = last_of(engine.sample(conditioning, **SIZE, steps=2))
    thought = thought_through(engine.think(conditioning, few))
    told["thought"] = thought.think_text
    told["picture after it"] = last_of(engine.sample(thought, **SIZE, steps=1))
    told["edit"] = draw(engine, "bluer", [picture(64, 64)], **SIZE, steps=1, img_cfg=2.0)
    told["answer"] = [answer.text for answer in engine.understand("what?", [picture(64, 64)], settings=few)]
    events = list(engine.interleave("a tale", (), settings=DOCUMENT, choose=saying(engine, "a<img>z<|im_end|>")))
    told["document"] = [type(event).__name__ for event in events]
    told["drawn in it"] = [event for event in events if isinstance(event, Drawing)][-1].step.pixels()
    return {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in told.items()}


@pytest.fixture(scope="session")
def on_the_cpu(folder) -> Callable[..., dict]:
    """(name, settings of `load`) -> what is told of everything without a card."""
    told: dict[str, dict] = {}

    def find(name: str, **settings) -> dict:
        key = f"{name} {settings}"
        if key not in told:
            told[key] = everything(sensenova_core.load(folder(name), **settings))
        return told[key]

    return find
