"""Slides with the same features: a copied file, or one slide under the names of two patients.

A copy gives a case's patches double weight; under two cases it lets a model see held-out cases in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from survq.data.feature_import import SlideResult, readable_index
from survq.data.feature_store import file_of
from survq.data.location import Location
from survq.text import preview


def equal_bags(index: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of the index that share their features, by sha256: one table per set of equal slides."""
    repeated = index[index["sha256"].duplicated(keep=False)]
    return [rows for _, rows in repeated.groupby("sha256", sort=False)]


def equal_bag_problems(index: pd.DataFrame, folder: Location) -> list[str]:
    return [
        f"{folder}: slides with the same features, of {preview(cases, 2) if len(cases) > 1 else 'one case'}: "
        f"{preview(rows['slide_id'])}. Fix: find out whose they are, and remove the files of the others."
        for rows in equal_bags(index)
        for cases in [sorted(set(rows["case_id"]))]
    ]


def withdraw_copies(features: Location, results: Sequence[SlideResult]) -> list[SlideResult]:
    """Remove slides that were added or found, and whose features another slide has; returns the results then.

    Of equal slides of one case, the first stays; of several cases none stays, as it is unknown whose they are. Slides
    that were stored from elsewhere always stay.
    """
    index, own = readable_index(features), {r.slide_id: r for r in results if r.state in ("written", "found")}
    reasons: dict[str, str] = {}
    for rows in equal_bags(index):
        names = sorted(rows["slide_id"], key=lambda slide: (slide in own, len(slide), slide))
        several = rows["case_id"].nunique() > 1
        for slide in own.keys() & set(names if several else names[1:]):
            other = next(name for name in names if name != slide)
            whose = (
                f" of case {index.loc[other, 'case_id']!r}. Fix: find out whose they are, and remove the other file"
                if several
                else ". Fix: remove the copy"
            )
            reasons[slide] = f"{own[slide].file}: holds the same features as slide {other!r}{whose}."
    for slide in reasons:
        file = file_of(features, index.loc[slide].to_dict())
        file.filesystem.delete_file(file.path)
    return [
        replace(result, state="failed", reason=reasons[result.slide_id], patches=0, bytes=0)
        if result.slide_id in reasons and result.state in ("written", "found")
        else result
        for result in results
    ]
