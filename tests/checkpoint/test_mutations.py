"""5,000 damaged files in a process: `make nightly` tries 100,000."""

from tests.support.mutations import KINDS, tried

CASES = 5000


def test_damaged_files_open_or_are_refused_in_words():
    told = tried(range(CASES))
    assert told.wrong == []
    assert sum(told.outcomes.values()) == CASES
    assert all(told.outcomes[kind, word] > CASES / 200 for kind in KINDS for word in ("opened", "refused"))
