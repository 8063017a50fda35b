"""Differences between models, on the same resampled patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from survq.evaluation.significance import bootstrap_difference
from survq.training.record import Record


def differences(records: Sequence[Record], rows: Sequence[str], reference: Callable[[Record], bool]) -> pd.DataFrame:
    """C-index of each finished run minus that of the reference run of the same cohort and seed: one row per run.

    Columns: cohort, the settings `rows`, seed, the difference and its 95 % interval; NaN if undefined. Runs without a
    reference have no row.
    """
    references = {(record.cohort, record.training["seed"]): record for record in records if reference(record)}
    lines = []
    for record in records:
        other = references.get((record.cohort, record.training["seed"]))
        if other is not None and record is not other:
            found = bootstrap_difference(record.predictions, other.predictions)
            line = {"cohort": record.cohort, **{name: record.settings.get(name) for name in (*rows, "seed")}}
            lines.append(line | {"difference": found.estimate, "low": found.low, "high": found.high})
    return pd.DataFrame(lines)
