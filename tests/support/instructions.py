"""Short instructions, for tests whose tokenizer makes a token of each byte."""

import pytest


@pytest.fixture(autouse=True)
def few_instructions(monkeypatch):
    """Such a tokenizer makes 1200 tokens of the instructions for drawing, which would take all the time.

    Works in a module, or below a conftest, that imports it.
    """
    monkeypatch.setattr("sensenova_core.reading.prompt.system_message", lambda kind: kind)
