"""The self-test and *auto* attention on the pretended card."""

import torch

from sensenova_core.model import quickest
from sensenova_core.model.exactness import Use
from sensenova_core.model.quickest import CLASSES, Quickest, usable_kernels
from sensenova_core.selftest import WRONG, all_checks, outcomes
from sensenova_core.system.cache import FOLDER, remembered

from .card import Card
from .driver import pretended

CARD = torch.device("cuda:0")


def test_nothing_of_the_self_test_is_wrong_and_nothing_races():
    card = Card()
    with pretended(card):
        found = list(outcomes(all_checks(CARD)))
    assert [each for each in found if each.verdict == WRONG] == []
    assert {each.error for each in found if each.group == "copies"} == {0} and not card.order.races and not card.faults


def test_auto_tries_torch_s_kernels_and_remembers(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(quickest, "CLASSES", {kind: (new, 64, False) for new, kind in enumerate(CLASSES, 1)})
    kernel = Quickest(Use(CARD, torch.bfloat16, heads=2, kv_heads=1, head_dim=16))
    with pretended(Card()):
        monkeypatch.setattr(quickest, "usable_kernels", usable_kernels)
        kernel.prepare()
    [entry] = remembered("attention").values()
    assert entry["picture"]["ms"].keys() == {"sdpa", "sdpa_cudnn", "sdpa_flash", "sdpa_efficient"}
    assert entry["token"]["ms"].keys() == {"sdpa"} and kernel.names.keys() == CLASSES.keys()
