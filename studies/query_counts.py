"""Table 3: C-index of SurvQ by its numbers of queries.

    python studies/query_counts.py                                                # a simulated cohort, 2-4 min, 2 CPUs
    python studies/query_counts.py --data DATA --cohorts BLCA COADREAD            # real data, one machine
    ray submit cluster/cluster.yaml studies/query_counts.py -- --data s3://BUCKET/DATA

The paper reports a mean C-index of 0.724 over five cohorts with 300 histology and 128 genomic queries.
"""

from dataclasses import dataclass

from survq.command_line import from_command_line
from survq.demo import oracle
from survq.reporting.curve import alone_table, compared_at, curve_figure, curve_table
from survq.reporting.differences import differences
from survq.reporting.figures import kaplan_meier_figure, learning_curves_figure, query_count_figure
from survq.reporting.study_tables import study_table
from survq.reporting.tables import PAPER_COHORTS, published
from survq.settings import StudySettings
from survq.study import open_study
from survq.training.config import TrainConfig
from survq.training.ensemble import curve_of
from survq.training.record import Record
from survq.training.run import Run

QUERY_COUNTS = [(400, 128), (300, 128), (200, 128), (300, 256), (300, 64)]  # histology, genomic
COUNTS = ("histology_queries", "genomic_queries")
PAPER = (300, 128)
PUBLISHED = {  # BRCA, BLCA, COADREAD, HNSC, STAD, average
    (400, 128): "0.743 ± 0.046, 0.657 ± 0.037, 0.813 ± 0.095, 0.669 ± 0.042, 0.655 ± 0.032, 0.708",
    (300, 128): "0.794 ± 0.062, 0.677 ± 0.047, 0.812 ± 0.079, 0.653 ± 0.066, 0.686 ± 0.051, 0.724",
    (200, 128): "0.792 ± 0.045, 0.652 ± 0.053, 0.780 ± 0.099, 0.655 ± 0.050, 0.666 ± 0.025, 0.709",
    (300, 256): "0.751 ± 0.082, 0.673 ± 0.057, 0.764 ± 0.119, 0.677 ± 0.051, 0.687 ± 0.036, 0.710",
    (300, 64): "0.800 ± 0.039, 0.679 ± 0.045, 0.807 ± 0.098, 0.649 ± 0.052, 0.646 ± 0.010, 0.716",
}
CHECKS = [(4, 4), (32, 32), (300, 128)]  # of --curve, trained alone
CURVE_PROTOCOL = "one nested training per fold; fixed settings, last epoch, interval edges from the whole cohort"
PROTOCOL = "paper (fixed settings, last epoch reported, interval edges from the whole cohort)"


@dataclass(frozen=True)
class QueryCounts(StudySettings):
    """Table 3: the C-index of SurvQ by its numbers of histology and genomic queries.

    Without flags: a small simulated cohort. Protocol: the paper's (fixed settings, last epoch reported, interval edges
    from the whole cohort). No setting is selected by its result.
    """

    curve: bool = False
    """All numbers of queries from one training per fold: SurvQ with nested queries, beside three of them trained alone.
    It has residual blocks, which the paper's SurvQ has not."""


def main(settings: QueryCounts) -> None:
    if settings.curve:
        return curve(settings)
    with open_study("query_counts", settings, PROTOCOL) as study:
        runs = []
        for name, cohort in study.cohorts.items():
            folds = study.folds(cohort).folds
            if "histology" not in cohort.modalities:
                print(f"  {name} has no slides: only genomic queries are used; rows with equal counts are merged")
            for histology, genomic in QUERY_COUNTS:
                counts = {
                    "histology_queries": histology if "histology" in cohort.modalities else 0,
                    "genomic_queries": genomic if "genomics" in cohort.modalities else 0,
                }
                hyperparameters = counts | study.small()
                runs += [
                    Run(
                        name,
                        TrainConfig("survq", hyperparameters, interval_edges="cohort", seed=seed, **study.pace),
                        folds,
                    )
                    for seed in range(settings.seeds)
                ]
        trained = study.train(runs)
        table = study_table(trained, rows=COUNTS, published=published(PUBLISHED, PAPER_COHORTS))
        gains = differences(trained.finished, COUNTS, lambda record: counts_of(record) == PAPER)
        study.save("table_3", table)
        study.save("query_counts", query_count_figure(table, oracle(study.cohorts)))
        for record in trained.finished:
            if counts_of(record) == PAPER and record.training["seed"] == 0:
                study.save(f"kaplan_meier_{record.cohort}", kaplan_meier_figure(record.predictions, record.cohort))
                study.save(f"learning_curves_{record.cohort}", learning_curves_figure(record.epochs, record.cohort))
        if len(gains):
            study.save("differences", gains)

        print(f"\nTable 3: C-index by numbers of queries\n\n{table}\n")
        if len(gains):
            title = "C-index minus that of {} histology and {} genomic queries".format(*PAPER)
            lines = gains.to_string(index=False, float_format="{:+.3f}".format)
            print(f"{title}, with 95 % interval by paired bootstrap of patients\n\n{lines}\n")
        study.show_oracle()


def curve(settings: QueryCounts) -> None:
    """C-index by both numbers of queries, from one nested training per fold."""
    with open_study("query_counts_curve", settings, CURVE_PROTOCOL) as study:
        study.require("histology", "genomics")
        alone = [{"histology_queries": h, "genomic_queries": g, "block": "residual"} for h, g in CHECKS]
        runs = []
        for name, cohort in study.cohorts.items():
            folds = study.folds(cohort).folds
            for chosen in ({"nested_queries": True}, *alone):
                config = TrainConfig("survq", chosen | study.small(), interval_edges="cohort", **study.pace)
                runs.append(Run(name, config, folds))
        trained = study.train(runs)
        for name in study.cohorts:
            records = [record for record in trained.finished if record.cohort == name]
            nested = [record for record in records if record.hyperparameters["nested_queries"]]
            checks = alone_table({counts_of(record): record for record in records if record not in nested})
            for record in nested:
                table = curve_table(curve_of(record))
                study.save(f"curve_{name}", table)
                study.save(f"curve_{name}", curve_figure(table, checks, name))
                print(f"\n{name}: C-index with nested queries, and trained with these numbers alone\n")
                print(f"{compared_at(table, checks).to_string(index=False, float_format='{:.3f}'.format)}\n")
        study.show_oracle()


def counts_of(record: Record) -> tuple[int, int]:
    """Histology and genomic queries; the paper's number for a modality that the cohort lacks."""
    histology, genomic = (record.hyperparameters[name] for name in COUNTS)
    return histology or PAPER[0], genomic or PAPER[1]


if __name__ == "__main__":
    main(from_command_line(QueryCounts))
