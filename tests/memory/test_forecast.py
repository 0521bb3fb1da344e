"""Plans asked for before there is anything to run: `sensenova plan`, and what the Memory Plan node shows."""

import re

import pytest

from sensenova_core import Engine, SamplingSettings, SettingsError
from sensenova_core.cli import main
from sensenova_core.settings import TASKS, LoadSettings
from tests.support.golden_set import checkpoint


@pytest.fixture
def planned(capsys):
    """Arguments of `plan` -> the rows of each plan that it prints."""

    def rows(*arguments: str) -> list[dict[str, str]]:
        assert main(["plan", "--model", str(checkpoint("tiny-u15")), "--device", "cpu", *arguments]) == 0
        plans = capsys.readouterr().out.split("\n\n")
        return [dict(re.split(r"\s+: ", line, maxsplit=1) for line in plan.splitlines()) for plan in plans]

    return rows


@pytest.mark.parametrize("mode", ["auto", "low"])
def test_without_a_card_a_cpu_says_what_one_would_need(planned, mode):
    [plan] = planned("--vram-mode", mode, "--width", "256", "--height", "256")
    assert plan["task"] == "a picture of 256 x 256, batch of 1, 50 steps"
    assert "none was named" in plan["card"] and "--card" in plan["card"]
    least, most = re.findall(r"([\d.]+) ([GM]iB)", plan["card"])[:2]
    [streams] = planned("--card", "".join(least), "--width", "256", "--height", "256")
    assert "parts stream" in streams["drawing"] and "card" not in streams
    [stays] = planned("--card", "".join(most), "--width", "256", "--height", "256")
    assert stays["drawing"].startswith("all 3 parts stay")


def test_in_place_a_plan_says_what_the_task_takes(planned):
    [plan] = planned("--task", "understand")
    assert plan["mode"] == "weights run where they lie, mapped from their files"
    assert re.fullmatch(r"[\d.]+ MiB for the task itself; 3\.62 MiB stay in their files", plan["system"])


@pytest.mark.parametrize(
    "arguments, tasks, assumed",
    [
        ([], ["a picture of 2048 x 2048, batch of 1, 50 steps"], "a prompt of 400 tokens with the system message"),
        (
            ["--num-images", "2", "--prompt-tokens", "50", "--max-think-tokens", "9"],
            ["reasoning of up to 9 tokens after 8242", "an edit of 2 images, 2048 x 2048, batch of 1, 50 steps"],
            "a prompt of 50 tokens with the system message, images of the largest size that is read",
        ),
        (
            ["--task", "understand", "--num-images", "1", "--max-tokens", "7"],
            ["an answer of up to 7 tokens after 4496"],
            "a prompt of 400 tokens with the system message, an image of the largest size that is read",
        ),
        (
            ["--task", "interleave", "--width", "512", "--height", "512"],
            ["picture 10 of a document, 512 x 512"],
            "a prompt of 400 tokens with the system message, 1024 tokens of text between two pictures",
        ),
    ],
)
def test_tasks_and_what_is_assumed(planned, arguments, tasks, assumed):
    plans = planned("--card", "11GiB", *arguments)
    assert [plan["task"] for plan in plans] == tasks
    assert [plan["assumed"] for plan in plans] == [assumed] * len(tasks)


@pytest.mark.parametrize("task", TASKS)
def test_a_longer_prompt_takes_more(planned, task):
    short, long = (
        planned("--task", task, "--width", "64", "--height", "64", "--prompt-tokens", tokens)[0]["system"]
        for tokens in ("9", "9000")
    )
    assert short != long


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--num-images", "11"], "--num-images is 11; give a whole number from 0 to 10"),
        (["--max-think-tokens", "-1"], "--max-think-tokens is -1; give a whole number from 0"),
        (["--max-tokens", "0"], "--max-tokens is 0; give a whole number from 1"),
        (["--prompt-tokens", "0"], "--prompt-tokens is 0; give a whole number from 1"),
        (["--task", "interleave", "--batch-size", "2"], "--batch-size is 2; a document's images are drawn one by one"),
        (["--card", "11G"], "--card '11G': cannot read '11G'"),
        (["--card", "1MiB", "--task", "understand"], "fewer or smaller images to read"),
    ],
)
def test_a_mistake_names_the_option(capsys, arguments, message):
    assert main(["plan", "--model", str(checkpoint("tiny-u15")), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_what_has_no_effect_is_said(planned, caplog):
    planned("--task", "understand", "--width", "64", "--card", "1GiB")
    assert "--width: no effect with --task understand" in caplog.text


def test_an_unknown_task_is_refused():
    engine = Engine(checkpoint("tiny-u15"), LoadSettings())
    with pytest.raises(SettingsError, match="task 'paint' is unknown; choose one of draw, understand, interleave"):
        engine.forecast(SamplingSettings(), task="paint")


def test_help_lists_all_tasks(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "{" + ",".join(TASKS) + "}" in capsys.readouterr().out
