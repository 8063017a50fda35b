"""The table of nested searches."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from survq.evaluation.measure import measure
from survq.reporting.study_tables import measured, size
from survq.reporting.tables import Table, environment_note, paper_table
from survq.tuning.outcomes import outer_predictions, outer_records
from survq.tuning.search import Search


def nested_table(searches: Sequence[Search], seeds: int) -> Table:
    """C-index of the selected settings on the outer folds, not used for any selection: one column per cohort."""
    lines, reports = [], []
    for cohort in {search.cohort.name: search.cohort for search in searches}.values():
        own = [search for search in searches if search.cohort.name == cohort.name]
        tried = sum(len(search.trials) for search in own)
        counts = size(cohort, [search.outer for search in own if search.outer])
        for seed in range(seeds):
            line = {"protocol": "nested search", "seed": seed, "configurations": tried} | counts
            records, predictions = outer_records(own, seed), outer_predictions(own, seed)
            if predictions is None:
                lines.append(line | {"problem": f"{len(records)} of {len(own)} outer folds"})
            else:
                lines.append(line | measured(measure(predictions)))
            reports += [record.report for record in records]
    note = environment_note(reports)
    return paper_table(pd.DataFrame(lines), ["protocol"], epoch="the epoch selected on inner folds", note=note)
