"""Table 2: what histology queries, genomic queries and self-attention contribute to SurvQ.

    python studies/ablate_components.py                                           # a simulated cohort, 2 min on 2 CPUs
    python studies/ablate_components.py --data DATA --cohorts BRCA BLCA COADREAD  # real data, one machine
    ray submit cluster/cluster.yaml studies/ablate_components.py -- --data s3://BUCKET/DATA

The paper's average rises from 0.709 to 0.761 with all three parts. (It prints 0.734 for the second row; the mean of
that row's three cohorts is 0.728.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from survq.command_line import from_command_line
from survq.reporting.comparison_text import differences_text
from survq.reporting.model_comparison import compared, differences_from
from survq.reporting.study_tables import study_table
from survq.reporting.tables import published
from survq.settings import StudySettings
from survq.study import open_study
from survq.training.config import TrainConfig
from survq.training.run import Run

PROTOCOL = "paper (fixed settings, last epoch reported, interval edges from the whole cohort)"
PARTS = ("Hist.", "Geno.", "Self-attn.")
VARIANTS = {  # the parts that a row has: its name; its histology queries, genomic queries and depth
    (False, False, False): ("mean of all tokens", (0, 0, 0)),
    (True, False, False): ("with histology queries", (300, 0, 0)),
    (True, True, False): ("with queries of both", (300, 128, 0)),
    (True, True, True): ("SurvQ", (300, 128, 1)),
}
PAPER = {
    (False, False, False): "0.724 ± 0.061, 0.651 ± 0.034, 0.754 ± 0.146, 0.709",
    (True, False, False): "0.745 ± 0.079, 0.660 ± 0.051, 0.779 ± 0.144, 0.734",
    (True, True, False): "0.761 ± 0.062, 0.673 ± 0.032, 0.801 ± 0.143, 0.745",
    (True, True, True): "0.794 ± 0.062, 0.677 ± 0.060, 0.812 ± 0.115, 0.761",
}


@dataclass(frozen=True)
class AblateComponents(StudySettings):
    """Table 2: SurvQ without some of its parts, on the same folds.

    The first row is the mean of all patch and pathway tokens with the same head: thousands of patches outweigh the
    pathways. Each further row adds a part. Below the table, the difference of each row from SurvQ is tested. Protocol:
    the paper's.
    """


def main(settings: AblateComponents) -> None:
    with open_study("ablate_components", settings, PROTOCOL) as study:
        study.require("histology", "genomics")
        runs = []
        for name, cohort in study.cohorts.items():
            folds = study.folds(cohort).folds
            for _, (histology, genomic, depth) in VARIANTS.values():
                counts = {"histology_queries": histology, "genomic_queries": genomic, "depth": depth}
                shared = {"interval_edges": "cohort", **study.pace}
                runs += [
                    Run(name, TrainConfig("survq", counts | study.small(), seed=seed, **shared), folds)
                    for seed in range(settings.seeds)
                ]
        trained = study.train(runs)
        table = study_table(trained, PARTS, parts_of, published(PAPER, ("BRCA", "BLCA", "COADREAD")))
        differences = differences_from(compared(trained, name_of), "SurvQ")
        study.save("table_2", table)
        if len(differences):
            study.save("differences_from_survq", differences)
        print(f"\nTable 2: C-index of SurvQ with some of its parts\n\n{table}\n")
        if len(differences):
            print(f"\nDifference from SurvQ on the same folds\n\n{differences_text(differences)}\n")
        study.show_oracle()


def parts_of(settings: Mapping[str, Any]) -> dict[str, bool]:
    """Which parts a run has, by its settings."""
    counts = (settings["histology_queries"], settings["genomic_queries"], settings["depth"])
    return dict(zip(PARTS, (count > 0 for count in counts), strict=True))


def name_of(run: Run) -> str:
    name, _ = VARIANTS[tuple(parts_of(run.settings).values())]
    return name


if __name__ == "__main__":
    main(from_command_line(AblateComponents))
