"""The command line, run as a user runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sensenova_core
from sensenova_core import Engine
from sensenova_core.cli import main
from tests.support.golden_set import checkpoint
from tools import readme_tables

ROOT = Path(__file__).parents[2]
SMALL = ["--width", "64", "--height", "96", "--num-steps", "2"]


@pytest.fixture
def model() -> str:
    return str(checkpoint("tiny-u15"))


def test_a_picture_equals_the_engine_s_and_carries_its_settings(model, tmp_path, capsys):
    output = tmp_path / "cat.png"
    assert (
        main(["generate", "--model", model, "--prompt", "a cat", *SMALL, "--seed", "7", "--output", str(output)]) == 0
    )
    engine = sensenova_core.load(model)
    *_, last = engine.sample(engine.encode("a cat"), width=64, height=96, steps=2, seed=7)
    drawn = Image.open(output)
    assert np.array_equal(np.asarray(drawn), (last.image()[0].numpy() * 255).round())
    settings = json.loads(drawn.text["sensenova"])
    assert settings["prompt"] == "a cat" and settings["seed"] == 7 and settings["cfg"] == 4.0
    assert settings["model"] == Path(model).name
    assert capsys.readouterr().out.strip() == str(output)


def test_underscores_and_the_reference_s_names_are_understood(model, tmp_path):
    arguments = ["generate", "--model_path", model, "--num_steps=1", "--cfg_scale", "1", "--output_dir", str(tmp_path)]
    assert main([*arguments, "--width", "64", "--height", "64"]) == 0
    assert main([*arguments, "--width", "64", "--height", "64"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sensenova_00001.png", "sensenova_00002.png"]


def test_a_batch_is_numbered(model, tmp_path):
    assert main(["generate", "--model", model, *SMALL, "--batch-size", "3", "--output", str(tmp_path / "x.png")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png", "x_2.png", "x_3.png"]


def test_a_jsonl_line_overrides_the_options(model, tmp_path):
    lines = [{"prompt": "a"}, {"prompt": "b", "width": 128, "cfg-scale": 1, "cfg_interval": [0.2, 0.8]}]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    assert main(["generate", "--model", model, *SMALL, "--jsonl", str(file), "--output", str(tmp_path / "out")]) == 0
    drawn = [Image.open(path) for path in sorted((tmp_path / "out").iterdir())]
    assert [image.size for image in drawn] == [(64, 96), (128, 96)]
    assert json.loads(drawn[1].text["sensenova"])["cfg_interval"] == [0.2, 0.8]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('{"width": 64}', 'line 2: expected an object with a "prompt"'),
        ('{"prompt": "a", "steps": 3}', "line 2: 'steps' is unknown; the keys are "),
        (
            '{"prompt": "a", "width": 100}',
            "line 2: width is 100; this model draws multiples of 32, such as 96",
        ),
        ('{"prompt": "a", "height": 32768}', "line 2: height is 32768; give at most 16384 pixels"),
        ('{"prompt": "a", "num-steps": 0}', "line 2: num_steps is 0; give a whole number from 1"),
        ('{"prompt": "<image>"}', "line 2: the prompt names 1 more <image> than there are images"),
        ('{"prompt": "a", "image": "/nowhere.png"}', "line 2: image /nowhere.png: "),
        ('{"prompt": ' + 10**5 * "[", "line 2: not JSON"),
        ('{"prompt": "a", "width": "64"}', "line 2: width is '64'; expected int"),
        ('{"prompt": "a", "cfg_interval": [1]}', "line 2: cfg_interval is"),
        ('{"prompt": "a", "cfg_norm": "glob"}', "line 2: cfg_norm 'glob' is unknown; choose one of none"),
    ],
)
def test_a_bad_jsonl_line_is_named_and_nothing_is_drawn(model, tmp_path, capsys, line, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line)
    assert main(["generate", "--model", model, *SMALL, "--jsonl", str(file), "--output", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "100"], "--width is 100; this model draws multiples of 32, such as 96; with --crop it cuts"),
        (["--num-steps", "0"], "--num-steps is 0; give a whole number from 1"),
        (["--num-steps", "-3"], "--num-steps is -3"),
        (
            ["--cfg-norm", "strong"],
            "--cfg-norm 'strong' is unknown; choose one of none, global, channel",
        ),
        (["--cfg-interval", "0.8", "0.2"], "--cfg-interval 0.8 to 0.2 is not an interval"),
        (["--timestep-shift", "0"], "--timestep-shift is 0.0; give a number over 0"),
        (["--cfg-scale", "nan"], "--cfg-scale is nan; give a finite number"),
        (["--img-cfg-scale", "inf"], "--img-cfg-scale is inf"),
        (["--cfg-interval", "0", "nan"], "an end of --cfg-interval is nan"),
        (["--batch-size", "0"], "--batch-size is 0; give a whole number from 1"),
        (["--max-pixels", "0"], "--max-pixels is 0; give a whole number from 1"),
        (["--think", "--max-think-tokens", "0"], "--max-think-tokens is 0; give a whole number from 1"),
        (["--width", "16416"], "--width is 16416; give at most 16384 pixels"),
        (["--height", "10000000"], "--height is 10000000; give at most 16384 pixels"),
        (["--print-think"], "--print-think needs --think"),
        (["--device", "cuda:9"], "--device cuda:9: not on this machine; choose one of auto, cpu"),
        (["--device", "tpu"], "--device tpu: not on this machine; choose one of auto, cpu"),
        (["--prompt", "<image> as a cat"], "names 1 more <image> than there are images; remove a placeholder"),
        (["--attn-backend", "flash"], "install flash-attn, or choose 'auto' or 'sdpa'"),
        (["--model", "nobody/nothing"], "nobody/nothing: no such folder, and nothing under that id in the local hub"),
        (["--model", "/nowhere"], "/nowhere: no such file or folder"),
        (["--jsonl", "/nowhere.jsonl"], "/nowhere.jsonl"),
    ],
)
def test_a_user_s_mistake_is_one_line_that_names_value_and_remedy(model, tmp_path, capsys, arguments, message):
    assert main(["generate", "--model", model, *SMALL, "--output", str(tmp_path / "x.png"), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("sensenova: error: ") and message in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_option_is_named_where_a_jsonl_line_leaves_it(model, tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a", "seed": 1}')
    assert main(["generate", "--model", model, "--jsonl", str(file), "--num-steps", "0"]) == 1
    assert "line 1: --num-steps is 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modality", "text2text"], "--jsonl is for pictures; --modality text2text answers one --prompt"),
        (["--prompt", "b"], "--jsonl and --prompt exclude each other"),
    ],
)
def test_a_jsonl_file_is_never_ignored(tmp_path, capsys, arguments, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}')
    assert main(["generate", "--model", "/nowhere", "--jsonl", str(file), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        (["--temperature", "0.9", "--max-think-tokens", "5"], "--max-think-tokens, --temperature: no effect without"),
        (["--same-size", "--img-cfg-scale", "2"], "--img-cfg-scale, --same-size: no effect without an image"),
        (["--max-tokens", "9"], "--max-tokens: no effect on pictures; reasoning has --max-think-tokens"),
        (["--temperature", "0.7"], None),  # the default, spelled out
    ],
)
def test_what_has_no_effect_is_said(model, tmp_path, caplog, arguments, warning):
    assert main(["generate", "--model", model, *SMALL, "--output", str(tmp_path), *arguments]) == 0
    assert warning in caplog.text if warning else "WARNING" not in caplog.text


def test_a_text_modality_says_what_it_ignores(model, capsys, caplog):
    arguments = ["generate", "--model", model, "--modality", "text2text", "--max-tokens", "2"]
    assert main([*arguments, "--output", "x", "--crop", "--seed", "3", "--top-k", "5"]) == 0
    assert "--crop, --output: no effect with --modality text2text" in caplog.text
    assert "--top-k: no effect without --do-sample" in caplog.text


def test_only_flags_are_spelled_with_dashes(model, tmp_path):
    output = tmp_path / "x.png"
    arguments = ["generate", "--model", model, *SMALL, "--num_st=1", "--output", str(output)]
    assert main([*arguments, "--prompt", "--a_b of_c"]) == 0
    assert json.loads(Image.open(output).text["sensenova"])["prompt"] == "--a_b of_c"


OUT_OF_MEMORY = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_says_what_to_make_smaller(model, tmp_path, capsys, monkeypatch, error):
    monkeypatch.setattr(Engine, "place", failing(error))
    assert main(["generate", "--model", model, *SMALL, "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("sensenova: error: out of memory; ") and len(printed.splitlines()) == 1
    assert printed.endswith("try smaller --width, --height, --batch-size, --max-pixels\n")


@pytest.mark.parametrize("command", [["generate", "--modality", "text2text"], ["chat", "--prompt", "a"]])
def test_out_of_memory_of_an_answer_names_no_pixels_to_draw(model, capsys, monkeypatch, command):
    monkeypatch.setattr(Engine, "understand", failing(MemoryError()))
    assert main([*command, "--model", model]) == 1
    assert capsys.readouterr().err.endswith("try smaller --max-pixels, --max-tokens\n")


def test_another_error_of_torch_is_not_hidden(model, monkeypatch):
    monkeypatch.setattr(Engine, "place", failing(RuntimeError("the sizes of tensors must match")))
    with pytest.raises(RuntimeError, match="must match"):
        main(["generate", "--model", model, *SMALL])


def failing(error: Exception):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_the_profile_has_the_published_rows(model, tmp_path, capsys):
    assert main(["generate", "--model", model, *SMALL, "--profile", "--output", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    rules = [index for index, line in enumerate(lines) if line == "=" * 64]
    assert rules == [0, 2, 11, len(lines) - 1] and lines[1] == "Profile summary"
    number, memory = r"\d+\.\d+", r"allocated \d+\.\d\d GiB, reserved \d+\.\d\d GiB, cpu RSS \d+\.\d\d GiB"
    rows = {
        "config": "vram_mode=auto, attn_backend=sdpa, dtype=float32",
        "model load": rf"{number} s",
        "load peak memory": memory,
        "generations": rf"1 call\(s\), 1 image\(s\) total, {number} s wall",
        "avg per image": rf"{number} s",
        "image tokens": r"patch_size=32, avg 6 tok/image \(6\)",
        "throughput": rf"{number} tok/s",
        "generation peak mem": memory,
    }
    found = dict(re.split(r"\s+: ", line, maxsplit=1) for line in lines[3:11])
    assert list(found) == list(rows)
    assert all(re.fullmatch(pattern, found[name]) for name, pattern in rows.items())


def test_inspect_prints_the_report(model, capsys):
    assert main(["inspect", "--model", model, "--show_groups", "", "--dtype", "float32"]) == 0
    text = capsys.readouterr().out
    assert f"Model: {model}\nLoad dtype: float32\nTotal params: 948.928K" in text and "Members" not in text
    assert main(["inspect", "--model", model, "--show-groups", "nothing"]) == 1
    assert "group 'nothing' is unknown; there are" in capsys.readouterr().err


def test_the_module_runs_and_shows_progress(model, tmp_path):
    command = [sys.executable, "-m", "sensenova_core", "generate", "--model", model, *SMALL, "--output", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "2/2" in ran.stderr and "Traceback" not in ran.stderr


def test_nothing_half_written_stays(model, tmp_path, capsys, monkeypatch):
    def fail(self, target, *args, **kwargs):
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    assert main(["generate", "--model", model, *SMALL, "--output", str(tmp_path / "x.png")]) == 1
    assert "disk full" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("x.png", "is one file for 2 prompts; give a folder"),
        ("folder.png", "folder.png is a folder; give another name"),
        ("second.png", "second_2.png is a folder; give another name"),
        ("x.jpg", "pictures are written as PNG; give a folder or the name of a .png"),
        ("file", "give a folder or the name of a .png"),
        ("file/pictures", "file cannot be written to; give another folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_loaded(tmp_path, capsys, output, message):
    there = ["file", "folder.png", "prompts.jsonl", "second_2.png"]
    for name in (there[1], there[3]):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("in the way")
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('{"prompt": "a\u2028b"}\n{"prompt": "b"}\n', encoding="utf-8-sig")
    many = ["--batch-size", "2"] if "is a folder" in message else ["--jsonl", str(lines)]
    assert main(["generate", "--model", "/nowhere", *many, "--output", str(tmp_path / output)]) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == there


def test_the_readme_lists_every_setting_and_the_keys_of_a_jsonl_line():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == readme_tables.written(readme), "run python -m tools.readme_tables"
    assert {*re.findall(r"<!-- (\w+) -->", readme)} == {*readme_tables.tables(), "end"}


def test_verbose_says_more_of_files_loading_plan_and_copies(model, tmp_path, caplog):
    arguments = ["generate", "--model", model, *SMALL, "--vram-mode", "low", "--output", str(tmp_path / "x.png")]
    assert main(arguments) == 0
    more = ("reading the headers of", "loaded tiny-u15 in", "copying to cpu begins")
    assert "memory low; " in caplog.text and not any(line in caplog.text for line in more)
    caplog.clear()
    assert main([*arguments, "--verbose"]) == 0
    assert "memory low; " in caplog.text and all(line in caplog.text for line in more)


@pytest.mark.parametrize("command", ["generate", "chat", "interleave", "inspect", "plan", "download"])
def test_every_command_has_verbose(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--verbose" in capsys.readouterr().out
