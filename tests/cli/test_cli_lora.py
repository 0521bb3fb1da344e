"""`--lora`: which text is a path, what is drawn, and what is said."""

import json
from pathlib import Path

import pytest
from PIL import Image

import sensenova_core
from sensenova_core import SettingsError
from sensenova_core.cli import main
from sensenova_core.cli.models import parse_lora
from tests.support.golden_set import checkpoint
from tests.support.loras import matrices, write_lora
from tests.support.pictures import picture

SMALL = ["--prompt", "a cat", "--width", "64", "--height", "64", "--num-steps", "1"]


@pytest.fixture
def model() -> str:
    return str(checkpoint("tiny-u15"))


@pytest.fixture
def lora(model, tmp_path) -> Path:
    write_lora(tmp_path / "U1_8step.safetensors", matrices(Path(model)))
    return tmp_path / "U1_8step.safetensors"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("x.safetensors", ("x.safetensors", 1.0)),
        ("x.safetensors:0.5", ("x.safetensors", 0.5)),
        ("x.safetensors:-2", ("x.safetensors", -2.0)),
        (r"C:\loras\x.safetensors", (r"C:\loras\x.safetensors", 1.0)),
        (r"C:\loras\x.safetensors:1e-1", (r"C:\loras\x.safetensors", 0.1)),
        ("C:/loras/x.safetensors:.5", ("C:/loras/x.safetensors", 0.5)),
        ("C:5", ("C:5", 1.0)),
        (":0.5", (":0.5", 1.0)),
        ("x.safetensors:much", ("x.safetensors:much", 1.0)),
        ("a:b/x.safetensors:0", ("a:b/x.safetensors", 0.0)),
    ],
)
def test_a_path_and_perhaps_a_strength(text, expected):
    assert parse_lora(text) == expected


def test_a_file_that_is_called_so_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x:1").touch()
    assert parse_lora("x:1") == ("x:1", 1.0) and parse_lora("x:1:2") == ("x:1", 2.0)


def test_no_file_and_no_strength(tmp_path):
    file = tmp_path / "x.safetensors"
    file.touch()
    with pytest.raises(SettingsError, match=r"x\.safetensors:much: 'much' is no strength; give a number"):
        parse_lora(f"{file}:much")
    with pytest.raises(SettingsError, match="--lora is empty"):
        parse_lora("")


def test_pictures_are_the_engine_s_and_say_their_loras(model, lora, tmp_path, caplog):
    options = ["--model", model, *SMALL, "--output", str(tmp_path / "x.png")]
    assert main(["generate", *options, "--lora", f"{lora}:0.5", f"--lora={lora}:0.25"]) == 0
    engine = sensenova_core.load(model, loras=[(lora, 0.75)])
    (*_, step) = engine.sample(engine.encode("a cat"), width=64, height=64, steps=1)
    drawn = Image.open(tmp_path / "x.png")
    (expected,) = step.image()
    assert drawn.tobytes() == (expected * 255).round().byte().numpy().tobytes()
    assert json.loads(drawn.text["sensenova"])["loras"] == [f"{lora.name}:0.5", f"{lora.name}:0.25"]
    assert "Config: config.json" in caplog.text and "text is written several times slower" in caplog.text
    assert "seems to be made for U1 (by its file name), and this model has a pixel head" in caplog.text
    assert (
        "a LoRA is made for 8 steps, cfg 1, shift 3 (8 steps by its file name): draw with --num-steps 8" in caplog.text
    )


def test_with_its_settings_nothing_is_said_of_them(model, lora, tmp_path, caplog):
    options = ["--model", model, *SMALL[:-1], "8", "--cfg-scale", "1", "--output", str(tmp_path)]
    assert main(["generate", *options, "--lora", str(lora)]) == 0
    assert "draw with" not in caplog.text


def test_answers_and_documents_take_it_too(model, lora, tmp_path, capsys):
    assert main(["chat", "--model", model, "--prompt", "what?", "--max-tokens", "3"]) == 0
    before = capsys.readouterr().out
    assert main(["chat", "--model", model, "--prompt", "what?", "--max-tokens", "3", "--lora", f"{lora}:3"]) == 0
    assert capsys.readouterr().out != before
    document = ["--width", "64", "--height", "64", "--max-tokens", "2", "--max-images", "0", "--output", str(tmp_path)]
    assert main(["interleave", "--model", model, "--prompt", "x", *document, "--lora", str(lora)]) == 0


def test_a_plan_counts_it(model, lora, capsys, caplog):
    options = ["plan", "--model", model, "--width", "64", "--height", "64", "--vram-mode", "balanced"]
    assert main(options) == 0
    assert "make one layer ready" not in capsys.readouterr().out
    assert main([*options, "--lora", f"{lora}:0.5"]) == 0
    assert "make one layer ready" in capsys.readouterr().out
    assert "seems to be made for U1 (by its file name)" in caplog.text
    assert main([*options, "--lora", f"{lora}x"]) == 1


def test_mistakes_are_one_line(model, lora, tmp_path, capsys):
    picture(64, 64).save(tmp_path / "x.safetensors", format="PNG")
    for text, said in [
        (str(tmp_path / "none.safetensors"), "no such file"),
        (f"{lora}:nan", "the strength of U1_8step.safetensors is nan; give a finite number"),
        (str(tmp_path / "x.safetensors"), "x.safetensors is a picture; give a model's file"),
    ]:
        assert main(["generate", "--model", model, *SMALL, "--lora", text]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("sensenova: error: ") and said in line
