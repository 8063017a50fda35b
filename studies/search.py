"""How well does SurvQ do when its settings are searched honestly? Query counts, depth, learning rate, weight decay.

    python studies/search.py                                                   # a simulated cohort, 3 min on 2 CPUs
    python studies/search.py --data DATA --cohorts BLCA --trials 32            # real data, one machine
    ray submit cluster/cluster.yaml studies/search.py -- --data s3://BUCKET/DATA --trials 64

The paper searched nothing in the open: 0.724 is the mean C-index of one setting. Here each outer fold reports on a
setting, and an epoch, that only its training cases chose.
"""

from dataclasses import dataclass

import tyro

from survq.reporting.figures import kaplan_meier_figure
from survq.settings import StudySettings
from survq.study import open_study
from survq.training.config import TrainConfig
from survq.tuning.search import (
    NestedSearch,
    Space,
    nested_searches,
    outer_predictions,
    outer_table,
    trials_table,
    write_optuna_view,
)


@dataclass(frozen=True)
class SearchSettings(StudySettings):
    """Nested search of SurvQ's settings by Ray Tune and Optuna.

    Protocol: nested. For each outer fold a search of its own sees inner folds of the training cases only, chooses the
    setting with the fewest queries within one standard error of the best, and the epoch; it is then trained on all
    training cases and reports on the outer fold once. Trials above the median loss are stopped early.
    """

    trials: int | None = None
    """Settings tried for each outer fold. Left out: 32, or 8 for simulated data."""
    inner_folds: int = 3
    """Folds made of each outer training part, which the search sees."""


def main(settings: SearchSettings) -> None:
    with open_study("search", settings) as study:
        small = {"width": 32} if study.simulated else {}
        epochs = settings.epochs or (16 if study.simulated else 50)
        trials = settings.trials or (8 if study.simulated else 32)
        most = 64 if study.simulated else 400
        searches = []
        for cohort in study.cohorts.values():
            has_slides, has_expression = ("histology" in cohort.modalities, "genomics" in cohort.modalities)

            def configure(trial, has_slides=has_slides, has_expression=has_expression) -> TrainConfig:
                depth = trial.suggest_int("depth", 1, 3)
                counts = {
                    "histology_queries": trial.suggest_int("histology_queries", 4, most, log=True) if has_slides else 0,
                    "genomic_queries": trial.suggest_int("genomic_queries", 4, most, log=True) if has_expression else 0,
                }
                return TrainConfig(
                    hyperparameters=counts | {"depth": depth, "block": "plain" if depth == 1 else "residual"} | small,
                    learning_rate=trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
                    weight_decay=trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
                    epochs=epochs,
                )

            paper = {"depth": 1, "learning_rate": 5e-4, "weight_decay": 1e-3}
            paper |= {"histology_queries": min(300, most)} if has_slides else {}
            paper |= {"genomic_queries": min(128, most)} if has_expression else {}
            space = Space(
                configure,
                first=paper,
                complexity=lambda config: (
                    config.hyperparameters["histology_queries"] + config.hyperparameters["genomic_queries"]
                ),
            )
            searches += nested_searches(
                cohort,
                study.folds(cohort),
                space,
                trials=trials,
                inner_folds=settings.inner_folds,
                seeds=settings.seeds,
            )
        print(f"  protocol nested: {trials} trials on {settings.inner_folds} inner folds for each outer fold\n")
        search = NestedSearch(searches)
        study.do(search, search.label)

        outer = outer_table(searches)
        if outer.empty:
            return
        predictions = {
            (name, seed): outer_predictions([search for search in searches if search.cohort.name == name], seed)
            for name in outer["cohort"].unique()
            for seed in range(settings.seeds)
        }
        figures = {
            f"kaplan_meier_{name}": kaplan_meier_figure(predictions[name, 0], f"{name}, nested search")
            for name in outer["cohort"].unique()
        }
        table = study.nested_table(predictions, configurations=trials)
        print(f"\nWhat each outer fold's search chose, and how it did\n\n{outer.to_string(index=False)}\n")
        print(f"Nested search: C-index on outer folds, which had no say in any choice\n\n{table}\n")
        optimistic = outer["search_c_index_optimistic"].mean()
        print(f"  the search itself scored its choices {optimistic:.3f} on the inner folds: optimistic, not a result")
        for name, c_index in study.oracle().items():
            print(f"  {name} is simulated: the truth itself reaches {c_index:.3f}")
        for path in study.save("nested_search", table, figures):
            print(f"  written   {path}")
        for name, rows in (("outer_folds", outer), ("trials", trials_table(searches))):
            rows.to_csv(study.results.folder / f"{name}.csv", index=False)
            print(f"  written   {study.results.folder / f'{name}.csv'}")
        write_optuna_view(searches, study.results.folder / "optuna.db")
        print(f"  dashboard optuna-dashboard sqlite:///{study.results.folder / 'optuna.db'}")


if __name__ == "__main__":
    main(tyro.cli(SearchSettings))
