"""Budgets as users write them: how max_memory is spelled, and which device's memory it limits."""

import sys
from math import ceil

import pytest
import torch

from sensenova_core import SettingsError
from sensenova_core.cli import main
from sensenova_core.memory import Limits, limits_of
from sensenova_core.memory.budget import in_words, parse_max_memory
from sensenova_core.settings import SIZE_UNITS
from tests.support.each import each

MIB, GIB = 2**20, 2**30
CPU = torch.device("cpu")
FIRST, SECOND, UNNUMBERED = map(torch.device, ("cuda:0", "cuda:1", "cuda"))


@pytest.mark.parametrize(
    "text, expected",
    [
        (None, {}),
        ("", {}),
        (" Auto ", {}),
        ("13GiB", {0: 13 * GIB}),
        ("13GB", {0: 13 * 10**9}),
        ("500MiB", {0: 500 * MIB}),
        ("0=13GiB,cpu=64GiB", {0: 13 * GIB, "cpu": 64 * GIB}),
        (" 0 = 13GiB , cpu = 64GiB ", {0: 13 * GIB, "cpu": 64 * GIB}),
        ("cpu=64GiB", {"cpu": 64 * GIB}),
        ("0=13GiB,1=7GiB", {0: 13 * GIB, 1: 7 * GIB}),
        ("cuda:0=13GiB,CPU=64GiB", {0: 13 * GIB, "cpu": 64 * GIB}),
        ("CUDA:1=13GiB", {1: 13 * GIB}),
    ],
)
def test_max_memory_is_spelled_as_accelerate_does(text, expected):
    assert parse_max_memory(text) == expected


@pytest.mark.parametrize("text", ["much", "13", "GiB", "0=", "=", "gpu=1GiB", "13GiB,", "0=0GiB", "-1GiB", "cpu=-1GiB"])
def test_max_memory_that_cannot_be_read(text):
    with pytest.raises(SettingsError, match=r"max_memory.*such as 13GiB"):
        parse_max_memory(text)


@pytest.mark.parametrize("text", ["13G", "13", "13Gi", "0=13G"])
def test_a_size_without_a_known_unit_is_told_which_there_are(text):
    with pytest.raises(SettingsError, match=r"cannot read.*Units are GiB, MiB and KiB \(of 1024\), GB, MB and KB"):
        parse_max_memory(text)


def test_a_size_in_small_letters_is_of_bytes():
    """The library that reads sizes takes a small b for bits."""
    assert parse_max_memory("13gb") == parse_max_memory("13GB") == {0: 13 * 10**9}
    assert parse_max_memory("0=13gib,cpu=2mib") == {0: 13 * GIB, "cpu": 2 * MIB}


@pytest.mark.parametrize(
    "text, device", [("0=1GiB,0=2GiB", 0), ("13GiB,cuda:0=1GiB", 0), ("cpu=1GiB,CPU=1GiB", "cpu"), ("1GiB,2GiB", 0)]
)
def test_max_memory_names_a_device_once(text, device):
    with pytest.raises(SettingsError, match=f"gives device {device} two sizes; leave one out"):
        parse_max_memory(text)


def test_without_accelerate_a_size_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate.utils.modeling", None)
    assert parse_max_memory("auto") == {}
    with pytest.raises(SettingsError, match=r"max_memory '13GiB'.*missing; run .*-m pip install --upgrade accelerate"):
        parse_max_memory("13GiB")


def test_help_lists_the_units_of_sizes(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert SIZE_UNITS in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("value", [13, 13.0, {"0": "13GiB"}])
def test_max_memory_that_is_no_text(value):
    with pytest.raises(SettingsError, match=r"max_memory is .*such as 13GiB"):
        parse_max_memory(value)


@pytest.mark.parametrize(
    "text, device, expected",
    [
        ("auto", FIRST, (None, None)),
        ("13GiB", FIRST, (13 * GIB, None)),
        ("13GiB", CPU, (13 * GIB, None)),
        ("13GiB", UNNUMBERED, (13 * GIB, None)),
        ("13GiB", SECOND, (13 * GIB, None)),  # a size alone is for the device the model runs on
        ("0=13GiB,cpu=64GiB", FIRST, (13 * GIB, 64 * GIB)),
        ("cuda:1=7GiB", SECOND, (7 * GIB, None)),
        ("7GiB,cpu=1GiB", SECOND, (7 * GIB, GIB)),
        ("1=7GiB,cpu=1GiB", SECOND, (7 * GIB, GIB)),
        ("cpu=64GiB", SECOND, (None, 64 * GIB)),
    ],
)
def test_limits_are_those_of_the_device(text, device, expected):
    limits = limits_of("balanced", text, device)
    assert (limits.device, limits.page_locked) == expected
    assert limits.mode == "balanced" and limits.weights is None


@pytest.mark.parametrize("text, device, missing", [("0=13GiB", SECOND, "1="), ("1=7GiB,cpu=1GiB", FIRST, "0=")])
def test_a_device_that_is_not_named_is_asked_for(text, device, missing):
    with pytest.raises(SettingsError, match=f"says nothing of device {missing[0]}.*add {missing}"):
        limits_of("auto", text, device)


@pytest.mark.parametrize(
    "text, device, other", [("0=13GiB,1=7GiB", FIRST, 1), ("0=13GiB,1=7GiB", SECOND, 0), ("7GiB,2=1GiB", UNNUMBERED, 2)]
)
def test_a_device_that_is_not_used_is_refused(text, device, other):
    with pytest.raises(SettingsError, match=f"gives device {other} a size.*alone; leave {other}= out"):
        limits_of("auto", text, device)


def test_an_unknown_mode_is_refused():
    with pytest.raises(SettingsError, match="vram_mode 'tiny' is unknown; choose one of auto, full, balanced, low"):
        limits_of("tiny", None, CPU)


def test_two_gibibytes_of_system_memory_are_left_to_others():
    assert Limits().page_lockable(10 * GIB) == 8 * GIB
    assert Limits(page_locked=3 * GIB).page_lockable(10 * GIB) == 3 * GIB
    assert Limits(page_locked=30 * GIB).page_lockable(10 * GIB) == 8 * GIB
    assert Limits().page_lockable(GIB) == Limits(page_locked=GIB).page_lockable(GIB) == 0


@pytest.mark.parametrize(
    "size, words",
    [
        (0, "0.00 GiB"),
        (1, "0.00 MiB"),
        (1_900_000, "1.81 MiB"),
        (102 * MIB, "102.00 MiB"),
        (103 * MIB, "0.10 GiB"),
        (13 * GIB, "13.00 GiB"),
    ],
)
def test_small_amounts_are_in_mebibytes(size, words):
    assert in_words(size) == words


def test_amounts_can_be_rounded_up():
    assert in_words(MIB + 1, ceil) == "1.01 MiB" and in_words(13 * GIB + 1, ceil) == "13.01 GiB"


@each(
    "text",
    [
        "\ud83dGiB",
        "13GiB\udfff",
        "1e3GiB",
        "nanGiB",
        "１３GiB",
        "1_0GiB",
        "9" * 10**6 + "GiB",
        "9" * 10**6,
        "\0",
        "=" * 10**6,
    ],
)
def test_a_size_of_any_letters_is_refused_by_us_alone(text):
    with pytest.raises(SettingsError, match=r"cannot read|is not over 0") as refused:
        parse_max_memory(text)
    assert refused.value.__cause__ is None and refused.value.__suppress_context__
    assert len(str(refused.value)) < 500 and str(refused.value).isprintable()
