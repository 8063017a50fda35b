"""Patches of other physical sizes, and scales that cannot be right, are named by `survq check`."""

import numpy as np
import pandas as pd
import pytest

from survq.data.check import check
from survq.data.patch_sizes import PatchSize
from survq.data.write import Slide, write_cohort

random = np.random.default_rng(0)


def notes(folder, sizes: list[tuple[int | None, float | None]]) -> list[str]:
    """Of a cohort whose slides have these patch sizes and magnifications."""
    slides = [
        Slide(f"S{number}", "A", random.normal(size=(3, 4)).astype(np.float16), None, pixels, magnification)
        for number, (pixels, magnification) in enumerate(sizes)
    ]
    cases = pd.DataFrame({"time": 9.0, "event": True}, index=pd.Index(["A"], name="case_id"))
    write_cohort(folder, "X", cases=cases, slides=slides)
    return [note for note in check(folder).notes if "slides have patches" in note]


def test_slides_of_one_size_are_not_worth_a_look(tmp_path):
    assert notes(tmp_path, [(448, 40), (224, 20), (491, 40), (443, 40), (1120, 100), (None, 40), (448, None)]) == []


@pytest.mark.parametrize("odd", [float("inf"), float("nan"), -1.0, 0.0])
def test_magnifications_that_are_no_numbers_end_no_check(tmp_path, odd):
    found = notes(tmp_path, [(448, 40), (448, 40), (448, odd)])
    assert len(found) == (odd in (float("inf"), -1.0))


def test_other_sizes_are_named(tmp_path):
    assert notes(tmp_path, [(448, 40)] * 4 + [(448, 20), (224, 40)]) == [
        "X: 2 slides have patches of another size in micrometres: 'S4', 'S5'; "
        "224 micrometres (1 slides), 56 micrometres (1 slides), beside 112 in others"
    ]


def test_a_scale_that_cannot_be_right_is_named(tmp_path):
    """A file that stated 0.0503 micrometres per pixel in place of 0.503."""
    assert notes(tmp_path, [(223, 19.9)] * 3 + [(2227, 198.8)]) == [
        "X: 1 slides have patches of '2,227' level-0 pixels, beside 223 in others: 'S3'. "
        "Is the scale of these slides right?"
    ]


@pytest.mark.parametrize("unknown", [(None, 40, None), (0, 40, None), (448, None, None), (448, 0, None)])
def test_an_unknown_size_is_not_compared(unknown):
    assert PatchSize.of(*unknown) is None
