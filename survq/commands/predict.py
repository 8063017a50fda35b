"""survq predict"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Predict:
    """Predict the risk of cases with the models of a finished run.

    New cases are predicted by the models of all folds and by their ensemble: the mean percentile of a case's risk among
    the held-out cases of each fold. Cases of the run are predicted by the models that held them out.

    Requires a run with weights (--keep-weights).

    example:  python studies/query_counts.py --data data --cohorts BLCA --keep-weights

    next:     survq predict results/query_counts/runs/BLCA/RUN other_data --cohort BLCA
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a run: results/<study>/runs/<cohort>/<run>."""
    data: Annotated[Positional[str], arg(metavar="DIR")]
    """Data folder with the cases to predict, or its bucket URI."""
    cohort: str
    """Cohort in the data folder."""
    queries: Annotated[tuple[int, int] | None, arg(metavar="H G")] = None
    """Of a run with nested queries: use only the first H histology and G genomic queries."""
    output: Path | None = None
    """File of the predictions, .csv or .parquet. If omitted: predictions-<COHORT>.csv in the current folder."""

    def run(self) -> int:
        from survq.data.cohort import Cohort
        from survq.data.location import csv_bytes, parquet, replace_file
        from survq.evaluation.concordance import concordance_index
        from survq.exits import UsageError
        from survq.training.ensemble import ENSEMBLE, curve_of, load_run, of_size, predict

        output = self.output or Path(f"predictions-{self.cohort}.csv")
        if output.suffix not in (".csv", ".parquet"):
            raise UsageError(f"--output {output}: expected a file name ending in .csv or .parquet.")
        record, folds = load_run(self.run_folder.expanduser())
        if self.queries is not None:
            held_out, folds = of_size(curve_of(record), folds, self.queries)
            record = replace(record, table=parquet(held_out))
        cohort = Cohort.load(self.data, self.cohort)
        predictions = predict(record, folds, cohort, cohort.bags())

        content = parquet(predictions) if output.suffix == ".parquet" else csv_bytes(predictions)
        replace_file(output.expanduser(), bytes(content))

        together = predictions[predictions["model"] == ENSEMBLE].set_index("case_id")
        print(f"{folds[0].config.model}, {len(folds)} fold models of {self.run_folder}")
        print(f"  {cohort.summary()}")
        if excluded := len(set(cohort.cases.index) - set(together.index)):
            print(f"  {excluded} cases are not predicted: they lack a modality, or all models were trained on them")
        for seen, rows in together.groupby("seen"):
            outcomes = cohort.cases.loc[rows.index]
            c_index = concordance_index(
                rows["risk"].to_numpy(), outcomes["time"].to_numpy(float), outcomes["event"].to_numpy(bool)
            )
            events = int(outcomes["event"].sum())
            print(f"  {len(rows)} {seen} cases, {events} events: C-index of the ensemble {c_index:.3f}")
        print(f"\n  written   {output}")
        return 0
