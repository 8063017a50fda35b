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


def test_a_record_is_read_as_it_was_written():
    """Null is read as NaN if a number is expected, and stays None if any value is expected."""
    text = to_json(WHOLE)
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    np.testing.assert_equal(vars(parse(Report, json.loads(text))), vars(WHOLE))  # treats NaN as equal to NaN
    assert to_json(parse(Report, json.loads(text))) == text


def test_missing_keys_have_their_default_and_unknown_keys_are_ignored():
    found = parse(Report, {"state": "stopped", "mean": 1, "epoch": 0, "folds": [], "added later": 1})
    assert (found.best, found.curves, found.mean) == (None, {}, 1.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state", "ended", "'ended' is not one of finished, stopped"),
        ("mean", "0.5", "'0.5' is not of type number"),
        ("epoch", 1.5, "1.5 is not of type int"),
        ("epoch", None, "None is not of type int"),
        ("folds", {}, "is not of type list"),
        ("folds", [{"c_index": 0.5}], "reason"),
        ("best", [], "is not of type dict"),
        ("curves", [], "is not of type dict"),
    ],
)
def test_a_value_of_another_type_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        parse(Report, json.loads(to_json(WHOLE)) | {name: value})
