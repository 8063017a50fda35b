import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from survq.training.typed_json import parse, to_json


@dataclass(frozen=True)
class Fold:
    c_index: float
    reason: str | None


@dataclass(frozen=True)
class Report:
    state: Literal["finished", "stopped"]
    mean: float
    epoch: int
    folds: Sequence[Fold]
    best: Fold | None = None
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    flag: bool = False
    other: Any = None


WHOLE = Report(
    state="finished",
    mean=math.nan,
    epoch=3,
    folds=(Fold(math.nan, "no events"), Fold(0.5, None)),
    best=Fold(0.7, None),
    curves={"loss": (1.0, math.nan)},
    flag=True,
    other=[1, "a"],
)


def test_a_record_comes_back_as_it_was():
    """NaN too, where a number is expected: JSON has none. Where nothing is expected, null stays null."""
    text = to_json(WHOLE)
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    np.testing.assert_equal(vars(parse(Report, json.loads(text))), vars(WHOLE))  # for which NaN is NaN
    assert to_json(parse(Report, json.loads(text))) == text


def test_what_a_record_leaves_out_has_its_default_and_what_it_does_not_know_is_passed_over():
    found = parse(Report, {"state": "stopped", "mean": 1, "epoch": 0, "folds": [], "added later": 1})
    assert (found.best, found.curves, found.mean) == (None, {}, 1.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state", "ended", "'ended' is none of finished, stopped"),
        ("mean", "0.5", "'0.5' is no number"),
        ("epoch", 1.5, "1.5 is no int"),
        ("epoch", None, "None is no int"),
        ("folds", {}, "is no list"),
        ("folds", [{"c_index": 0.5}], "reason"),
        ("best", [], "is no dict"),
        ("curves", [], "is no dict"),
    ],
)
def test_what_does_not_fit_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        parse(Report, json.loads(to_json(WHOLE)) | {name: value})
