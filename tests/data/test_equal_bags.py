"""Slides with the same features are named by `survq check`, and not added to a store."""

import numpy as np
import pandas as pd
import pytest

from survq.data.check import check
from survq.data.equal_bags import withdraw_copies
from survq.data.feature_import import SlideResult, readable_index
from survq.data.location import Location
from survq.data.write import Slide, blank_patches, write_cohort, write_features

random = np.random.default_rng(0)
BAG, OTHER = (random.normal(size=(9, 4)).astype(np.float16) for _ in range(2))


def stored(folder, bags: dict[str, np.ndarray]) -> Location:
    """Slides of cases that are named by the first letter of the slide."""
    write_features(folder, [Slide(name, name[0], bag) for name, bag in bags.items()])
    return Location.at(folder)


def results(*names: str, state="written") -> list[SlideResult]:
    return [SlideResult(name, name[0], f"{name}.h5", state, patches=9, bytes=72) for name in names]


@pytest.mark.parametrize("state", ["written", "found"])  # found: the first attempt was killed before this step
@pytest.mark.parametrize("copy", ["A1 (1)", "A1 - Copy", "A10", "A1.UUID"])
def test_of_copies_of_one_case_the_first_stays(tmp_path, copy, state):
    features = stored(tmp_path, {copy: BAG, "A1": BAG, "A2": OTHER})
    found = withdraw_copies(features, results(copy, "A1", "A2", state=state))
    assert [result.state for result in found] == ["failed", state, state]
    assert found[0].reason == f"{copy}.h5: holds the same features as slide 'A1'. Fix: remove the copy."
    assert (found[0].patches, found[0].bytes) == (0, 0)
    assert sorted(readable_index(features).index) == ["A1", "A2"]


def test_of_copies_under_several_cases_none_stays(tmp_path):
    features = stored(tmp_path, {"A": BAG, "B": BAG, "C": OTHER})
    found = withdraw_copies(features, results("A", "B", "C"))
    assert [result.state for result in found] == ["failed", "failed", "written"]
    assert found[0].reason == (
        "A.h5: holds the same features as slide 'B' of case 'B'. Fix: find out whose they are, and remove the other "
        "file."
    )
    assert list(readable_index(features).index) == ["C"]


@pytest.mark.parametrize("new", ["A2", "B"])
def test_slides_from_elsewhere_stay(tmp_path, new):
    features = stored(tmp_path, {"A with a long name": BAG, new: BAG})
    (result,) = withdraw_copies(features, results(new))
    assert result.state == "failed" and "as slide 'A with a long name'" in result.reason
    assert list(readable_index(features).index) == ["A with a long name"]


def test_different_slides_are_left_alone(tmp_path):
    features = stored(tmp_path, {"A": BAG, "B": OTHER})
    given = results("A", "B")
    assert withdraw_copies(features, given) == given


def test_check_names_equal_bags(tmp_path):
    slides = [Slide("A1", "A", BAG), Slide("A2", "A", BAG), Slide("B1", "B", OTHER), Slide("C1", "C", OTHER)]
    cases = pd.DataFrame({"time": 9.0, "event": True}, index=pd.Index(list("ABC"), name="case_id"))
    write_cohort(tmp_path, "X", cases=cases, slides=slides)
    found = [problem for problem in check(tmp_path).problems if "the same features" in problem]
    assert [problem.split("features: ")[1].split(". Fix: ")[0] for problem in sorted(found)] == [
        "slides with the same features, of 'B', 'C': 'B1', 'C1'",
        "slides with the same features, of one case: 'A1', 'A2'",
    ]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda bag: bag * 0, "all features of 9 of 9 patches are 0, the first is patch 0"),
        (lambda bag: -bag * 0, "all features of 9 of 9 patches are 0, the first is patch 0"),
        (lambda bag: np.concatenate([bag, bag * 0]), "all features of 9 of 18 patches are 0, the first is patch 9"),
        (lambda bag: bag[:1].repeat(9, axis=0), "all 9 patches have the same features"),
    ],
)
def test_blank_patches_are_named_by_a_deep_check(tmp_path, spoil, problem):
    wide = random.normal(size=(9, 20)).astype(np.float16)
    wide[3, :19] = 0  # a patch whose last feature alone has a value is none of them
    wide[5] = wide[0]
    assert blank_patches(wide) is blank_patches(wide[:1]) is None
    assert blank_patches(spoil(wide)) == problem
    cases = pd.DataFrame({"time": 9.0, "event": True}, index=pd.Index(["A"], name="case_id"))
    write_cohort(tmp_path, "X", cases=cases, slides=[Slide("A1", "A", spoil(wide))])
    assert not [found for found in check(tmp_path).problems if problem in found]
    (found,) = [found for found in check(tmp_path, deep=True).problems if "A1" in found]
    assert found.endswith(f"slide 'A1': {problem}. Fix: extract it again.")
