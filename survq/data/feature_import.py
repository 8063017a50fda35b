"""Filling the feature store of a cohort, whoever fills it: who may, what fits into it, and what was left out.

One process at a time. A slide stands in the store whole or not at all, under a name that comes from its id, with what
it was made from; so a killed run is continued by starting it again, and ends in the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from survq.data.cohort import cohort_names
from survq.data.cohort_files import cohort_folder, read_cases, read_dropped, update_cohort
from survq.data.feature_store import read_index
from survq.data.location import Location
from survq.data.lock import locked
from survq.data.problems import DataError
from survq.data.write import file_name
from survq.text import preview

SKIPPED = "skipped.csv"
SKIPPED_COLUMNS = ["slide_id", "case_id", "file", "reason"]


class Kind(NamedTuple):
    """What the features of a cohort must have in common."""

    encoder: str
    width: int

    def __str__(self) -> str:
        return f"{self.encoder}, {self.width} wide"


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide: what a task hands back instead of features."""

    slide_id: str
    case_id: str
    file: str  # that it was made from
    state: Literal["written", "found", "failed", "skipped", "unwritten"]
    reason: str = ""
    patches: int = 0
    bytes: int = 0  # of features, as stored
    rounding: float = 0.0  # the most that a value was moved by being made a half float

    def row(self) -> dict:
        return asdict(self)


def case_ids(root: Location, cohort: str) -> set[str]:
    """The cases of a cohort that is to get slides. Raises DataError where there are none yet."""
    folder = cohort_folder(root, cohort)
    if not (folder / "cases.parquet").is_file():
        raise DataError(
            [
                f"{root}: no cohort {cohort!r} to put slides into; it has: {preview(cohort_names(root), 9) or 'none'}. "
                f"Fix: bring its labels first, with `survq import labels` or `survq import survpath`."
            ]
        )
    return set(read_cases(folder).index)


@contextmanager
def locked_store(cohort: Location) -> Iterator[Location]:
    """The features of a cohort, for this process alone; what killed ones left half written is swept away.

    In a bucket nothing is ever seen half written, and nothing can be locked: two runs at once do the work twice.
    Raises InUse; DataError where it could not be noted in the end who was left out.
    """
    features = cohort / "features"
    # what is wrong with these lists is told before the slides are read, not after
    read_dropped(cohort)
    _skipped(features)
    if cohort.local is None:
        yield features
        return
    with locked(cohort.local / ".features.lock", features, "wait for it to end"):
        features.sweep()
        yield features
        features.sweep()  # a task of a killed run may have lived a little longer than it


def readable_index(features: Location) -> pd.DataFrame:
    """The index of what can be read of a store; what cannot be read is as good as not there, and is written again."""
    index, _ = read_index(features)
    return index


def is_there(index: pd.DataFrame, slide_id: str, case_id: str, source: str) -> bool:
    """Whether a store holds this slide, of this case, as made from this source."""
    return slide_id in index.index and tuple(index.loc[slide_id, ["case_id", "source"]]) == (case_id, source)


def in_the_way(index: pd.DataFrame, slide_ids: Collection[str]) -> list[str]:
    """The slides that share a file with others, so that one that comes cannot take their place."""
    comes = index["slide_id"].isin(list(slide_ids))
    alone = [
        file.rsplit("/", 1)[-1] == file_name(slide) for file, slide in zip(index["file"], index.index, strict=True)
    ]
    return [
        f"{file}: holds {preview(rows['slide_id'])}, which come again. Fix: move this file away first."
        for file, rows in index[comes & ~np.array(alone, dtype=bool)].groupby("file")
    ]


def strangers(index: pd.DataFrame, coming: Mapping[str, Kind]) -> dict[str, str]:
    """Of the slides that come, by name, those that do not go with the others, and why.

    The store says what goes, and where it is empty, most of those that come. Raises DataError where there is no most.
    """
    inside = Counter(Kind(row.encoder, row.width) for row in index.itertuples() if row.slide_id not in coming)
    kinds = inside or Counter(coming.values())
    if len(set(kinds) | set(coming.values())) <= 1:
        return {}
    right, count = kinds.most_common(1)[0]
    if 2 * count <= kinds.total():
        groups = "; ".join(
            f"{kind} ({number} slides, the first {min(name for name, its in coming.items() if its == kind)})"
            for kind, number in kinds.most_common()
        )
        raise DataError([f"mixed patch encoders: {groups}. Fix: bring one kind, the same for all slides of a cohort."])
    whose = f"the {count} slides of the store" if inside else f"{count} others"
    return {
        name: f"its features are of {kind}; those of {whose} are of {right}. Fix: use one encoder for all slides"
        for name, kind in coming.items()
        if kind != right
    }


def record_features(cohort: Location, unlabelled: Collection[str] = ()) -> pd.DataFrame:
    """Note what the store of a cohort holds now; who has slides is no longer left out for want of them.

    `unlabelled` are the cases of slides that came and were not written, for they have no label. Returns the index.
    """
    index = readable_index(cohort / "features")
    kinds = sorted({str(Kind(row.encoder, row.width)) for row in index.itertuples()})
    facts = {"slides": len(index), "patches": int(index["patches"].sum()), "encoders": kinds}
    update_cohort(cohort, {"features": facts}, unlabelled={"features": unlabelled})
    return index


def list_skipped(features: Location, outcomes: Sequence[SlideOutcome]) -> Location | None:
    """Write who was left out, and why, beside the slides. What earlier runs left out stays until it is there."""
    file, old = features / SKIPPED, _skipped(features)
    out = pd.DataFrame(
        [outcome.row() for outcome in outcomes if outcome.state in ("failed", "skipped")],
        columns=SKIPPED_COLUMNS,
        dtype=str,
    )
    seen = {outcome.slide_id for outcome in outcomes}
    table = pd.concat([old[~old["slide_id"].isin(seen)], out]).sort_values(["slide_id", "file"])
    if table.empty:
        if file.is_file():
            file.filesystem.delete_file(file.path)
        return None
    file.write(table.to_csv(index=False, lineterminator="\n").encode())
    return file


def _skipped(features: Location) -> pd.DataFrame:
    return (features / SKIPPED).read_csv(SKIPPED_COLUMNS)
