"""attention "auto" on a card: what it picks, what it remembers, and what it does where it cannot measure. The card is
played by the CPU here; tests/cuda has the real one."""

from types import SimpleNamespace

import pytest
import torch

from sensenova_core.errors import SettingsError
from sensenova_core.model import backends, quickest
from sensenova_core.model.attention import sdpa
from sensenova_core.model.exactness import Use
from sensenova_core.model.quickest import Quickest, attention_kernel, choice, prepare
from sensenova_core.settings import BACKENDS
from sensenova_core.system.cache import FOLDER, cache_folder, remembered

USE = Use(torch.device("cpu"), torch.bfloat16, heads=2, kv_heads=1, head_dim=8)
TOKEN, TEXT, PICTURE = ((1, 64), (40, 40), (1024, 1030))


class Timed:
    """A kernel that takes so long for each size class, and counts its calls."""

    clock = 0.0  # seconds, of all of them

    def __init__(self, token: float, text: float, picture: float):
        self.milliseconds = {"token": token, "text": text, "picture": picture}
        self.calls = 0

    def __call__(self, query, key, value, *, causal):
        self.calls += 1
        Timed.clock += self.milliseconds[quickest.size_class(query.shape[1])] / 1000
        return query


@pytest.fixture(autouse=True)
def card(monkeypatch, tmp_path):
    """The functions of torch.cuda that are asked."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    state = {"name": "Card 9000", "capturing": False}
    monkeypatch.setattr(quickest, "time", SimpleNamespace(perf_counter=lambda: Timed.clock))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: state["name"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state["capturing"])
    return state


@pytest.fixture
def kernels(monkeypatch) -> dict:
    """What is usable here."""
    found = {"sdpa": Timed(1, 1, 2), "sdpa_cudnn": Timed(9, 2, 1), "flash": Timed(0.5, 2, 2)}
    monkeypatch.setattr(quickest, "usable_kernels", lambda use: found)
    return found


def computed_by(kernel, kernels, sizes) -> str:
    before = {name: each.calls for name, each in kernels.items()}
    kernel(*USE.random(*sizes), causal=False)
    [name] = [name for name, each in kernels.items() if each.calls > before[name]]
    return name


def test_each_size_class_gets_its_quickest(kernels):
    kernel = Quickest(USE)
    assert str(kernel) == "not measured yet"
    prepare(kernel)
    assert str(kernel) == "token flash, text sdpa, picture sdpa_cudnn"
    assert [computed_by(kernel, kernels, sizes) for sizes in (TOKEN, TEXT, PICTURE)] == ["flash", "sdpa", "sdpa_cudnn"]


def test_it_is_measured_once_and_remembered(kernels):
    Quickest(USE).prepare()
    measured = sum(each.calls for each in kernels.values())
    again = Quickest(USE)
    again.prepare()
    again.prepare()
    assert sum(each.calls for each in kernels.values()) == measured and again.names["picture"] == "sdpa_cudnn"
    [entry] = remembered("attention").values()
    assert entry["token"]["backend"] == "flash" and entry["text"]["ms"].keys() == kernels.keys()


@pytest.mark.parametrize("changed", ["card", "torch", "type", "heads", "package"])
def test_it_is_measured_anew_where_anything_else_computes(kernels, card, monkeypatch, changed):
    Quickest(USE).prepare()
    key, use = quickest.key_of(USE), USE
    if changed == "card":
        card["name"] = "Card 9001"
    elif changed == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    elif changed == "package":
        monkeypatch.setattr(backends.Package, "version", "9.9")
    else:
        other = {"dtype": torch.float16} if changed == "type" else {"kv_heads": 2}
        use = Use(**vars(USE) | other)
    Quickest(use).prepare()
    assert quickest.key_of(use) != key and len(remembered("attention")) == 2


@pytest.mark.parametrize("content", ["", "[]", '{"%s": 1}', '{"%s": {"token": {"backend": "flash"}}}'])
def test_a_damaged_memory_is_measured_anew(kernels, content):
    cache_folder().joinpath("attention.json").write_text(content.replace("%s", quickest.key_of(USE)))
    kernel = Quickest(USE)
    kernel.prepare()
    assert kernel.names["picture"] == "sdpa_cudnn" and quickest.key_of(USE) in remembered("attention")


def test_what_is_remembered_and_gone_is_measured_anew(kernels):
    Quickest(USE).prepare()
    del kernels["flash"]
    kernel = Quickest(USE)
    kernel.prepare()
    assert kernel.names == {"token": "sdpa", "text": "sdpa", "picture": "sdpa_cudnn"}


def test_without_memory_torch_s_own_is_used_and_nothing_remembered(kernels):
    def full(query, key, value, *, causal):
        raise torch.OutOfMemoryError("CUDA out of memory")

    kernels["flash"] = full
    kernel = Quickest(USE)
    kernel.prepare()
    assert str(kernel) == "sdpa" and remembered("attention") == {}


def test_alone_it_is_not_measured(kernels):
    del kernels["flash"], kernels["sdpa_cudnn"]
    kernel = Quickest(USE)
    kernel.prepare()
    assert str(kernel) == "sdpa" and kernels["sdpa"].calls == 0


def test_while_a_graph_is_captured_nothing_is_measured(kernels, card):
    kernel, given = Quickest(USE), USE.random(*TEXT)
    card["capturing"] = True
    assert torch.equal(kernel(*given, causal=True), sdpa(*given, causal=True)) and not kernel.names
    card["capturing"] = False
    kernel(*given, causal=True)
    assert kernel.names


def test_a_tie_is_torch_s_own():
    assert choice({"sdpa": 1.0, "flash": 0.97}) == "sdpa" and choice({"sdpa": 1.0, "flash": 0.9}) == "flash"
    assert choice({"flash": 3.0, "sdpa_flash": 2.0}) == "sdpa_flash"


def test_wrong_ones_are_left_out_and_told(monkeypatch, caplog):
    def checked(name, use):
        if name in ("flash", "sdpa_cudnn"):
            raise SettingsError(f"'{name}' is wrong by 0.3", setting="attention", value=name)
        return sdpa

    monkeypatch.setattr(quickest, "checked_kernel", checked)
    monkeypatch.setattr(backends.Package, "is_installed", True)
    assert list(quickest.usable_kernels(USE)) == ["sdpa", "sdpa_flash", "sdpa_efficient", "flash3"]
    assert [record.getMessage() for record in caplog.records] == ["not used: 'flash' is wrong by 0.3"]
    monkeypatch.setattr(quickest, "CANDIDATES", ("sdpa_cudnn", "flash"))
    with pytest.raises(SettingsError, match="'sdpa_cudnn' is wrong"):
        quickest.usable_kernels(USE)


def test_what_is_less_exact_is_never_picked():
    assert set(quickest.CANDIDATES) == set(BACKENDS) - {"auto", "sage"}


def test_in_float32_there_is_one():
    assert list(quickest.usable_kernels(Use(**vars(USE) | {"dtype": torch.float32}))) == ["sdpa"]


def test_only_cards_are_measured():
    assert attention_kernel("auto", torch.device("mps"), torch.bfloat16) is sdpa
    assert isinstance(attention_kernel("auto", torch.device("cuda"), torch.bfloat16), Quickest)
