"""What all tests of the queue begin with."""

import pytest

from sensenova_core.queueing import following
from tests.support.stand_in import StandIn


@pytest.fixture(autouse=True)
def asked_often(monkeypatch):
    monkeypatch.setattr(following, "_HEAR_SECONDS", 0.01)
    monkeypatch.setattr(following, "_DEAF_ASK_SECONDS", 0.02)


@pytest.fixture
def server():
    with StandIn() as running:
        yield running
