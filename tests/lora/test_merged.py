"""LoRAs: as if merged by hand, the same numbers wherever weights are, and gone without a trace."""

from collections.abc import Callable
from itertools import product

import pytest
import torch

import sensenova_core
from sensenova_core import SenseNovaError, SettingsError
from sensenova_core.checkpoint import checkpoint_name
from sensenova_core.memory.fixed import Fixed
from sensenova_core.model import GENERATION, UNDERSTANDING
from tests.lora.telling import KINDS, SINGLE, check_close, drawing, tell
from tests.support.geometries import write_checkpoint
from tests.support.loras import matrices, merged, write_lora
from tests.support.packing import tensors_of, wide
from tests.support.streaming import WAYS, check_same, copied, draw_short, story


@pytest.mark.parametrize(
    "kind, vram_mode",
    [*product(KINDS, ["auto", "balanced"]), *product(SINGLE, ["balanced"])],
)
def test_at_any_strength_it_is_as_if_merged_by_hand(folders, lora, load, tmp_path, kind, vram_mode):
    """Of every matrix: layers, experts, the output head in pieces, the embedding, vision, embedders, either head."""
    file, deltas = lora(kind)
    engine = load(kind, vram_mode)
    base = tell(engine)
    for strength in (1.0, -0.4):
        by_hand = merged(folders(kind)[1], tmp_path / str(strength), [(deltas, strength)])
        engine.use_loras([(file, strength)])
        check_close(tell(engine), tell(sensenova_core.load(by_hand)), base)
    engine.use_loras([])
    check_same(tell(engine), base)


@pytest.fixture(scope="module")
def expected(folders, lora) -> Callable[[str], dict]:
    """A story with a LoRA, where weights are streamed."""
    told: dict[str, dict] = {}

    def find(kind: str) -> dict:
        if kind not in told:
            loras = [(lora(kind)[0], 0.7), (lora(kind, 1, drawing)[0], 0.3)]
            told[kind] = story(sensenova_core.load(folders(kind)[0], dtype="float32", max_memory="64GiB", loras=loras))
        return told[kind]

    return find


@pytest.mark.parametrize(
    "kind, way",
    [("plain", way) for way in [*WAYS, "in place"]]
    + [(kind, way) for kind in ("gguf", "rows", "experts") for way in ("low, one kept", "some stay", "in place")],
)
def test_results_are_the_same_bit_for_bit_whatever_the_memory(lora, load, expected, kind, way):
    settings = {"vram_mode": "auto"} if way == "in place" else WAYS[way]
    engine = load(kind, **settings)
    engine.use_loras([(lora(kind)[0], 0.7), (lora(kind, 1, drawing)[0], 0.3)])
    check_same(story(engine), expected(kind))


@pytest.mark.parametrize("stored, factors", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_that_run_in_another_type_are_rounded_in_one_place(tmp_path, dtype, stored, factors):
    """On their way to a buffer, or where they lie in their file; factors of either type add up otherwise."""
    path = write_checkpoint(tmp_path / "stored", wide(2), dtype=stored, norms=stored)
    write_lora(tmp_path / "lora.safetensors", matrices(path), dtype=factors)
    told = []
    for settings in ({"vram_mode": "auto"}, {"vram_mode": "full"}, {"vram_mode": "low"}, {"max_memory": "64GiB"}):
        loras = [(tmp_path / "lora.safetensors", 0.8)]
        told.append(draw_short(sensenova_core.load(path, dtype=dtype, loras=loras, **settings)))
    assert all(torch.equal(picture, told[0]) for picture in told[1:])


@pytest.mark.parametrize(
    "kind, way",
    [
        *product(["plain", "gguf", "rows", "experts"], ["in place", "balanced, kept", "some stay"]),
        *product(SINGLE, ["some stay"]),
    ],
)
def test_on_and_off_is_as_never(lora, load, kind, way):
    settings = {"vram_mode": "auto"} if way == "in place" else WAYS[way]
    never = tell(load(kind, **settings))
    engine = load(kind, **settings)
    first, second = lora(kind)[0], lora(kind, 1, drawing)[0]
    on = None
    for loras in ([(first, 1.0)], [(first, 0.5), (second, 2)], [(second, -1.0)]):
        engine.use_loras(loras)
        told = tell(engine)
        assert not torch.equal(told["picture"], never["picture"])
        on = on or told
        for none in ([], [(first, 0.0)], [(first, 1.0), (first, -1.0)]):
            engine.use_loras(none)
            assert engine.loras == () and not any(unit.changed for unit in engine.memory.residency.units[GENERATION])
        check_same(tell(engine), never)
    engine.use_loras([(first, 1)])
    check_same(tell(engine), on)


def test_two_are_their_sum(folders, lora, load, tmp_path):
    (first, one), (second, two) = lora(), lora(seed=1)
    by_hand = merged(folders("plain")[1], tmp_path / "sum", [(one, 0.8), (two, -0.5)])
    engine = load()
    base = tell(engine)
    engine.use_loras([(first, 0.8), (second, -0.5)])
    told = tell(engine)
    check_close(told, tell(sensenova_core.load(by_hand)), base)
    engine.use_loras([(second, -0.5), (first, 0.8)])
    check_same(tell(engine), told)
    engine.use_loras([(first, 0.5), (first, 1.5)])
    twice = tell(engine)
    engine.use_loras([(first, 2)])
    check_same(tell(engine), twice)


@pytest.mark.parametrize("factors", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["plain", "gguf", "rows"])
def test_the_sum_is_rounded_once(folders, lora, load, tmp_path, kind, factors):
    file, deltas = lora(kind, 0, dtype=factors)
    """A weight that is stored plain is rounded to its type before, as it is without LoRAs; a GGUF file has both."""
    before = tensors_of(folders(kind)[1])
    after = tensors_of(merged(folders(kind)[1], tmp_path / "sum", [(deltas, 1.5)]))
    engine = load(kind, "auto", dtype="bfloat16", loras=[(file, 1.5)])
    for index, layer in enumerate(engine.memory.residency.layers(GENERATION)):
        for name, value in layer.named_parameters():
            if value.dim() > 1:
                key = checkpoint_name(f"generation.decoder.layers.{index}.{name}")
                packed = after[key].bfloat16()
                plain = (before[key].bfloat16().double() + (after[key].double() - before[key].double())).bfloat16()
                possible = {"plain": [plain], "rows": [packed], "gguf": [packed, plain]}[kind]
                numbers = min(possible, key=lambda numbers: (value != numbers).sum())
                assert (value != numbers).float().mean() < 1e-3  # float32 sums near the middle between two numbers
                assert (value - numbers).abs().max() <= 2**-7 * numbers.abs().max()


@pytest.mark.parametrize("vram_mode", ["auto", "low"])
def test_of_one_type_all_is_added_at_once(tmp_path, vram_mode):
    """bfloat16 throughout, as such files are published: the same bits wherever weights are."""
    folder = write_checkpoint(tmp_path / "plain", wide(), torch.bfloat16, torch.bfloat16)
    deltas = write_lora(tmp_path / "x.safetensors", matrices(folder), dtype=torch.bfloat16)
    by_hand = merged(folder, tmp_path / "sum", [(deltas, 1.0)], torch.bfloat16)
    streamed = sensenova_core.load(folder, vram_mode="balanced")
    base = tell(streamed)
    streamed.use_loras([(tmp_path / "x.safetensors", 1.0)])
    told, expected = tell(streamed), tell(sensenova_core.load(by_hand))
    check_close(told, expected, base, 0.2)
    engine = sensenova_core.load(folder, vram_mode=vram_mode, loras=streamed.loras)
    check_same(tell(engine), told)


def test_what_is_read_is_kept_apart(lora, load):
    """A LoRA of drawing alone leaves what was read; others have their own, which is found again."""
    reads, draws = lora()[0], lora("plain", 1, drawing)[0]
    engine = load(vram_mode="full", max_memory="64GiB")
    draw_short(engine)
    held = engine.remembered.prefixes.nbytes
    engine.use_loras([(draws, 1.0)])
    draw_short(engine)
    assert engine.remembered.prefixes.nbytes == held
    engine.use_loras([(reads, 1.0)])
    draw_short(engine)
    assert engine.remembered.prefixes.nbytes == 2 * held
    count = copied(engine, UNDERSTANDING)
    for loras in ([(reads, 1.0), (draws, 1.0)], [(draws, 2.0)], []):
        engine.use_loras(loras)
        draw_short(engine)
    assert engine.remembered.prefixes.nbytes == 2 * held and copied(engine, UNDERSTANDING) == count
    engine.use_loras([(reads, 0.5)])
    draw_short(engine)
    assert engine.remembered.prefixes.nbytes == 3 * held


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_a_run_under_other_loras_ends(lora, load, vram_mode):
    engine = load(vram_mode=vram_mode)
    run = engine.sample(engine.encode("a dot"), width=64, height=64, steps=3)
    next(run)
    engine.use_loras([(lora()[0], 1.0)])
    with pytest.raises(SenseNovaError, match="LoRAs were changed during this run"):
        next(run)
    draw_short(engine)


def test_strengths_are_numbers(lora, load):
    engine = load()
    for strength in (float("nan"), float("inf"), "1", None):
        with pytest.raises(SettingsError, match=r"the strength of plain_0\.safetensors is .*finite number"):
            engine.use_loras([(lora()[0], strength)])
    assert engine.loras == ()


def test_a_strength_that_cannot_be_placed_leaves_the_one_before(lora, load, monkeypatch):
    engine, before = load("plain", "balanced"), 0.5
    file = lora("plain")[0]
    engine.use_loras([(file, before)])
    expected, used, real, failed = tell(engine), engine.loras, Fixed.place, []

    def place(*arguments):
        if not failed:
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    monkeypatch.setattr(Fixed, "place", place)
    with pytest.raises(SenseNovaError, match="memory ran out"):
        engine.use_loras([(file, 1.0)])
    assert engine.loras == used
    engine.use_loras([(file, before)])
    check_same(tell(engine), expected)
