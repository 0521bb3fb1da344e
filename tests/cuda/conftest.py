"""Tests that need a real card. They skip where there is none; tests/pretend rehearses what they run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import sensenova_core
from sensenova_core import Engine
from tests.support.geometries import TOKENIZER, write_checkpoint
from tests.support.instructions import few_instructions  # noqa: F401  # for all tests here
from tools.tiny_checkpoint import CONFIG

LAYERS = 6
DECODER = {
    "num_hidden_layers": LAYERS,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": TOKENIZER.get_vocab_size(),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = "no CUDA device that this torch can use"
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.cuda)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def free_card() -> Iterator[None]:
    """What a test before has left is given back."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Layers of 27 MB each, in bfloat16: 0.4 GB."""
    config = CONFIG | {"llm_config": CONFIG["llm_config"] | DECODER}
    return write_checkpoint(tmp_path_factory.mktemp("card"), config, dtype=torch.bfloat16, norms=torch.bfloat16)


@pytest.fixture
def load(checkpoint) -> Iterator[Callable[..., Engine]]:
    """Settings -> an engine on the card, which is released at the end."""
    loaded: list[Engine] = []

    def engine(**settings) -> Engine:
        loaded.append(sensenova_core.load(checkpoint, device="cuda:0", **settings))
        return loaded[-1]

    yield engine
    for each in loaded:
        each.release()
