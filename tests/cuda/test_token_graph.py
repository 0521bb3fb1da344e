"""Tokens as CUDA graphs on a real card: what they write, when there are none, and what they take."""

import time

import pytest
import torch

from sensenova_core import DecodingSettings, Engine
from sensenova_core.model.attention import BLOCK_TOKENS, sdpa
from sensenova_core.model.capture import BYTES, CudaGraphs
from sensenova_core.reading.block import over_blocks
from tests.support.golden_set import relative_error


@pytest.fixture
def load(load):
    """All layers stay, unless a test says otherwise."""
    return lambda **settings: load(**{"vram_mode": "full"} | settings)


def asked(engine: Engine, tokens: int) -> torch.Tensor:
    """The logits that each token of an answer was chosen from."""
    seen: list[torch.Tensor] = []

    def choose(logits: torch.Tensor, chosen: list[int]) -> int:
        seen.append(logits)
        return 32 + len(chosen) % 90

    engine.remembered.forget()
    list(engine.understand("what is it?", settings=DecodingSettings(tokens), choose=choose))
    return torch.stack(seen).cpu()


@pytest.fixture
def replays(monkeypatch) -> list[int]:
    """Counts them."""
    counted, capture = [0], CudaGraphs.__call__

    def counting(graphs, work):
        replay = capture(graphs, work)

        def once() -> None:
            counted[0] += 1
            replay()

        return once

    monkeypatch.setattr(CudaGraphs, "__call__", counting)
    return counted


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-3), ("bfloat16", 0.1), ("float16", 0.02)])
def test_tokens_are_those_of_the_plain_way(load, replays, dtype, tolerance):
    count = BLOCK_TOKENS + 40
    plain = asked(load(dtype=dtype, enforce_eager=True), count)
    assert replays == [0]
    engine = load(dtype=dtype)
    assert relative_error(asked(engine, count), plain) < tolerance
    assert engine.reader.capture is not None and replays[0] > count - 20


def test_layers_that_stream_write_as_before(load, replays):
    plain = asked(load(enforce_eager=True, vram_mode="balanced"), 20)
    assert torch.equal(asked(load(vram_mode="balanced"), 20), plain) and replays == [0]


def test_int8_is_captured_too(load, replays):
    plain = asked(load(compute="int8", enforce_eager=True), 40)
    assert relative_error(asked(load(compute="int8"), 40), plain) < 0.1 and replays[0] > 20


def test_compiled_layers_are_captured_too(load, replays):
    pytest.importorskip("triton")
    plain = asked(load(enforce_eager=True), 40)
    assert relative_error(asked(load(compile=True), 40), plain) < 0.1 and replays[0] > 20


def test_what_graphs_take_is_planned(load):
    engine = load()
    asked(engine, 20)  # what libraries take once is not theirs
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    asked(load(enforce_eager=True), 40)
    plain = torch.cuda.max_memory_reserved()
    engine.release()
    asked(engine, 40)
    assert torch.cuda.max_memory_reserved() <= plain + BYTES


def test_memory_comes_back_after_a_run(load):
    engine = load()
    asked(engine, 40)
    engine.remembered.forget()
    torch.cuda.empty_cache()
    first = torch.cuda.memory_reserved()
    for _ in range(3):
        asked(engine, 40)
    engine.remembered.forget()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= first


def test_a_token_is_quicker(load):
    seconds = []
    for eager in (True, False):
        engine = load(enforce_eager=eager)
        asked(engine, 40)
        torch.cuda.synchronize()
        began = time.perf_counter()
        asked(engine, 200)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    assert seconds[1] < seconds[0]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-3), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("seen", [1, 511, 513, 2000])
def test_blocks_are_one_attention(seen, dtype, tolerance):
    random = torch.Generator().manual_seed(seen)
    room = -(-seen // BLOCK_TOKENS) * BLOCK_TOKENS
    query = torch.randn(1, 1, 32, 128, generator=random)
    keys, values = (torch.randn(1, room, 8, 128, generator=random) for _ in range(2))
    unseen = torch.zeros(room).masked_fill(torch.arange(room) >= seen, -torch.inf)
    expected = sdpa(query, keys[:, :seen], values[:, :seen], causal=True)
    on_card = [each.to("cuda:0", dtype) for each in (query, keys, values)]
    made = over_blocks(*on_card, unseen=unseen.to("cuda:0", dtype))
    assert relative_error(made.cpu().float(), expected) < tolerance
