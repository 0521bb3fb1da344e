"""The self-test: all is right on a CPU, and whatever is made wrong is found and named."""

import sys
import time

import pytest
import torch
from torch import nn

from sensenova_core import selftest
from sensenova_core.checkpoint.formats import FORMATS
from sensenova_core.cli import main
from sensenova_core.cli import selftest as command
from sensenova_core.memory.transfers import Transfers
from sensenova_core.model import int8
from sensenova_core.model.attention import sdpa
from sensenova_core.model.rope import Rotation
from sensenova_core.report.selftest_picture import RED, selftest_picture
from sensenova_core.selftest import ABSENT, RIGHT, WRONG, Check, Outcome, all_checks, arithmetic, attention, outcomes
from sensenova_core.selftest.check import Absent, Measured, outcome

CPU = torch.device("cpu")


def wrong() -> set[str]:
    """Groups of what is found to be wrong."""
    return {each.group for each in outcomes(all_checks(CPU)) if each.verdict == WRONG}


def test_all_is_right_here_and_quick():
    began = time.process_time()
    found = list(outcomes(all_checks(CPU)))
    assert time.process_time() - began < 5
    assert [each for each in found if each.verdict == WRONG] == []
    assert {each.group for each in found if each.verdict == RIGHT} == {
        *("types", "rotary", "masks", "attention", "FP8", "copies"),
        *(["INT8"] if int8.is_multiplied_on(CPU) else []),
    }
    assert {each.name.split()[0] for each in found if each.group == "attention"} == {
        *("sdpa", "sdpa_cudnn", "sdpa_flash", "sdpa_efficient", "flash", "flash3", "sage")
    }
    assert all(each.note for each in found if each.verdict == ABSENT)


def test_a_slightly_wrong_product_is_found(monkeypatch):
    """By 1 % of itself, in the type that it is wrong in."""
    real = nn.functional.linear
    planted = lambda x, weight: real(x, weight) * (1.01 if x.dtype == torch.bfloat16 else 1)  # noqa: E731
    monkeypatch.setattr(arithmetic.F, "linear", planted)
    found = [each for each in outcomes(arithmetic.checks(CPU)) if each.verdict == WRONG]
    assert [each.name for each in found] == ["product in bfloat16"] and 0.009 < found[0].error < 0.011


def test_a_wrong_rotation_is_found(monkeypatch):
    """Rows and columns changed for each other."""
    real = arithmetic.rotation
    monkeypatch.setattr(arithmetic, "rotation", lambda positions, **known: real(positions[[0, 2, 1]], **known))
    assert wrong() == {"rotary"}


def test_sines_that_are_slightly_off_are_found(monkeypatch):
    """As those of quick mathematics on cards."""
    real = Rotation.turn
    monkeypatch.setattr(Rotation, "turn", lambda self, x: real(Rotation(self.cos, self.sin + 1e-3), x))
    assert wrong() == {"rotary"}


def test_a_mask_that_leaks_is_found(monkeypatch):
    def leaks(query, key, value, *, causal):
        return sdpa(query, key, value, causal=causal) + 1e-3 * value.mean((1, 2), keepdim=True)

    monkeypatch.setattr(attention, "sdpa", leaks)
    assert wrong() == {"masks"}


def test_wrong_attention_is_found(monkeypatch):
    monkeypatch.setattr(
        attention, "made_kernel", lambda *_: lambda query, key, value, *, causal: sdpa(query, key, value, causal=False)
    )
    assert wrong() == {"attention"}


@pytest.mark.skipif(not int8.is_multiplied_on(CPU), reason="this processor multiplies no INT8")
def test_sums_that_run_over_are_found(monkeypatch):
    real = int8.Int8Linear.sums
    monkeypatch.setattr(int8.Int8Linear, "sums", lambda self, numbers: real(self, numbers).clamp(-(2**15), 2**15))
    assert wrong() == {"INT8"}


def test_fp8_that_is_unpacked_wrongly_is_found(monkeypatch):
    real = FORMATS["F8_E4M3"]

    class Wrong:
        numbers = real.numbers

        def unpack(self, raw, into):
            real.unpack(raw, into)
            into[raw == 0x08] = 0  # the smallest that is no subnormal

    monkeypatch.setitem(FORMATS, "F8_E4M3", Wrong())
    assert [each.name for each in outcomes(all_checks(CPU)) if each.verdict == WRONG] == ["E4M3 unpacked"]


def test_one_wrong_byte_of_a_copy_is_found(monkeypatch):
    def copy(self, source, target, after):
        target.copy_(source)
        target[-1] += 1

    monkeypatch.setattr(Transfers, "copy", copy)
    assert wrong() == {"copies"}


def of(measure) -> Outcome:
    return outcome(Check("group", "name", 0.5, measure))


def test_what_comes_of_a_check():
    assert of(lambda: 0.5).verdict == RIGHT and of(lambda: 0.6).verdict == WRONG
    assert of(lambda: float("nan")).verdict == WRONG
    assert of(lambda: Measured(0.1, "3 GB/s")).note == "3 GB/s"


@pytest.mark.parametrize(
    "error, verdict, note",
    [
        (Absent("no card"), ABSENT, "no card"),
        (RuntimeError("undefined symbol\nmore"), WRONG, "does not run: undefined symbol"),
        (torch.OutOfMemoryError("CUDA out of memory"), ABSENT, "no memory left to try it with"),
    ],
    ids=str,
)
def test_errors_are_outcomes(error, verdict, note):
    def fails():
        raise error

    found = of(fails)
    assert (found.verdict, found.note, found.error) == (verdict, note, None)


FOUND = [
    Outcome("types", "product", 0.01, RIGHT, 0.002),
    Outcome("types", "norm", 0.01, WRONG, 0.3),
    Outcome("copies", "there", 0.0, ABSENT, note="no card"),
]


def test_the_table_says_what_is_wrong():
    head, _, titles, product, norm, copies, _, summary = selftest.report(FOUND, CPU).splitlines()
    assert head.startswith("cpu: ") and torch.__version__ in head and titles.split() == ["off", "by", "at", "most"]
    assert product.split() == ["types", "product", "2.0e-03", "1.0e-02", "right"]
    assert norm.split() == ["norm", "3.0e-01", "1.0e-02", "WRONG"] and norm.index("norm") == product.index("product")
    assert copies.split() == ["copies", "there", "not", "here", "no", "card"]
    assert summary == "1 of 2 wrong: types, norm"
    assert selftest.summary([FOUND[0], FOUND[2]]) == "all 1 right; 1 not here"


def test_the_picture_has_red_only_where_something_is_wrong():
    red = tuple(bytes.fromhex(RED[1:]))
    colours = lambda found: {colour for _, colour in selftest_picture(found, "here").getcolors(2**20)}  # noqa: E731
    assert red in colours(FOUND) and red not in colours([FOUND[0], FOUND[2]])


def test_the_command_ends_with_0_and_the_table(capsys):
    assert main(["selftest", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("cpu: ") and out.splitlines()[-1].startswith("all ") and "\x1b" not in out


@pytest.mark.parametrize("terminal", [True, False])
def test_the_command_ends_with_1_and_red_text_where_something_is_wrong(monkeypatch, capsys, terminal):
    monkeypatch.setattr(selftest, "all_checks", lambda device: [Check("types", "norm", 0.1, lambda: 0.3)])
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: terminal, raising=False)
    assert main(["selftest", "--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "WRONG" in lines[-3] and "1 of 1 wrong: types, norm" in lines[-1]
    assert all(line.startswith(command.RED) is terminal for line in (lines[-3], lines[-1]))


def test_a_device_that_is_not_there_is_told(capsys):
    assert main(["selftest", "--device", "cuda:77"]) == 1
    assert "cuda:77" in capsys.readouterr().err
