"""How far a run is: seconds a step and what they say of the rest; the share of a document that is done."""

import pytest

from nodes.pace import PER_STEP, Pace, Whole, duration


@pytest.fixture
def pace():
    """(when each step was done) -> what is said after it, of 10 steps; the clock begins at 100."""

    def said(*times: float) -> list[str]:
        clock = iter(times)
        pace = Pace(10, clock=lambda: 100 + next(clock))
        told = []
        for number, _ in enumerate(times, 1):
            pace.step(number)
            told.append(str(pace))
        return told

    return said


def test_the_first_step_says_nothing_of_the_others(pace):
    """Before it, prompts are read and weights loaded: here for 60 s."""
    first, second, third = pace(60, 62, 65)
    assert first == "step 1 of 10"
    assert second == "step 2 of 10, 2.00 s each, about 16 s left"
    assert third == "step 3 of 10, 2.50 s each, about 18 s left"


def test_nothing_is_left_after_the_last_step(pace):
    assert pace(*range(10))[-1] == "step 10 of 10, 1.00 s each"


def test_durations_in_words():
    assert [duration(each) for each in (0.4, 59.4, 59.6, 100, 7500)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "1 min 40 s",
        "2 h 5 min",
    ]


def test_a_document_counts_as_a_whole_and_never_goes_back():
    whole = Whole(pictures=2, steps=3, tokens=100)
    assert whole.total == 6 * PER_STEP + 100
    done = [whole.wrote(10)]
    done += [whole.drew(0, step) for step in (1, 2, 3)]
    done += [whole.wrote(5), *(whole.drew(1, step) for step in (1, 2, 3)), whole.wrote(7)]
    assert done == sorted(done)
    assert done[3] == 10 + 3 * PER_STEP and done[-1] == 22 + 6 * PER_STEP


def test_more_than_was_thought_possible_fills_it_and_no_more():
    whole = Whole(pictures=1, steps=2, tokens=4)
    assert whole.wrote(100) == whole.total
    assert whole.drew(5, 2) == whole.total
