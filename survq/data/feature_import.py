"""Adding slides to the feature store of a cohort: locking it, finding conflicts, and recording what was skipped.

One process adds slides at a time. A slide is written atomically, under a name derived from its id, with a note of its
source: an interrupted import is continued by the same command and ends with the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from survq.data.barcodes import sample_type, slide_type
from survq.data.cohort import cohort_names
from survq.data.cohort_files import cohort_folder, read_cases, read_dropped, update_cohort
from survq.data.feature_store import read_index
from survq.data.location import Location, csv_bytes
from survq.data.lock import locked
from survq.data.problems import DataError
from survq.data.write import file_name
from survq.text import preview

SKIPPED = "skipped.csv"
SKIPPED_COLUMNS = ["slide_id", "case_id", "file", "reason"]


class FeatureKind(NamedTuple):
    """What all features of a cohort must have in common."""

    encoder: str
    width: int

    def __str__(self) -> str:
        return f"{self.encoder}, {self.width} wide"


@dataclass(frozen=True)
class SlideResult:
    """The result of importing or extracting one slide. Tasks return it instead of the features."""

    slide_id: str
    case_id: str
    file: str  # its source
    state: Literal["written", "found", "failed", "skipped", "unwritten"]
    reason: str = ""
    patches: int = 0
    bytes: int = 0  # of features, as stored
    rounding: float = 0.0  # largest rounding error of the conversion to half precision

    def row(self) -> dict:
        return asdict(self)


def case_ids(root: Location, cohort: str) -> set[str]:
    """The cases of a cohort. Raises DataError if the cohort does not exist yet."""
    folder = cohort_folder(root, cohort)
    if not (folder / "cases.parquet").is_file():
        raise DataError(
            [
                f"{root}: no cohort {cohort!r} to add slides to; it has: {preview(cohort_names(root), 9) or 'none'}. "
                f"Fix: import its labels first, with `survq import labels` or `survq import survpath`."
            ]
        )
    return set(read_cases(folder).index)


@contextmanager
def locked_store(cohort: Location) -> Iterator[Location]:
    """The feature store of a cohort, locked for this process; unfinished files of killed processes are removed.

    A bucket has no unfinished files and no locks: two runs at the same time do the work twice.
    Raises InUse; DataError if a list of excluded cases or skipped slides is invalid.
    """
    features = cohort / "features"
    # these lists are updated at the end: their problems are reported before hours of work
    read_dropped(cohort)
    _skipped(features)
    if cohort.local is None:
        yield features
        return
    with locked(cohort.local / ".features.lock", features, "wait for it to end"):
        features.sweep()
        yield features
        features.sweep()  # a task of a killed run may outlive it for a moment


def readable_index(features: Location) -> pd.DataFrame:
    """The index of the readable slides of a store. An unreadable slide counts as missing and is written again."""
    index, _ = read_index(features)
    return index


def contains(index: pd.DataFrame, slide_id: str, case_id: str, source: str) -> bool:
    """Whether a store contains this slide of this case, made from this source."""
    return slide_id in index.index and tuple(index.loc[slide_id, ["case_id", "source"]]) == (case_id, source)


def conflicts(index: pd.DataFrame, slide_ids: Collection[str]) -> list[str]:
    """Messages on stored slides that cannot be replaced, because they share a file with other slides."""
    is_new = index["slide_id"].isin(list(slide_ids))
    has_own_file = [
        file.rsplit("/", 1)[-1] == file_name(slide) for file, slide in zip(index["file"], index.index, strict=True)
    ]
    return [
        f"{file}: contains {preview(rows['slide_id'])}, which would be imported again. Fix: move this file away first."
        for file, rows in index[is_new & ~np.array(has_own_file, dtype=bool)].groupby("file")
    ]


def incompatible(index: pd.DataFrame, new: Mapping[str, FeatureKind]) -> dict[str, str]:
    """The new slides whose features differ in kind from the others, with reasons. `new` has the kind by slide id.

    The store decides which kind is right; for an empty store, the majority of the new slides does. Raises DataError if
    there is no majority.
    """
    stored = Counter(FeatureKind(row.encoder, row.width) for row in index.itertuples() if row.slide_id not in new)
    kinds = stored or Counter(new.values())
    if len(set(kinds) | set(new.values())) <= 1:
        return {}
    right, count = kinds.most_common(1)[0]
    if 2 * count <= kinds.total():
        groups = "; ".join(
            f"{kind} ({number} slides, the first {min(slide for slide, its in new.items() if its == kind)})"
            for kind, number in kinds.most_common()
        )
        raise DataError([f"mixed patch encoders: {groups}. Fix: import one kind for all slides of a cohort."])
    others = f"the {count} slides of the store" if stored else f"{count} others"
    return {
        slide: f"its features are of {kind}; those of {others} are of {right}. Fix: use one encoder for all slides"
        for slide, kind in new.items()
        if kind != right
    }


def unlabelled_cases(results: Iterable[SlideResult], cases: Collection[str]) -> set[str]:
    """The cases of skipped slides that are not among the cases of the cohort."""
    return {result.case_id for result in results if result.state == "skipped" and result.case_id} - set(cases)


def record_features(cohort: Location, unlabelled: Collection[str] = ()) -> pd.DataFrame:
    """Record the content of the store in the cohort's source.json, and update dropped.csv. Returns the index.

    `unlabelled` are the cases of slides that were not written because they have no label.
    """
    index = readable_index(cohort / "features")
    kinds = sorted({str(FeatureKind(row.encoder, row.width)) for row in index.itertuples()})
    facts = {
        **{"slides": len(index), "patches": int(index["patches"].sum()), "encoders": kinds},
        "sample_types": _counts(map(sample_type, index.index)),
        "slide_types": _counts(map(slide_type, index.index)),
    }
    update_cohort(cohort, {"features": facts}, unlabelled={"features": unlabelled})
    return index


def _counts(kinds: Iterable[str | None]) -> dict[str, int]:
    """Slides of each stated kind."""
    return dict(sorted(Counter(filter(None, kinds)).items()))


def list_skipped(features: Location, results: Sequence[SlideResult]) -> Location | None:
    """Write skipped.csv beside the slides, with reasons. Entries of earlier runs stay until the slide is written."""
    file, old = features / SKIPPED, _skipped(features)
    out = pd.DataFrame(
        [result.row() for result in results if result.state in ("failed", "skipped")],
        columns=SKIPPED_COLUMNS,
        dtype=str,
    )
    seen = {result.slide_id for result in results}
    table = pd.concat([old[~old["slide_id"].isin(seen)], out]).sort_values(["slide_id", "file"])
    if table.empty:
        if file.is_file():
            file.filesystem.delete_file(file.path)
        return None
    file.write(csv_bytes(table))
    return file


def _skipped(features: Location) -> pd.DataFrame:
    return (features / SKIPPED).read_csv(SKIPPED_COLUMNS)
