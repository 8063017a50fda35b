"""Table 1: the C-index of SurvQ, its thirteen baselines and simple reference models, on the same cases and folds.

    python studies/compare_models.py                                    # a simulated cohort, 12 min on 2 CPUs
    python studies/compare_models.py --data DATA --cohorts BLCA BRCA    # real data, one machine
    python studies/compare_models.py --models survq abmil gene_cox      # some models
    python studies/compare_models.py --tuned                            # each model searched with the same budget
    ray submit cluster/cluster.yaml studies/compare_models.py -- --data s3://BUCKET/DATA --folds 5 --repeats 5

The paper reports a mean C-index of 0.724 for SurvQ over five cohorts, against 0.706 for the next model. Published folds
have one repeat; for a comparison with more power, add --folds 5 --repeats 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from survq import demo
from survq.command_line import from_command_line
from survq.exits import UsageError
from survq.models import MODELS, REFERENCES
from survq.reporting.comparison_text import differences_text, ranks_text
from survq.reporting.figures import kaplan_meier_figure
from survq.reporting.forest import forest_figure
from survq.reporting.model_comparison import (
    Compared,
    compared,
    comparison_table,
    differences_from,
    fuse_late,
    ranks_of,
    searched,
)
from survq.reporting.tables import PAPER_COHORTS, published
from survq.settings import StudySettings
from survq.study import Study, open_study
from survq.training.comparison import Comparison
from survq.training.config import TrainConfig, model_problems
from survq.training.run import Run
from survq.tuning.schedule import Searches
from survq.tuning.search import Search, nested_searches

REFERENCE = "survq"
LATE_FUSION = "late_fusion"
PROTOTYPE_BASED = ("pibd", "mmp", "ccl")  # marked in the paper's table
GROUPS = {
    frozenset({"genomics"}): "Genomic",
    frozenset({"histology"}): "Histology",
    frozenset({"genomics", "histology"}): "Multimodal",
}
PROTOCOLS = {
    "paper": "paper (SurvQ's training settings for all models, last epoch reported, interval edges from the cohort)",
    "native": "native (each model's own training settings, last epoch reported, interval edges from the cohort)",
    "tuned": "nested (each model searched on inner folds with the same budget; each outer fold is evaluated once)",
}
PAPER = {  # BRCA, BLCA, COADREAD, HNSC, STAD, average
    "mlp": "0.598 ± 0.063, 0.501 ± 0.071, 0.709 ± 0.158, 0.512 ± 0.057, 0.479 ± 0.052, 0.560",
    "snn": "0.639 ± 0.067, 0.584 ± 0.067, 0.732 ± 0.134, 0.567 ± 0.055, 0.557 ± 0.051, 0.616",
    "amisl": "0.613 ± 0.046, 0.601 ± 0.053, 0.694 ± 0.123, 0.602 ± 0.054, 0.559 ± 0.032, 0.614",
    "abmil": "0.642 ± 0.065, 0.612 ± 0.065, 0.702 ± 0.148, 0.619 ± 0.048, 0.608 ± 0.054, 0.636",
    "porpoise": "0.642 ± 0.043, 0.619 ± 0.056, 0.702 ± 0.143, 0.631 ± 0.042, 0.639 ± 0.075, 0.646",
    "mcat": "0.713 ± 0.033, 0.632 ± 0.066, 0.715 ± 0.158, 0.635 ± 0.098, 0.668 ± 0.087, 0.673",
    "motcat": "0.712 ± 0.042, 0.641 ± 0.067, 0.728 ± 0.134, 0.641 ± 0.064, 0.658 ± 0.066, 0.676",
    "survpath": "0.723 ± 0.045, 0.642 ± 0.054, 0.726 ± 0.161, 0.646 ± 0.057, 0.649 ± 0.051, 0.677",
    "pibd": "0.716 ± 0.026, 0.650 ± 0.067, 0.734 ± 0.153, 0.642 ± 0.054, 0.656 ± 0.051, 0.680",
    "mmp": "0.746 ± 0.064, 0.660 ± 0.050, 0.741 ± 0.168, 0.641 ± 0.046, 0.640 ± 0.037, 0.686",
    "ccl": "0.772 ± 0.066, 0.662 ± 0.055, 0.758 ± 0.118, 0.629 ± 0.047, 0.632 ± 0.053, 0.690",
    "hsfsurv": "0.771 ± 0.061, 0.672 ± 0.031, 0.761 ± 0.125, 0.651 ± 0.042, 0.674 ± 0.058, 0.705",
    "mome": "0.768 ± 0.063, 0.666 ± 0.022, 0.785 ± 0.124, 0.640 ± 0.054, 0.673 ± 0.057, 0.706",
    "survq": "0.794 ± 0.062, 0.677 ± 0.060, 0.812 ± 0.115, 0.653 ± 0.045, 0.686 ± 0.053, 0.724",
}


@dataclass(frozen=True)
class CompareModels(StudySettings):
    """Table 1: SurvQ, its thirteen baselines and reference models, on common cases and folds.

    Without flags: all models on a small simulated cohort. Every model is evaluated on the same held-out cases: those
    that all compared models can read. The table has the C-index of the last epoch with its interval. Beside it stand
    the difference of each model from SurvQ with a test for repeated cross-validation, the probability that it is
    practically equal, and mean ranks over cohorts. With --keep-weights, and always on simulated data,
    studies/fusion_audit.py can say which models use both slides and genes.
    """

    models: tuple[str, ...] = ()
    """Models to compare with SurvQ, such as abmil mcat gene_cox. If omitted: all, and late fusion."""
    preset: Literal["paper", "native"] = "paper"
    """paper: SurvQ's training settings for all models. native: those of each model's own paper."""
    tuned: bool = False
    """Search the settings of every model, nested in the folds, with the same trials and epochs for all."""
    trials: int | None = None
    """With --tuned: trials per search. If omitted: 32, or 8 for simulated data."""
    inner_folds: int = 3
    """With --tuned: inner folds per outer training set."""

    at_least: ClassVar = StudySettings.at_least | dict(trials=1, inner_folds=2)

    def __post_init__(self):
        super().__post_init__()
        if problems := model_problems(self.models):
            raise UsageError("--models: " + "; ".join(problems))
        if self.tuned and self.preset != "paper":
            raise UsageError("--tuned searches the training settings, so that --preset changes nothing. Fix: omit one.")


def main(settings: CompareModels) -> None:
    settings = replace(settings, keep_weights=settings.keep_weights or settings.data is None)  # 11 MB, to be audited
    protocol = PROTOCOLS["tuned" if settings.tuned else settings.preset]
    with open_study("compare_models", settings, protocol) as study:
        models = [name for name in MODELS if not settings.models or name in (*settings.models, REFERENCE)]
        tuned = {name for name in models if settings.tuned and MODELS[name].learns}
        comparisons = {name: study.folds(cohort, models) for name, cohort in study.cohorts.items()}
        runs = [
            Run(name, config_of(model, seed, study, settings), comparison.folds)
            for name, comparison in comparisons.items()
            for model in models
            if model not in tuned
            for seed in range(settings.seeds if MODELS[model].learns else 1)
        ]
        rows = compared(study.train(runs)) if runs else []
        if tuned:
            rows += searched(all_searches(study, comparisons, sorted(tuned), settings), settings.seeds)
        report(study, rows, settings)


def config_of(model: str, seed: int, study: Study, settings: CompareModels) -> TrainConfig:
    """The settings of a model by the preset. A model that is fitted without gradients needs one epoch."""
    own: dict[str, Any] = dict(MODELS[model].native) if settings.preset == "native" else {}
    asked = {"epochs": settings.epochs} if settings.epochs else {}
    pace = study.pace | own | asked | ({} if MODELS[model].learns else {"epochs": 1})
    return TrainConfig(model, study.small(model), **{"interval_edges": "cohort", "seed": seed, **pace})


def all_searches(
    study: Study, comparisons: Mapping[str, Comparison], models: Sequence[str], settings: CompareModels
) -> list[Search]:
    """Run the nested searches of these models, after a line about their cost."""
    trials = study.trials(settings.trials)
    searches: list[Search] = []
    for name, comparison in comparisons.items():
        cohort = study.cohorts[name]
        for model in models:
            if model not in comparison.not_applicable:
                searches += nested_searches(
                    cohort,
                    comparison.folds,
                    study.search_space(model, cohort),
                    trials=trials,
                    inner_folds=settings.inner_folds,
                    seeds=settings.seeds,
                    keep_weights=settings.keep_weights,
                )
    schedule = Searches(searches, study.results.folder)
    print(
        f"  budget: {trials} trials of at most {study.search_epochs} epochs in each of {len(searches)} searches "
        f"(model x cohort x fold), the same for all: {schedule.total:,} runs, at most "
        f"{schedule.remaining_epochs:,} epochs\n"
    )
    study.run(schedule, schedule.label)
    study.missing |= schedule.missing
    return searches


def report(study: Study, rows: list[Compared], settings: CompareModels) -> None:
    """Save and print the table, the differences from SurvQ, the ranks, and the figures."""
    compared_models = {row.model for row in rows}
    groups = {model: group_of(model) for model in MODELS if model in compared_models}
    choices = {}
    if not settings.models:
        histology, genomics = ([m for m in MODELS if MODELS[m].reads == {one}] for one in ("histology", "genomics"))
        for fused in fuse_late(rows, histology, genomics, LATE_FUSION):
            rows.append(fused.row)
            groups[LATE_FUSION] = group_of(LATE_FUSION)
            choices[fused.row.cohort] = fused.choices
    labels = {model: label(model) for model in groups}
    table = comparison_table(
        rows,
        study.cohorts,
        groups,
        labels=labels,
        published=published({(model,): line for model, line in PAPER.items()}, PAPER_COHORTS),
        epoch="the epoch selected on inner folds" if settings.tuned else "the last epoch",
        note="†: prototype-based.",
    )
    differences, ranks = differences_from(rows, REFERENCE), ranks_of(rows)
    study.save("table_1", table)
    for cohort, chosen in choices.items():
        study.save(f"late_fusion_{cohort}", chosen)
    study.save("table_1_forest", forest_figure(table, label(REFERENCE), demo.oracle(study.cohorts)))

    if len(differences):
        study.save("differences_from_survq", differences)
    if len(ranks):
        study.save("mean_ranks", ranks)
    for row in rows:
        if row.model == REFERENCE and not row.problem:
            study.save(f"kaplan_meier_{row.cohort}", kaplan_meier_figure(row.predictions[0], f"{row.cohort}, SurvQ"))

    print(f"\nTable 1: C-index of all models on the same held-out cases\n\n{table}\n")
    if len(differences):
        print(f"\nDifference from SurvQ on the same folds\n\n{differences_text(differences, labels)}\n")
    if len(ranks):
        over = f"Mean rank, cohorts: {', '.join(study.cohorts)}; 95 % interval by bootstrap of patients"
        print(f"\n{over}\n\n{ranks_text(ranks, labels)}\n")
    study.show_oracle()


def group_of(model: str) -> str:
    return "Reference" if model == LATE_FUSION or model in REFERENCES else GROUPS[MODELS[model].reads]


def label(model: str) -> str:
    """The name of a model in the table."""
    if model == LATE_FUSION:
        return "late fusion"
    if model in REFERENCES:
        return model.replace("_", " ")
    return MODELS[model].__name__ + (" †" if model in PROTOTYPE_BASED else "")


if __name__ == "__main__":
    main(from_command_line(CompareModels))
