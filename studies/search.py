"""Nested search of a model's hyperparameters, learning rate and weight decay.

    python studies/search.py                                                   # a simulated cohort, 3 min on 2 CPUs
    python studies/search.py --data DATA --cohorts BLCA --trials 32            # real data, one machine
    python studies/search.py --data DATA --model mcat                          # any model, in its own space
    python studies/search.py --data DATA --curve                               # numbers of queries from nested queries
    ray submit cluster/cluster.yaml studies/search.py -- --data s3://BUCKET/DATA --trials 64

The paper documents no search: 0.724 is the mean C-index of one setting. Here each outer fold evaluates a setting and
an epoch that were selected on its training cases only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from survq.command_line import from_command_line
from survq.exits import UsageError
from survq.reporting.figures import kaplan_meier_figure
from survq.reporting.nested_table import nested_table
from survq.reporting.search_figure import search_figure
from survq.settings import StudySettings
from survq.study import Study, open_study
from survq.training.config import hyperparameters_of, model_problems
from survq.tuning.findings import best_so_far, chosen_minus_default, importance
from survq.tuning.outcomes import outer_predictions, outer_table, trials_table, write_optuna_view
from survq.tuning.schedule import Searches
from survq.tuning.search import Search, nested_searches, sweep

NESTED = "nested_queries"  # the hyperparameter that gives a model a curve
PROTOCOLS = {
    "nested": "nested (inner folds of the training cases select settings and epoch; each outer fold is evaluated once)",
    "paper": "paper (all trials are evaluated on the folds that select among them; the best C-index is OPTIMISTIC)",
}


@dataclass(frozen=True)
class SearchSettings(StudySettings):
    """Search of a model's settings by Ray Tune and Optuna, nested.

    Each outer fold has its own search on inner folds of its training cases. The search selects the simplest setting
    within one standard error of the best (of SurvQ: the one with the fewest queries), and the epoch. That setting is
    trained on all training cases and evaluated on the outer fold once. So is the default setting, for comparison.
    Trials above the median loss are stopped early.
    """

    model: str = "survq"
    """Model to search, such as survq, mcat or abmil. Learning rate and weight decay are in the space of each."""
    trials: int | None = None
    """Trials per search. If omitted: 32, or 8 for simulated data."""
    inner_folds: int = 3
    """Inner folds per outer training set."""
    curve: bool = False
    """SurvQ with nested queries: trials differ in all but the numbers of queries. These are chosen from the curve of
    the chosen trial, which has the C-index on the inner folds for each pair of numbers: the fewest queries within one
    standard error of the best. The outer fold evaluates a model that is trained with these numbers."""
    protocol: Literal["nested", "paper"] = "nested"
    """paper: search on the reported folds. It shows the optimism of selection; its best C-index is not a result."""

    at_least: ClassVar = StudySettings.at_least | dict(trials=1, inner_folds=2)

    def __post_init__(self):
        super().__post_init__()
        if problems := model_problems([self.model]):
            raise UsageError(f"--model: {problems[0]}")
        if self.curve and NESTED not in hyperparameters_of(self.model):
            raise UsageError(f"--curve: {self.model} has no nested queries. Fix: leave --model or --curve out.")
        if self.curve and self.protocol == "paper":
            raise UsageError("--curve: the paper's protocol has no inner folds to choose from. Fix: leave one out.")


def main(settings: SearchSettings) -> None:
    name = f"search_{settings.model}" + ("_curve" if settings.curve else "")
    with open_study(name, settings, PROTOCOLS[settings.protocol]) as study:
        trials = study.trials(settings.trials)
        searches: list[Search] = []
        for cohort in study.cohorts.values():
            searched = study.search_space(settings.model, cohort, **({NESTED: True} if settings.curve else {}))
            folds = study.folds(cohort, [settings.model]).folds
            if settings.protocol == "paper":
                searches.append(sweep(cohort, folds, searched, trials=trials))
            else:
                searches += nested_searches(
                    cohort,
                    folds,
                    searched,
                    trials=trials,
                    inner_folds=settings.inner_folds,
                    seeds=settings.seeds,
                    keep_weights=settings.keep_weights,
                    beside_default=True,
                )
        print(f"  {trials} trials in each of {len(searches)} searches\n")
        schedule = Searches(searches, study.results.folder)
        study.run(schedule, schedule.label)
        study.missing |= schedule.missing

        tried = trials_table(searches)
        study.save(f"trials_{settings.protocol}", tried)
        dashboard = study.results.views / f"optuna_{settings.protocol}.db"
        write_optuna_view(searches, dashboard)
        if settings.protocol == "nested":
            report(study, searches, settings.seeds)
        elif tried["best"].any():
            print(f"\nThe best of {trials} trials on the folds that selected it: OPTIMISTIC, not a result\n")
            print(tried[tried["best"]].drop(columns=["model", "best", "chosen"]).to_string(index=False))
        print(f"  dashboard optuna-dashboard sqlite:///{dashboard}")


def report(study: Study, searches: Sequence[Search], seeds: int) -> None:
    """Save and print the selected settings, their C-index on outer folds, and what the search was worth."""
    table, outer = nested_table(searches, seeds), outer_table(searches)
    differences, importances, best = chosen_minus_default(searches, seeds), importance(searches), best_so_far(searches)
    if len(outer):
        study.save("outer_folds", outer)
    study.save("nested_search", table)
    study.save("chosen_minus_default", differences)
    study.save("importance", importances)
    for name in study.cohorts:
        predictions = outer_predictions([search for search in searches if search.cohort.name == name])
        if predictions is not None:
            study.save(f"kaplan_meier_{name}", kaplan_meier_figure(predictions, f"{name}, nested search"))
        own = (found[found["cohort"] == name] for found in (best, importances))
        study.save(f"searches_{name}", search_figure(*own, f"{name}, nested search"))

    if len(outer):
        shown = outer.drop(columns="model").to_string(index=False)
        print(f"\nSelected setting and C-index per outer fold\n\n{shown}\n")
    print(f"\nNested search: C-index on outer folds, not used for any selection\n\n{table}\n")
    if len(outer):
        optimistic = outer["search_c_index_optimistic"].mean()
        print(f"  C-index of the selected settings on the inner folds: {optimistic:.3f} (optimistic, not a result)")
    study.show_oracle()
    for row in differences.itertuples():
        print(f"  {row.cohort}, seed {row.seed}: {row.in_words}")


if __name__ == "__main__":
    main(from_command_line(SearchSettings))
