"""Table 4: SurvQ with learnable queries, and with queries frozen at their random initial values.

    python studies/fixed_queries.py                                       # a simulated cohort, 1 min on 2 CPUs
    python studies/fixed_queries.py --data DATA --cohorts BRCA COADREAD   # real data, one machine
    ray submit cluster/cluster.yaml studies/fixed_queries.py -- --data s3://BUCKET/DATA

The paper reports 0.794 against 0.768 on BRCA, and 0.812 against 0.778 on COADREAD.
"""

from dataclasses import dataclass

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
NAMES = {False: "fixed", True: "learnable"}
PAPER = {("fixed",): "0.768 ± 0.057, 0.778 ± 0.140, 0.773", ("learnable",): "0.794 ± 0.062, 0.812 ± 0.115, 0.803"}
ALGEBRA = """\
  What algebra says: attention sees the queries Q only through F_q(Q), and F_q is trained in both rows. With at most as
  many queries as dimensions, a trained F_q maps random Q to any set of attended queries. Both rows can then express
  the same functions, and a difference comes from the course of training or from chance."""


@dataclass(frozen=True)
class FixedQueries(StudySettings):
    """Table 4: the C-index of SurvQ with fixed and with learnable queries, on the same folds.

    Both start from the same values. The fixed ones are never updated; all other weights are trained. Protocol: the
    paper's.
    """


def main(settings: FixedQueries) -> None:
    with open_study("fixed_queries", settings, PROTOCOL) as study:
        runs = []
        for name, cohort in study.cohorts.items():
            folds = study.folds(cohort).folds
            for learnable in NAMES:
                hyperparameters = {"learnable_queries": learnable} | study.small()
                shared = {"interval_edges": "cohort", **study.pace}
                runs += [
                    Run(name, TrainConfig("survq", hyperparameters, seed=seed, **shared), folds)
                    for seed in range(settings.seeds)
                ]
        trained = study.train(runs)
        table = study_table(
            trained,
            ["queries"],
            lambda settings: {"queries": NAMES[settings["learnable_queries"]]},
            published(PAPER, ("BRCA", "COADREAD")),
        )
        rows = compared(trained, lambda run: NAMES[run.hyperparameters["learnable_queries"]])
        differences = differences_from(rows, "fixed")
        study.save("table_4", table)
        if len(differences):
            study.save("learnable_minus_fixed", differences)
        print(f"\nTable 4: C-index of SurvQ with fixed and learnable queries\n\n{table}\n")
        if len(differences):
            print(f"\nLearnable minus fixed, on the same folds\n\n{differences_text(differences)}\n\n{ALGEBRA}\n")
        study.show_oracle()


if __name__ == "__main__":
    main(from_command_line(FixedQueries))
