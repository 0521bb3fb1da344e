"""LoRA files: names and settings as they are published, what does not fit, and what is replaced while it is used."""

import json
import re
import sys
from collections.abc import Callable
from itertools import product

import pytest
import torch
from safetensors.torch import save_file

from sensenova_core import CheckpointError
from sensenova_core.lora import read_lora
from tests.lora.telling import drawing, tell
from tests.support.loras import matrices, write_lora
from tests.support.streaming import draw_short

Q_PROJ = "language_model.model.layers.1.self_attn.q_proj.weight"
UP, DOWN = torch.zeros(256, 4), torch.zeros(4, 256)
PLACE = Q_PROJ.removesuffix(".weight")
FLAT = "lora_unet_" + PLACE.replace(".", "_")
PAIR = {f"{PLACE}.lora_up.weight": UP, f"{PLACE}.lora_down.weight": DOWN}


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


ALPHAS = [
    ({"lora_alpha": 8}, 2.0),
    ({"lora_alpha": 8, "use_rslora": True}, 4.0),
    ({"lora_alpha": 8, "use_rslora": False, "r": 4}, 2.0),
    ({"r": 4}, 1.0),
    ({"lora_alpha": 8, "alpha_pattern": {"q_proj": 1}}, 0.25),
    ({"lora_alpha": 8, "alpha_pattern": {"proj": 1, "self_attn.q_proj": 2, "q_proj": 4}}, 0.5),
    ({"lora_alpha": 8, "alpha_pattern": {"q_proj": 4, "self_attn.q_proj": 2}}, 1.0),
    ({"lora_alpha": 8, "alpha_pattern": {Q_PROJ.removesuffix(".weight"): 1}}, 0.25),
    ({"lora_alpha": 8, "alpha_pattern": {"layers.2.self_attn.q_proj": 1}, "rank_pattern": {"q.*": 4}}, 2.0),
]
PLACES = ("beside", "metadata", "diffusers")


@pytest.mark.parametrize(
    "settings, factor, where",
    [
        (settings, factor, where)
        for (settings, factor), where in product(ALPHAS, PLACES)
        if where != "metadata" or "alpha_pattern" not in settings  # texts have no patterns
    ],
    ids=str,
)
def test_alpha_as_peft_says_it(tmp_path, settings, factor, where):
    shapes = {Q_PROJ: (256, 256)}
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


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"x.lora_te.weight": UP}, "1 unknown: x.lora_te.weight"),
        ({"x.lora_up.weight": UP, "x.lora_down.weight": DOWN}, "1 for parameters that this model lacks: x"),
        ({f"{PLACE}.lora_up.weight": UP.new_zeros(255, 4)}, r"1 of another shape: .*q_proj is \[256, 256\], its"),
        ({f"{PLACE}.lora_down.weight": UP.new_zeros(3, 256)}, r"1 of another shape: .*\[256, 4\] and \[3, 256\]"),
        ({f"{PLACE}.lora_up.weight": UP.to(torch.int8)}, "1 of another type: .*I8, readable are F32"),
        ({f"{PLACE}.dora_scale": UP}, "1 DoRA"),
        ({f"{PLACE}.lora_magnitude_vector.weight": UP}, "1 DoRA"),
        ({f"{PLACE}.hada_w1_a": UP}, "1 LoHa"),
        ({f"{PLACE}.lokr_w1": UP}, "1 LoKr"),
        ({f"{PLACE}.diff": UP, f"{PLACE}.diff_b": UP[0]}, "2 whole differences of weights"),
        ({f"{PLACE}.alpha": torch.tensor(float("nan"))}, "1 of no finite alpha"),
        ({f"{PLACE}.alpha": torch.ones(2)}, "1 of no finite alpha"),
        ({f"{PLACE}.lora_A.weight": DOWN}, r"1 unknown: .*a second one"),
        ({f"{FLAT}.lora_A.weight": DOWN, f"{FLAT}.lora_B.weight": UP}, r"2 unknown: lora_unet_.* \(a second one\)"),
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


@pytest.mark.parametrize("key", ["(a+)+$", "q_proj.*", "^q_proj", "k_proj|q_proj", "", "[", "q_proj\\", "layers.{9}"])
def test_alphas_of_anything_but_plain_names_are_refused(tmp_path, key):
    write_lora(tmp_path / "adapter_model.safetensors", {Q_PROJ: (256, 256)}, alpha=None)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "alpha_pattern": {key: 1}}))
    with pytest.raises(CheckpointError, match=f"alphas of no plain name: alpha_pattern {re.escape(repr(key))}"):
        read_lora(tmp_path, {Q_PROJ: (256, 256)})


def test_more_alphas_than_any_model_has_parameters_take_no_time(tmp_path):
    write_lora(tmp_path / "adapter_model.safetensors", {Q_PROJ: (256, 256)}, alpha=None)
    alphas = {f"a{number}": 1 for number in range(100_000)} | {"q_proj": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"alpha_pattern": alphas}))
    assert read_lora(tmp_path, {Q_PROJ: (256, 256)}).factors[Q_PROJ].factor == 0.5


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
    with pytest.raises(CheckpointError, match=rf"LoRA .*{said}.*: its settings are no JSON object.*fetch .* again"):
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
    with pytest.raises(CheckpointError, match=r"a whole checkpoint \(\d+ weights.*give it as the model"):
        read_lora(folders("plain")[1] / "model.safetensors", shapes)


# Files that are replaced.


@pytest.mark.parametrize("vram_mode", ["auto", "balanced"])
def test_a_file_that_was_replaced_is_read_anew(folders, load, tmp_path, vram_mode):
    file, shapes = tmp_path / "x.safetensors", matrices(folders("plain")[1])
    write_lora(file, shapes, 0)
    engine = load(vram_mode=vram_mode, loras=[(file, 1.0)])
    first = tell(engine)
    write_lora(file, shapes, 1, rank=5)
    engine.remembered.forget()
    anew = tell(engine)["picture"]  # files are looked at again when a run begins
    assert not torch.equal(anew, first["picture"])
    engine.use_loras([(file, 1.0)])
    assert torch.equal(tell(engine)["picture"], anew)
    engine.use_loras([])
    file.unlink()
    engine.use_loras([])  # it goes along no longer
    tell(engine)


def test_settings_that_were_replaced_are_read_anew(folders, load, tmp_path):
    """They lie beside the file, which stays as it is."""
    peft, beside = SPELLINGS["peft"], tmp_path / "adapter_config.json"
    write_lora(tmp_path / "adapter_model.safetensors", matrices(folders("plain")[1], drawing), alpha=None, name=peft)
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
