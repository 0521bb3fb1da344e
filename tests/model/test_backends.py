"""Attention backends by name: what they are given, and that a wrong one is refused."""

import sys
from types import SimpleNamespace

import pytest
import torch

import sensenova_core
from sensenova_core.errors import SettingsError
from sensenova_core.model import attention_kernel, backends
from sensenova_core.model.attention import sdpa
from sensenova_core.model.backends import PACKAGES, TORCH, TorchKernel, checked_kernel
from sensenova_core.model.exactness import LIMITS, Use, attention_error, plain_attention
from sensenova_core.settings import BACKENDS
from tests.support.golden_set import checkpoint

CPU = torch.device("cpu")
NO_KERNEL = "|".join(backends.NO_KERNEL)
HEADS = {"published": (32, 8, 128), "A3B": (32, 4, 128), "not grouped": (4, 4, 24), "one": (3, 1, 16)}


@pytest.fixture(autouse=True)
def nothing_checked_yet():
    backends._checked.cache_clear()
    yield
    backends._checked.cache_clear()


def use(dtype=torch.float32, heads="one", device=CPU) -> Use:
    return Use(device, dtype, *HEADS[heads])


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_torch_s_own_is_right_and_far_from_the_limit(dtype, heads):
    assert attention_error(sdpa, use(dtype, heads)) < LIMITS[dtype] / 2


def top_left(query, key, value, *, causal):
    """As flash-attn before 2.1."""
    if causal and query.shape[1] != key.shape[1]:
        return plain_attention(query, key[:, : query.shape[1]], value[:, : query.shape[1]], causal=True)
    return sdpa(query, key, value, causal=causal)


def heads_in_turn(query, key, value, *, causal):
    groups = query.shape[2] // key.shape[2]
    return sdpa(query, key.repeat(1, 1, groups, 1), value.repeat(1, 1, groups, 1), causal=causal)


def beyond(query, key, value, *, causal):
    """Reads on behind the keys that it was given."""
    longer = (part.as_strided((len(part), part.shape[1] + 1, *part.shape[2:]), part.stride()) for part in (key, value))
    return sdpa(query, *longer, causal=False) if not causal else sdpa(query, key, value, causal=True)


def one_row(query, key, value, *, causal):
    out = sdpa(query, key, value, causal=causal).clone()
    out[0, -1, 0] = out[0, -1, 0].roll(1)
    return out


def nan(query, key, value, *, causal):
    out = sdpa(query, key, value, causal=causal).clone()
    out[0, 0, 0, 0] = torch.nan
    return out


PLANTED = {
    "causality begins at the first token": top_left,
    "no causality": lambda query, key, value, *, causal: sdpa(query, key, value, causal=False),
    "another head's keys": heads_in_turn,
    "reads beyond": beyond,
    "one wrong row": one_row,
    "NaN": nan,
    "scores of the wrong scale": lambda query, key, value, *, causal: sdpa(query * 1.05, key, value, causal=causal),
    "tokens before heads": lambda query, key, value, *, causal: sdpa(query, key, value, causal=causal).transpose(1, 2),
}


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_planted_errors_are_found(planted, dtype):
    assert attention_error(PLANTED[planted], use(dtype, "published")) > LIMITS[dtype]


def test_a_wrong_backend_is_refused_with_its_name_the_error_and_the_remedy(monkeypatch):
    monkeypatch.setattr(backends, "made_kernel", lambda backend, use: PLANTED["scores of the wrong scale"])
    with pytest.raises(SettingsError) as refused:
        checked_kernel("flash3", use(torch.bfloat16))
    words = str(refused.value)
    assert "'flash3' is wrong on cpu in torch.bfloat16" in words and "where 0.01 is right" in words
    assert float(words.split("off by ")[1].split()[0]) > 0.01
    assert "choose 'auto' or 'sdpa', or install another version of flash-attn 3" in words and "selftest" in words


def test_one_that_does_not_run_is_refused_as_well(monkeypatch):
    def fails(*_, **__):
        raise AssertionError("head_dim not in [64, 96, 128]\nmore")

    monkeypatch.setattr(backends, "made_kernel", lambda backend, use: fails)
    with pytest.raises(SettingsError, match=r"'sage' does not run on cpu: head_dim not in \[64, 96, 128\]; choose"):
        checked_kernel("sage", use())


def test_memory_that_runs_out_is_no_fault_of_the_backend(monkeypatch):
    def fails(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(backends, "made_kernel", lambda backend, use: fails)
    with pytest.raises(torch.OutOfMemoryError):
        checked_kernel("flash", use())


def test_a_backend_is_held_against_float32_once(monkeypatch):
    calls = []
    monkeypatch.setattr(backends, "attention_error", lambda kernel, use: calls.append(use) or 0.0)
    assert checked_kernel("sdpa", use()) is checked_kernel("sdpa", use()) is sdpa and len(calls) == 1
    checked_kernel("sdpa", use(torch.bfloat16))
    assert len(calls) == 2


def test_auto_on_the_cpu_is_torch_s_own_and_tries_nothing(monkeypatch):
    monkeypatch.setattr(backends, "attention_error", lambda *_: pytest.fail("tried"))
    assert attention_kernel("auto") is sdpa
    engine = sensenova_core.load(checkpoint("tiny-u15"), place=False)
    assert engine.reader.kernel is sdpa and engine.attention_used == "sdpa"


def test_every_name_gives_the_same_picture_or_says_why_not():
    def drawn(backend):
        engine = sensenova_core.load(checkpoint("tiny-u15"), attention=backend)
        *_, last = engine.sample(engine.encode("a"), width=64, height=64, steps=1)
        return last.z

    right = drawn("auto")
    for backend in BACKENDS[1:]:
        if backend == "sdpa":
            assert torch.equal(drawn(backend), right)
        else:
            with pytest.raises(SettingsError, match=rf"'{backend}' .*choose 'auto' or 'sdpa'"):
                drawn(backend)


@pytest.mark.parametrize("backend", TORCH)
def test_torch_s_kernels_by_name_are_for_cards(backend):
    needed = "on CUDA" if backend == "sdpa_efficient" else "on CUDA in float16 or bfloat16"
    with pytest.raises(SettingsError, match=rf"'{backend}' runs {needed}, not on cpu in torch.float32"):
        checked_kernel(backend, use())


@pytest.mark.parametrize("backend", [name for name in TORCH if name != "sdpa_efficient"])
def test_most_need_half_precision(backend):
    with pytest.raises(SettingsError, match=r"not on cuda:0 in torch.float32; choose 'auto' or 'sdpa'"):
        checked_kernel(backend, use(device=torch.device("cuda:0")))


@pytest.mark.parametrize("backend", PACKAGES)
def test_packages_that_are_broken_are_told_from_missing_ones(backend, monkeypatch, tmp_path):
    package = PACKAGES[backend]
    monkeypatch.delitem(sys.modules, package.module, raising=False)
    (tmp_path / f"{package.module}.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    assert package.is_installed
    with pytest.raises(SettingsError, match=rf"does not import here \(undefined symbol.*install {package.called}, or"):
        checked_kernel(backend, use(torch.bfloat16))


def test_flash_attn_of_any_version_is_given_what_it_takes(monkeypatch):
    given = use(torch.bfloat16).random(3, 5)
    for wrap in (lambda out: out, lambda out: (out, "lse")):
        module = SimpleNamespace(flash_attn_func=lambda q, k, v, *, causal, w=wrap: w(sdpa(q, k, v, causal=causal)))
        for name in ("flash", "flash3"):
            out = PACKAGES[name].kernel(module)(*given, causal=True)
            assert torch.equal(out, sdpa(*given, causal=True))


def test_sage_is_asked_only_for_what_it_can():
    asked = []

    def sageattn(query, key, value, *, tensor_layout, is_causal):
        asked.append((tensor_layout, query.shape[1], key.shape[1], is_causal))
        return sdpa(query, key, value, causal=is_causal)

    kernel = PACKAGES["sage"].kernel(SimpleNamespace(sageattn=sageattn))
    for new, seen, causal in ((6, 6, True), (6, 9, True), (1, 9, True), (1, 9, False), (6, 9, False)):
        given = use().random(new, seen)
        assert torch.equal(kernel(*given, causal=causal), sdpa(*given, causal=causal))
    assert asked == [("NHD", 6, 6, True), ("NHD", 6, 9, False)]


def test_sage_may_be_less_exact_but_not_wrong():
    assert backends.limit_of("sage", torch.bfloat16) > backends.limit_of("flash", torch.bfloat16)

    def bytes_of(part):
        scale = part.abs().amax((1, 3), keepdim=True) / 127
        return (part / scale).round() * scale

    def rounded(query, key, value, *, causal):
        return sdpa(bytes_of(query), bytes_of(key), value, causal=causal)

    limit = backends.limit_of("sage", torch.float16)
    assert LIMITS[torch.float16] < attention_error(rounded, use(torch.float16, "published")) < limit
    assert attention_error(top_left, use(torch.float16, "published")) > limit


def test_a_kernel_of_torch_s_is_chosen_while_it_computes_and_no_longer():
    kernel, given = TorchKernel("sdpa_flash", grouped=False), use(heads="published").random(70, 90)
    assert torch.allclose(kernel(*given, causal=False), sdpa(*given, causal=False), atol=1e-5)
    assert torch.backends.cuda.math_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    with pytest.raises(RuntimeError, match=NO_KERNEL):
        TorchKernel("sdpa_cudnn", grouped=False)(*given, causal=False)
    for new, seen in ((1, 9), (6, 9)):  # which torch computes as it likes
        given = use().random(new, seen)
        expected = sdpa(*given, causal=True)
        assert torch.equal(TorchKernel("sdpa_cudnn", grouped=True)(*given, causal=True), expected)


@pytest.mark.parametrize("groups", [True, False])
def test_heads_are_repeated_where_torch_s_kernel_has_no_groups(monkeypatch, groups):
    def call(self, query, key, value, *, causal):
        if self.grouped and not groups:
            raise RuntimeError("No available kernel. Aborting execution.")
        return sdpa(query, key, value, causal=causal)

    monkeypatch.setattr(TorchKernel, "__call__", call)
    assert backends._torch_kernel("sdpa_cudnn", use()).grouped is groups
