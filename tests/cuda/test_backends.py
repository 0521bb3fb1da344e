"""Attention backends on a real card."""

import pytest
import torch

from sensenova_core.errors import SettingsError
from sensenova_core.model.attention import sdpa
from sensenova_core.model.backends import PACKAGES, TORCH, checked_kernel, limit_of
from sensenova_core.model.exactness import LIMITS, Use, attention_error
from sensenova_core.model.quickest import CLASSES, Quickest, key_of
from sensenova_core.selftest import WRONG, all_checks, outcomes
from sensenova_core.settings import BACKENDS
from sensenova_core.system.cache import FOLDER, remembered

HALVES = (torch.bfloat16, torch.float16)


def use(dtype: torch.dtype, **heads: int) -> Use:
    return Use(torch.device("cuda:0"), dtype, **heads)


@pytest.mark.parametrize("heads", [{}, {"kv_heads": 4}, {"kv_heads": 32}, {"heads": 6, "kv_heads": 1, "head_dim": 32}])
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_torch_s_own(dtype, heads):
    assert attention_error(sdpa, use(dtype, **heads).small()) < LIMITS[dtype]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in ("auto", "sdpa")])
def test_every_other_one_that_is_here(backend, dtype):
    """In many heads, at the length of a picture of 512 x 512 after a prompt."""
    if backend in PACKAGES and not PACKAGES[backend].is_installed:
        pytest.skip(f"{PACKAGES[backend].called} is not installed")
    try:
        kernel = checked_kernel(backend, use(dtype))
    except SettingsError as error:
        if backend in TORCH and "does not run" in error.problem:
            pytest.skip(error.problem)
        raise
    given = [part.to("cuda:0") for part in use(dtype).random(256, 656)]
    out, right = kernel(*given, causal=False), sdpa(*(part.float() for part in given), causal=False)
    assert float((out - right).norm() / right.norm()) < limit_of(backend, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_auto_measures_once_and_is_no_slower(dtype, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    kernel = Quickest(use(dtype))
    kernel.prepare()
    times = remembered("attention")[key_of(use(dtype))]
    print(f"\n{dtype}: {kernel}; {times}")
    for kind in CLASSES:
        milliseconds = times[kind]["ms"]
        assert milliseconds[kernel.names[kind]] <= milliseconds["sdpa"]
    again = Quickest(use(dtype))
    monkeypatch.setattr("sensenova_core.model.quickest._measured", lambda *_: pytest.fail("measured again"))
    again.prepare()
    assert again.names == kernel.names


def test_nothing_of_the_self_test_is_wrong():
    found = list(outcomes(all_checks(torch.device("cuda:0"))))
    assert [each for each in found if each.verdict == WRONG] == []
    assert {each.note.split()[-1] for each in found if each.group == "copies" and each.error is not None} == {"GB/s"}
