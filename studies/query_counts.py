"""Table 3: how many queries does SurvQ need?

    python studies/query_counts.py                                                # a simulated cohort, 2 min on 2 CPUs
    python studies/query_counts.py --data DATA --cohorts BLCA COADREAD            # real data, one machine
    ray submit cluster/cluster.yaml studies/query_counts.py -- --data s3://BUCKET/DATA

The paper reports a mean C-index of 0.724 over five cohorts with 300 histology and 128 genomic queries.
"""

from dataclasses import dataclass

import tyro

from survq.reporting.figures import kaplan_meier_figure, learning_curves_figure, query_count_figure
from survq.settings import StudySettings
from survq.study import open_study
from survq.training.config import TrainConfig
from survq.training.results import Record
from survq.training.run import Run

QUERY_COUNTS = [(400, 128), (300, 128), (200, 128), (300, 256), (300, 64)]  # histology, genomic
COUNTS = ("histology_queries", "genomic_queries")
PAPER = (300, 128)
PROTOCOL = "paper: settings fixed beforehand, last epoch reported, interval edges from the whole cohort"


@dataclass(frozen=True)
class QueryCounts(StudySettings):
    """Table 3: the C-index of SurvQ by its numbers of histology and genomic queries.

    Without flags: a small simulated cohort. Protocol: the paper's (fixed settings, last epoch reported, interval edges
    from the whole cohort). Nothing is chosen, so nothing that chose a setting reports it.
    """


def main(settings: QueryCounts) -> None:
    with open_study("query_counts", settings, PROTOCOL) as study:
        # a small cohort is learnt by a small model in few, larger steps
        small = {"width": 32} if study.simulated else {}
        pace = {"epochs": 20, "learning_rate": 2e-3} if study.simulated else {"epochs": 50}
        if settings.epochs:
            pace["epochs"] = settings.epochs
        runs = []
        for name, cohort in study.cohorts.items():
            folds = study.folds(cohort)
            if "histology" not in cohort.modalities:
                print(f"  {name} has no slides: genomic queries alone, rows that differ in histology queries are one")
            for histology, genomic in QUERY_COUNTS:
                counts = {
                    "histology_queries": histology if "histology" in cohort.modalities else 0,
                    "genomic_queries": genomic if "genomics" in cohort.modalities else 0,
                }
                runs += [
                    Run(
                        cohort=name,
                        config=TrainConfig(hyperparameters=counts | small, interval_edges="cohort", seed=seed, **pace),
                        folds=folds,
                    )
                    for seed in range(settings.seeds)
                ]
        records = study.train(runs)
        table = study.table(runs, rows=COUNTS)
        figures = {"query_counts": query_count_figure(table, study.oracle())}
        for record in records:
            if counts_of(record) == PAPER and record.settings["seed"] == 0:
                figures[f"kaplan_meier_{record.cohort}"] = kaplan_meier_figure(record.predictions, record.cohort)
                figures[f"learning_curves_{record.cohort}"] = learning_curves_figure(record.epochs, record.cohort)
        print(f"\nTable 3: C-index by numbers of queries\n\n{table}\n")
        differences = study.differences(records, COUNTS, lambda record: counts_of(record) == PAPER)
        if len(differences):
            title = "C-index minus that of {} histology and {} genomic queries".format(*PAPER)
            lines = differences.to_string(index=False, float_format="{:+.3f}".format)
            print(f"{title}, with its 95 % interval over the same patients\n\n{lines}\n")
        study.show_oracle()
        study.save("table_3", table, figures)
        if len(differences):
            study.save_rows("differences", differences)


def counts_of(record: Record) -> tuple[int, int]:
    """Histology and genomic queries; the paper's number for a modality that the cohort lacks, as it has no say."""
    histology, genomic = (record.settings[name] for name in COUNTS)
    return histology or PAPER[0], genomic or PAPER[1]


if __name__ == "__main__":
    main(tyro.cli(QueryCounts))
