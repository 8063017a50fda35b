"""How many problems are shown."""

import pickle

import pytest

from survq.data.problems import DataError
from survq.text import SHOWN, itemised


@pytest.mark.parametrize("number", [0, 1, SHOWN, SHOWN + 1, 99])
def test_the_first_are_shown_and_the_others_counted(number):
    sentences = [f"problem {index}" for index in range(number)]
    more = [f"  ... and {number - SHOWN} more"] if number > SHOWN else []
    assert itemised(sentences) == [f"  - problem {index}" for index in range(min(number, SHOWN))] + more


def test_an_error_shows_its_first_problems_and_keeps_all_when_pickled():
    error = DataError([f"problem {index}" for index in range(99)])
    assert str(error).startswith("99 problem(s) in the data:\n  - problem 0\n  - problem 1\n")
    assert str(error).endswith("\n  - problem 19\n  ... and 79 more")
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
