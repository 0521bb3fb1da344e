"""LoRAs: as if merged by hand, gone without a trace, no more memory than planned, and told what does not fit."""

import gc
import json
import random
import shutil
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sensenova_core
from sensenova_core import CheckpointError, DecodingSettings, Engine, SenseNovaError, SettingsError
from sensenova_core.checkpoint import checkpoint_name, merge, read_lora
from sensenova_core.checkpoint.merging import merge_scratch
from sensenova_core.memory import Sizes
from sensenova_core.memory import plan as plans
from sensenova_core.memory.units import DRAWING, READING
from tests.geometries import geometry, save_aligned, scaled_down, write_checkpoint
from tests.loras import Deltas, matrices, merged, write_lora
from tests.packing import mixed, tensors_of, wide, write_fp8, write_gguf
from tests.peak import PeakBytes
from tests.pictures import picture
from tests.test_residency import WAYS, allow, check_same, copied, draw_short, gone, peaks_of_two_runs, story

LAYER = "language_model.model.layers.1."
Q_PROJ, HEAD = LAYER + "self_attn.q_proj.weight", "language_model.lm_head.weight"
KINDS = ["plain", "gguf", "rows", "weight_scale_inv", "experts", "other head"]
SINGLE = [
    "diffusion_model.plain",
    "model.diffusion_model.plain",
    "model.diffusion_model.gguf",
    "diffusion_model.rows",
    "model.diffusion_model.scale_weight",
]  # files by themselves, all their names after a prefix


@pytest.fixture(autouse=True)
def few_instructions(monkeypatch):
    monkeypatch.setattr("sensenova_core.prompt.system_message", lambda kind: kind)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """A kind -> what to load, and a folder with its numbers in float32."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            target = tmp_path_factory.mktemp(kind)
            if kind in ("experts", "other head"):
                other_head = wide(2) | {"use_pixel_head": not wide()["use_pixel_head"]}
                plain = write_checkpoint(target / "plain", geometry(4) if kind == "experts" else other_head)
                made[kind] = plain, plain
            elif kind == "plain":
                plain = write_checkpoint(target / "plain", wide())
                made[kind] = plain, plain
            elif kind == "gguf":
                made[kind] = write_gguf(make("plain")[0], target, mixed)
            elif kind in SINGLE:
                made[kind] = alone(kind, target)
            else:
                made[kind] = write_fp8(make("plain")[0], target, kind)
        return made[kind]

    def alone(kind: str, target: Path) -> tuple[Path, Path]:
        """A file without a config."""
        prefix, _, stored = kind.rpartition(".")
        prefix += "."
        if stored == "gguf":
            folder, plain = write_gguf(make("plain")[0], target, mixed, prefix)
        else:
            folder, plain = (shutil.copytree(each, target / str(i)) for i, each in enumerate(make(stored)))
            tensors = tensors_of(folder)
            save_aligned({prefix + name: value for name, value in tensors.items()}, folder / "model.safetensors")
        for each in (folder, plain):
            (each / "config.json").unlink()
        (file,) = folder.glob("model.*")
        return file, plain

    return make


@pytest.fixture(scope="module")
def lora(folders, tmp_path_factory) -> Callable[..., tuple[Path, Deltas]]:
    """(kind, seed, which) -> a LoRA of its matrices, and what it adds at strength 1."""
    made: dict[tuple, tuple[Path, Deltas]] = {}

    def make(kind: str = "plain", seed: int = 0, wanted: Callable[[str], bool] = lambda name: True, **settings):
        key = kind, seed, wanted, *settings.items()
        if key not in made:
            file = tmp_path_factory.mktemp("loras") / f"{kind}_{seed}.safetensors"
            made[key] = file, write_lora(file, matrices(folders(kind)[1], wanted), seed, **settings)
        return made[key]

    return make


@pytest.fixture
def load(folders) -> Callable[..., Engine]:
    def loaded(kind: str = "plain", vram_mode: str = "balanced", slots: int | None = None, host=None, **settings):
        engine = sensenova_core.load(folders(kind)[0], vram_mode=vram_mode, **{"dtype": "float32"} | settings)
        if slots is not None:
            allow(engine, slots)
        if host is not None:
            engine.memory.limits = replace(engine.memory.limits, host=host * engine.memory.sizes.slot)
        return engine

    return loaded


def tell(engine: Engine) -> dict:
    """A picture, one edited, and what an answer was chosen from, which takes the output head."""
    seen: list[torch.Tensor] = []
    engine.reader.forget()  # else an answer goes on from what the last one has read
    letter = engine.tokenizer.encode(["a"])[0]
    choose = lambda logits, chosen: seen.append(logits.clone()) or letter  # noqa: E731
    list(engine.understand("what?", settings=DecodingSettings(3), choose=choose))
    (*_, step) = engine.sample(engine.encode("a dot", [picture(64, 64)]), width=64, height=64, steps=1)
    return {"picture": draw_short(engine, steps=2), "edit": step.z, "logits": torch.stack(seen)}


def check_close(told: dict, expected: dict, base: dict, bound: float = 1e-4) -> None:
    """Beside the difference to what is told without the LoRA."""
    for name, value in expected.items():
        effect = (value - base[name]).abs().max()
        assert effect > 0.01 * value.abs().max(), name
        assert (told[name] - value).abs().max() < bound * max(effect, value.abs().max()), name


# Results.


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
@pytest.mark.parametrize("kind", KINDS + SINGLE)
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
            loras = [(lora(kind)[0], 0.7), (lora(kind, 1, _drawing)[0], 0.3)]
            told[kind] = story(sensenova_core.load(folders(kind)[0], dtype="float32", max_memory="64GiB", loras=loras))
        return told[kind]

    return find


def _drawing(name: str) -> bool:
    return ".layers." in name and "_mot_gen" in name and ".layers.2." not in name


@pytest.mark.parametrize(
    "kind, way",
    [("plain", way) for way in [*WAYS, "in place"]]
    + [(kind, way) for kind in ("gguf", "rows", "experts") for way in ("low, one kept", "some stay", "in place")],
)
def test_results_are_the_same_bit_for_bit_whatever_the_memory(lora, load, expected, kind, way):
    settings = {"vram_mode": "auto"} if way == "in place" else WAYS[way]
    engine = load(kind, **settings)
    engine.use_loras([(lora(kind)[0], 0.7), (lora(kind, 1, _drawing)[0], 0.3)])
    check_same(story(engine), expected(kind))


@pytest.mark.parametrize("way", ["in place", "balanced, kept", "some stay"])
@pytest.mark.parametrize("kind", ["plain", "gguf", "rows", "experts", *SINGLE])
def test_on_and_off_is_as_never(lora, load, kind, way):
    settings = {"vram_mode": "auto"} if way == "in place" else WAYS[way]
    never = tell(load(kind, **settings))
    engine = load(kind, **settings)
    first, second = lora(kind)[0], lora(kind, 1, _drawing)[0]
    on = None
    for loras in ([(first, 1.0)], [(first, 0.5), (second, 2)], [(second, -1.0)]):
        engine.use_loras(loras)
        told = tell(engine)
        assert not torch.equal(told["picture"], never["picture"])
        on = on or told
        for none in ([], [(first, 0.0)], [(first, 1.0), (first, -1.0)]):
            engine.use_loras(none)
            assert engine.loras == () and not any(unit.changed for unit in engine.memory.weights.units[DRAWING])
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
    by_hand = merged(folders(kind)[1], tmp_path / "sum", [(deltas, 1.5)], torch.bfloat16)
    expected = tensors_of(by_hand)
    engine = load(kind, "auto", dtype="bfloat16", loras=[(file, 1.5)])
    for index, layer in enumerate(engine.model.generation.decoder.source()):
        for name, value in layer.named_parameters():
            if value.dim() > 1:
                numbers = expected[checkpoint_name(f"generation.decoder.layers.{index}.{name}")]
                assert (value != numbers).float().mean() < 1e-3  # float32 sums near the middle between two numbers
                assert (value - numbers).abs().max() <= 2**-7 * numbers.abs().max()


def test_what_is_read_is_kept_apart(lora, load):
    """A LoRA of drawing alone leaves what was read; others have their own, which is found again."""
    reads, draws = lora()[0], lora("plain", 1, _drawing)[0]
    engine = load(vram_mode="full", max_memory="64GiB")
    draw_short(engine)
    held = engine.reader.prefixes.nbytes
    engine.use_loras([(draws, 1.0)])
    draw_short(engine)
    assert engine.reader.prefixes.nbytes == held
    engine.use_loras([(reads, 1.0)])
    draw_short(engine)
    assert engine.reader.prefixes.nbytes == 2 * held
    count = copied(engine, READING)
    for loras in ([(reads, 1.0), (draws, 1.0)], [(draws, 2.0)], []):
        engine.use_loras(loras)
        draw_short(engine)
    assert engine.reader.prefixes.nbytes == 2 * held and copied(engine, READING) == count
    engine.use_loras([(reads, 0.5)])
    draw_short(engine)
    assert engine.reader.prefixes.nbytes == 3 * held


# What moves, and what it takes.


def test_another_strength_moves_nothing(lora, load):
    first, second = lora("plain", 1, _drawing)[0], lora("plain", 2, _drawing)[0]
    engine = load(vram_mode="full", max_memory="64GiB", loras=[(first, 1.0)])
    draw_short(engine)
    dropped, count = engine.memory.weights.times_dropped, copied(engine, DRAWING)
    for loras in ([(first, 0.3)], [], [(first, -2)]):
        engine.use_loras(loras)
        draw_short(engine)
    assert copied(engine, DRAWING) == count and engine.memory.weights.times_dropped == dropped
    engine.use_loras([(second, 1.0)])  # and what was used until now goes along
    draw_short(engine)
    count = copied(engine, DRAWING)
    for loras in ([(first, 1.0)], [(second, 1.0)], [(second, 1.0), (first, 0.1)]):
        engine.use_loras(loras)
        draw_short(engine)
    assert copied(engine, DRAWING) == count and engine.memory.weights.times_dropped == dropped + 1


@pytest.mark.parametrize("kind", ["plain", "gguf", "experts"])
def test_factors_lie_and_move_with_their_layer(lora, load, kind):
    engine = load(kind)
    before, units = engine.memory.sizes, engine.memory.weights.units
    engine.use_loras([(lora(kind, 1, _drawing)[0], 1.0)])
    sizes = engine.memory.sizes
    assert sizes.units[READING] == before.units[READING] and sizes.unpacking(READING) == before.unpacking(READING)
    for unit, was in zip(engine.memory.weights.units[DRAWING], units[DRAWING], strict=True):
        stored = sum(-(-part.nbytes // 256) * 256 for change in unit.changes for part in (change.up, change.down))
        assert unit.nbytes == was.nbytes + stored and unit.running_bytes == was.running_bytes
        assert (stored > 0) == (unit.index != 2) and unit.apart == (was.apart or stored > 0)
        starts = [(part.start, part.start + part.nbytes) for part in unit.stored]
        assert all(stop <= start for (_, stop), (start, _) in pairwise(starts))
    assert sizes.working[DRAWING] == max(unit.running_bytes for unit in units[DRAWING] if unit.index != 2)
    assert sizes.slot_of(DRAWING) > before.slot_of(DRAWING)


def test_pieces_of_the_head_have_their_rows(lora, load):
    engine = load(loras=[(lora("plain", 3, lambda name: name == HEAD)[0], 1.0)])
    pieces = engine.memory.weights.units[READING][engine.config.decoder.num_layers :]
    changes = [unit.changes[0] for unit in pieces]
    assert len(pieces) > 1 and [each.up.first_row for each in changes] == [unit.parts[0].first_row for unit in pieces]
    assert sum(each.up.shape[0] for each in changes) == sum(unit.parts[0].shape[0] for unit in pieces)
    assert not any(unit.apart for unit in engine.memory.weights.units[DRAWING])


def test_in_place_nothing_is_copied_but_a_layer(folders, lora, load):
    engine = load(vram_mode="auto", loras=[(lora("plain", 1, _drawing)[0], 1.0)])
    draw_short(engine)
    weights = engine.memory.weights
    mapped = [value for value in weights._others.values()]
    changed = weights.units[DRAWING]
    assert not any(part.stored in weights._owners for unit in changed if unit.apart for part in unit.parts)
    with PeakBytes("cpu") as peak, torch.inference_mode():
        peak.leave_out([*mapped, *engine.model.parameters(), weights._working.buffer])
        for _ in engine.model.generation.decoder.source():
            pass
    assert peak.most <= engine.memory.sizes.scratch < weights._working.buffer.nbytes
    assert weights.nbytes == engine.weights.nbytes + weights._working.buffer.nbytes


def test_device_memory_stays_within_the_budget(tmp_path, monkeypatch):
    """As without LoRAs, with the working buffer and what adding takes for a moment. 40 runs."""
    monkeypatch.setattr(plans, "FRAGMENTATION", 1.0)
    over, runs = [], 0
    for seed in range(4):
        draw = random.Random(seed)
        folder = write_checkpoint(tmp_path / str(seed), scaled_down(seed))
        rank = draw.choice([1, 4, 32])
        write_lora(tmp_path / f"{seed}.safetensors", matrices(folder, lambda name: ".layers." in name), seed, rank)
        loras = [(tmp_path / f"{seed}.safetensors", 1.0)]
        engine = sensenova_core.load(folder, max_memory="1GiB", place=False, loras=loras)
        for _ in range(5):
            for run, (plan, most) in enumerate(peaks_of_two_runs(engine, draw)):
                runs += 1
                assert plan.device_bytes <= plan.limits.device and plan.phases[DRAWING].unpacking_bytes
                if most > plan.limits.device:
                    over.append((seed, run, most / plan.limits.device))
        engine.release()
    assert runs == 40 and not over, over


@pytest.mark.parametrize("shape", [(300, 200), (64, 16, 3, 3), (1, 7)])
@pytest.mark.parametrize("piece", [1, 5000, 2**20])
def test_rows_are_added_piece_by_piece(monkeypatch, shape, piece):
    for module in ("formats.PIECE_CPU", "merging.PIECE"):
        monkeypatch.setattr(f"sensenova_core.checkpoint.{module}", piece)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(shape, generator=generator).bfloat16()
    width = value[0].numel()
    terms = [
        (0.5, torch.randn(shape[0], 3, generator=generator), torch.randn(3, width, generator=generator)),
        (-2.0, torch.randn(shape[0], 9, generator=generator).half(), torch.randn(9, width).bfloat16()),
    ]
    expected = value.double().flatten(1) + sum(amount * up.double() @ down.double() for amount, up, down in terms)
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 2**-8)):
        into = torch.empty(shape, dtype=dtype)
        with PeakBytes("cpu") as peak:
            peak.leave_out([value, into, *(part for _, *parts in terms for part in parts)])
            merge(value, terms, into)
        assert (into.double().flatten(1) - expected).abs().max() <= bound * expected.abs().max()
        assert peak.most <= merge_scratch(shape, False, [3, 9])


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


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_a_plan_says_so(lora, load, vram_mode):
    engine = load(vram_mode=vram_mode)
    told = engine.explain(sensenova_core.SamplingSettings(64, 64))
    assert "make one layer ready" not in told
    engine.use_loras([(lora()[0], 1.0)])
    assert "make one layer ready" in engine.explain(sensenova_core.SamplingSettings(64, 64))
    assert isinstance(engine.memory.sizes, Sizes)


# When things go wrong.


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_a_run_under_other_loras_ends(lora, load, vram_mode):
    engine = load(vram_mode=vram_mode)
    run = engine.sample(engine.encode("a dot"), width=64, height=64, steps=3)
    next(run)
    engine.use_loras([(lora()[0], 1.0)])
    with pytest.raises(SenseNovaError, match="LoRAs were changed during this run"):
        next(run)
    draw_short(engine)


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_given_back_and_taken_up_again(lora, load, vram_mode):
    engine = load(vram_mode=vram_mode, loras=[(lora()[0], 1.0)])
    expected = tell(engine)
    engine.release()
    assert engine.memory.weights.nbytes == 0
    assert {value.device.type for value in engine.model.parameters()} == {"meta"}
    check_same(tell(engine), expected)


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_an_engine_that_nobody_holds_is_freed_without_the_collector(lora, load, vram_mode):
    engine = load(vram_mode=vram_mode, loras=[(lora()[0], 1.0)])
    gc.collect()
    gc.disable()
    try:
        draw_short(engine)
        watched = [weakref.ref(part) for part in (engine, engine.model, engine.memory, engine.memory.weights)]
        del engine
        assert gone(*watched), [each() for each in watched if each() is not None][:3]
    finally:
        gc.enable()


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_a_file_that_was_replaced_is_read_anew(folders, load, tmp_path, vram_mode):
    file, shapes = tmp_path / "x.safetensors", matrices(folders("plain")[1])
    write_lora(file, shapes, 0)
    engine = load(vram_mode=vram_mode, loras=[(file, 1.0)])
    first = tell(engine)
    write_lora(file, shapes, 1, rank=5)
    engine.reader.forget()
    if vram_mode == "balanced":
        with pytest.raises(CheckpointError, match=r"x\.safetensors was changed or removed"):
            tell(engine)
    engine.use_loras([(file, 1.0)])
    assert not torch.equal(tell(engine)["picture"], first["picture"])
    engine.use_loras([])
    file.unlink()
    engine.use_loras([])  # it goes along no longer
    tell(engine)


def test_settings_that_were_replaced_are_read_anew(folders, load, tmp_path):
    """They lie beside the file, which stays as it is."""
    peft, beside = SPELLINGS["peft"], tmp_path / "adapter_config.json"
    write_lora(tmp_path / "adapter_model.safetensors", matrices(folders("plain")[1], _drawing), alpha=None, name=peft)
    engine = load(vram_mode="auto")
    drawn = []
    for settings in (None, {"lora_alpha": 12}, {"lora_alpha": 8.5}):
        if settings is not None:
            beside.write_text(json.dumps(settings))
        engine.use_loras([(tmp_path, 1.0)])
        drawn.append(draw_short(engine))
    beside.unlink()
    engine.use_loras([(tmp_path, 1.0)])
    assert torch.equal(draw_short(engine), drawn[0])
    engine.use_loras([(tmp_path, 3.0)])  # as alpha 12 at rank 4
    assert torch.equal(draw_short(engine), drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_strengths_are_numbers(lora, load):
    engine = load()
    for strength in (float("nan"), float("inf"), "1", None):
        with pytest.raises(SettingsError, match=r"the strength of plain_0\.safetensors is .*finite number"):
            engine.use_loras([(lora()[0], strength)])
    assert engine.loras == ()


# Files.


def keys(up: str, down: str) -> Callable[[str, str], str]:
    return lambda place, end: (up if end == "up" else down).format(place)


SPELLINGS = {
    "bare": keys("{}.lora_up.weight", "{}.lora_down.weight"),
    "diffusion_model": keys("diffusion_model.{}.lora_up.weight", "diffusion_model.{}.lora_down.weight"),
    "model": keys("model.diffusion_model.{}.lora_up.weight", "model.diffusion_model.{}.lora_down.weight"),
    "transformer": keys("transformer.{}.lora_B.weight", "transformer.{}.lora_A.weight"),
    "peft": keys("base_model.model.{}.lora_B.weight", "base_model.model.{}.lora_A.weight"),
    "adapter": keys("base_model.model.{}.lora_B.default.weight", "base_model.model.{}.lora_A.default.weight"),
    "kohya": lambda place, end: f"lora_unet_{place.replace('.', '_')}.lora_{end}.weight",
}


@pytest.fixture
def shapes(folders) -> dict[str, tuple[int, ...]]:
    return matrices(folders("plain")[1])


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_names_as_they_are_published(tmp_path, shapes, spelling, alpha):
    file = tmp_path / "x.safetensors"
    write_lora(file, shapes, alpha=alpha, name=SPELLINGS[spelling])
    lora = read_lora(file, shapes)
    assert lora.factors.keys() == shapes.keys()
    assert {each.factor for each in lora.factors.values()} == {1.0 if alpha is None else 0.5}
    assert {each.down.shape[0] for each in lora.factors.values()} == {4}


@pytest.mark.parametrize(
    "settings, factor",
    [
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": 8, "use_rslora": False, "r": 4}, 2.0),
        ({"r": 4}, 1.0),
        ({"lora_alpha": 8, "alpha_pattern": {"q_proj": 1}}, 0.25),
        ({"lora_alpha": 8, "alpha_pattern": {"proj": 1, "k_proj|q_proj": 2, "q_proj": 4}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {r"^language_model.model.layers.\d.self_attn.q_proj": 1}}, 0.25),
        ({"lora_alpha": 8, "alpha_pattern": {"^layers.1.self_attn.q_proj": 1, "other.*": None}}, 2.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["beside", "metadata", "diffusers"])
def test_alpha_as_peft_says_it(tmp_path, settings, factor, where):
    shapes = {Q_PROJ: (256, 256)}
    if where == "metadata" and "alpha_pattern" in settings:
        pytest.skip("texts have no patterns")
    metadata = {"format": "pt"}
    if where == "beside":
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    elif where == "metadata":
        metadata |= {name: str(value) for name, value in settings.items()}
    else:
        inside = {f"transformer.{name}": value for name, value in settings.items()}
        metadata["lora_adapter_metadata"] = json.dumps(inside)
    file = tmp_path / "adapter_model.safetensors"
    write_lora(file, shapes, alpha=None, name=SPELLINGS["peft"], metadata=metadata)
    assert read_lora(tmp_path if where == "beside" else file, shapes).factors[Q_PROJ].factor == factor


@pytest.mark.parametrize("alpha", [torch.tensor(2), torch.tensor([2.0]), torch.tensor(2.0, dtype=torch.float64)])
def test_alpha_of_any_type(tmp_path, alpha):
    save_file(
        {key: value.clone() for key, value in PAIR.items()} | {f"{PLACE}.alpha": alpha}, tmp_path / "x.safetensors"
    )
    assert read_lora(tmp_path / "x.safetensors", {Q_PROJ: (256, 256)}).factors[Q_PROJ].factor == 0.5


def test_factors_of_convolutions(tmp_path):
    name, shape = "fm_modules.fm_head.conv1.weight", (64, 16, 3, 3)
    up, down = torch.randn(64, 4), torch.randn(4, 16, 3, 3)
    for number, parts in enumerate([(up, down), (up[..., None, None], down), (up, down.flatten(1))]):
        file, ends = tmp_path / f"{number}.safetensors", ("up", "down")
        save_file({f"{name[:-7]}.lora_{end}.weight": part for end, part in zip(ends, parts, strict=True)}, file)
        factors = read_lora(file, {name: shape}).factors[name]
        assert (factors.up.shape, factors.down.shape) == ((64, 4), (4, 144))


UP, DOWN = torch.zeros(256, 4), torch.zeros(4, 256)
PLACE = Q_PROJ.removesuffix(".weight")
FLAT = "lora_unet_" + PLACE.replace(".", "_")
PAIR = {f"{PLACE}.lora_up.weight": UP, f"{PLACE}.lora_down.weight": DOWN}


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"x.lora_te.weight": UP}, "1 unknown: x.lora_te.weight"),
        ({"x.lora_up.weight": UP, "x.lora_down.weight": DOWN}, "1 for parameters that this model lacks: x"),
        ({f"{PLACE}.lora_up.weight": UP.new_zeros(255, 4)}, r"1 of another shape: .*q_proj is \[256, 256\], its"),
        ({f"{PLACE}.lora_down.weight": UP.new_zeros(3, 256)}, r"1 of another shape: .*\[256, 4\] and \[3, 256\]"),
        ({f"{PLACE}.lora_up.weight": UP.to(torch.float8_e4m3fn)}, "1 of another type: .*F8_E4M3, readable are F32"),
        ({f"{PLACE}.dora_scale": UP}, "1 DoRA"),
        ({f"{PLACE}.lora_magnitude_vector.weight": UP}, "1 DoRA"),
        ({f"{PLACE}.hada_w1_a": UP}, "1 LoHa"),
        ({f"{PLACE}.lokr_w1": UP}, "1 LoKr"),
        ({f"{PLACE}.diff": UP, f"{PLACE}.diff_b": UP[0]}, "2 whole differences of weights"),
        ({f"{PLACE}.alpha": torch.tensor(float("nan"))}, "1 of no finite alpha"),
        ({f"{PLACE}.alpha": torch.ones(2)}, "1 of no finite alpha"),
        ({f"{PLACE}.lora_A.weight": DOWN}, r"1 unknown: .*a second one"),
        ({f"{FLAT}.lora_A.weight": DOWN, f"{FLAT}.lora_B.weight": UP}, r"1 unknown: lora_unet_.* \(a second one\)"),
        ({"lora_unet_x.lora_A.weight": DOWN, "lora_unet_x.lora_B.weight": UP}, "1 for parameters .*: lora_unet_x"),
        ({"language_model.model.norm.lora_up.weight": UP}, "1 without their other half"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_listed(tmp_path, tensors, said):
    save_file({key: value.clone() for key, value in (PAIR | tensors).items()}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=rf"LoRA x\.safetensors does not fit: .*{said}.*made for it"):
        read_lora(tmp_path / "x.safetensors", {Q_PROJ: (256, 256)})


def test_a_stray_config_says_nothing_of_other_files(tmp_path):
    for name in ("adapter_model.safetensors", "other.safetensors"):
        write_lora(tmp_path / name, {Q_PROJ: (256, 256)}, alpha=None)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8, "base_model": "U1"}')
    other = read_lora(tmp_path / "other.safetensors", {Q_PROJ: (256, 256)})
    assert (other.factors[Q_PROJ].factor, list(other.states), other.metadata) == (1.0, [other.path], {})
    own = read_lora(tmp_path, {Q_PROJ: (256, 256)})
    assert own.factors[Q_PROJ].factor == 2 and tmp_path / "adapter_config.json" in own.states


@pytest.mark.parametrize("alpha", [None, 4.0])
def test_an_alpha_that_nobody_says_is_told(tmp_path, alpha):
    places = {Q_PROJ: (256, 256), Q_PROJ.replace("q_proj", "q_proj_mot_gen"): (256, 256)}
    write_lora(tmp_path / "x.safetensors", places, alpha=alpha)
    said = " ".join(read_lora(tmp_path / "x.safetensors", places).notes)
    assert ("x.safetensors says no alpha for 2 of its weights: taken as the rank" in said) == (alpha is None)
    assert "text is written several times slower" in said
    write_lora(tmp_path / "y.safetensors", dict(list(places.items())[1:]), alpha=4.0)
    assert read_lora(tmp_path / "y.safetensors", places).notes == []


@pytest.mark.parametrize("key", ["(a+)+$", "q_proj.*", "a" * 201, "", "[", "q_proj\\", "(a|a)(a|a)", "{9}"])
def test_patterns_that_may_never_end_are_refused(tmp_path, key):
    write_lora(tmp_path / "adapter_model.safetensors", {Q_PROJ: (256, 256)}, alpha=None)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "alpha_pattern": {key: 1}}))
    with pytest.raises(CheckpointError, match="patterns that are not simple names: alpha_pattern"):
        read_lora(tmp_path, {Q_PROJ: (256, 256)})


def test_more_patterns_than_any_model_has_parameters(tmp_path):
    write_lora(tmp_path / "adapter_model.safetensors", {Q_PROJ: (256, 256)}, alpha=None)
    patterns = {f"a{number}": 1 for number in range(5000)}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"alpha_pattern": patterns}))
    with pytest.raises(CheckpointError, match="5000 entries in alpha_pattern, at most 4096"):
        read_lora(tmp_path, {Q_PROJ: (256, 256)})


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_links_as_in_the_hub_s_cache(tmp_path):
    """Their names and what lies beside them count."""
    write_lora(tmp_path / "blobs/abc.safetensors", {Q_PROJ: (256, 256)}, alpha=None)
    (tmp_path / "blobs/abc.safetensors").rename(tmp_path / "blobs/abc")
    (tmp_path / "snapshot").mkdir()
    for name in ("adapter_model.safetensors", "U1-8step.safetensors"):
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs/abc")
    (tmp_path / "snapshot/adapter_config.json").write_text('{"lora_alpha": 8}')
    assert read_lora(tmp_path / "snapshot", {Q_PROJ: (256, 256)}).factors[Q_PROJ].factor == 2
    named = read_lora(tmp_path / "blobs/../snapshot/U1-8step.safetensors", {Q_PROJ: (256, 256)})
    assert named.path == tmp_path / "snapshot/U1-8step.safetensors"


@pytest.mark.parametrize("settings, said", [({"use_dora": True}, "DoRA"), ({"fan_in_fan_out": True}, "transposed")])
def test_settings_that_change_the_meaning_are_refused(tmp_path, settings, said):
    save_file(PAIR, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=said):
        read_lora(tmp_path, {Q_PROJ: (256, 256)})


@pytest.mark.parametrize("content", ["", "[]", "{", "7", '"x"', "[" * 10_000, "\xff"])
@pytest.mark.parametrize("where", ["beside", "metadata"])
def test_settings_that_are_none(tmp_path, content, where):
    metadata = {"lora_adapter_metadata": content} if where == "metadata" else None
    write_lora(tmp_path / "adapter_model.safetensors", {Q_PROJ: (256, 256)}, metadata=metadata)
    if where == "beside":
        (tmp_path / "adapter_config.json").write_text(content, encoding="latin-1")
    said = "adapter_config" if where == "beside" else r"adapter_model\.safetensors"
    with pytest.raises(CheckpointError, match=rf"LoRA .*{said}.*: its settings are no JSON object.*fetch it again"):
        read_lora(tmp_path, {Q_PROJ: (256, 256)})


@pytest.mark.parametrize("alpha, factor", [("10" + "0" * 400, 1.0), ("[]", 1.0), ("true", 1.0), ('"8"', 2.0)])
def test_an_alpha_that_is_no_number_is_none(tmp_path, alpha, factor):
    write_lora(tmp_path / "adapter_model.safetensors", {Q_PROJ: (256, 256)}, alpha=None)
    (tmp_path / "adapter_config.json").write_text(f'{{"lora_alpha": {alpha}}}')
    assert read_lora(tmp_path, {Q_PROJ: (256, 256)}).factors[Q_PROJ].factor == factor


def test_what_is_no_lora(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    save_file(PAIR, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[:-10])
    (tmp_path / "long.safetensors").write_bytes((2**62).to_bytes(8, "little") + content[8:])
    for name in ("lora.PT", "lora.gguf"):
        (tmp_path / name).write_bytes(content)
    for name, said in [
        ("empty.safetensors", "there is no LoRA in it"),
        ("short.safetensors", "truncated or damaged"),
        ("long.safetensors", "truncated or damaged"),
        ("lora.PT", "a pickle, which can run code"),
        ("lora.gguf", "not a .safetensors file"),
        ("nothing.safetensors", "no such file"),
        (".", "no such file"),
    ]:
        with pytest.raises(CheckpointError, match=said):
            read_lora(tmp_path / name, {Q_PROJ: (256, 256)})


def test_a_checkpoint_is_no_lora(folders, shapes):
    with pytest.raises(CheckpointError, match=r"unknown: .* more"):
        read_lora(folders("plain")[1] / "model.safetensors", shapes)
