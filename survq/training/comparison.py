"""The folds on which models are compared: the same for all models, of the cases that all of them can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from survq.data.cohort import Cohort
from survq.data.folds import Fold, fold_problems, given_folds, make_folds
from survq.data.problems import raise_if_any
from survq.exits import UsageError
from survq.models import MODELS
from survq.settings import StudySettings

FOLDS = 5  # the default for data without splits (section 4.2)


@dataclass(frozen=True)
class Comparison:
    """Folds that are common to all models that can be applied to a cohort."""

    cohort: str
    folds: tuple[Fold, ...]  # empty if no model can be applied
    not_applicable: Mapping[str, str]  # by model: the reason
    excluded: Mapping[str, str]  # by case: the modality that is missing and needed by a model

    def messages(self) -> list[str]:
        """The excluded models, and how many cases are excluded, with the reasons; no ids."""
        lines = [f"{self.cohort}: {model} is not applicable: {why}" for model, why in self.not_applicable.items()]
        counts = Counter(self.excluded.values())
        return lines + [f"{self.cohort}: {count} cases excluded ({reason})" for reason, count in counts.items()]


def has_given_folds(cohort: Cohort, settings: StudySettings) -> bool:
    """Whether the folds are the published ones of the data folder."""
    return settings.folds is None and cohort.splits is not None


def compare(cohort: Cohort, models: Sequence[str], settings: StudySettings) -> Comparison:
    """The published folds of the data folder, or the requested ones, limited to cases that all these models can read.

    A model that cannot be applied to the cohort is ignored. Raises UsageError if the requested folds are impossible,
    and DataError if a fold has too few events for training or evaluation.
    """
    fix = "use fewer folds, or move cases between them"
    if cohort.splits is None or not has_given_folds(cohort, settings):
        fix = "use fewer folds (--folds), or only models that can read all cases"
        folds = make_folds(cohort.cases, settings.folds or FOLDS, settings.repeats)
    elif settings.repeats == 1:
        folds = given_folds(cohort.splits, list(cohort.cases.index))
    else:
        raise UsageError(
            f"--repeats {settings.repeats}: cohort {cohort.name} has published folds. Fix: add "
            f"--folds {FOLDS} to make new folds, or omit --repeats."
        )
    comparison = common_folds(cohort, folds, models)
    problems = fold_problems(comparison.folds, cohort.cases, fix)
    raise_if_any([f"cohort {cohort.name}: {problem}" for problem in problems])
    return comparison


def common_folds(cohort: Cohort, folds: Sequence[Fold], models: Sequence[str]) -> Comparison:
    """These folds of a cohort, limited to cases that all models can read. Models that cannot be applied are ignored."""
    reasons = {model: MODELS[model].not_applicable(cohort.spec) for model in models}
    not_applicable = {model: reason for model, reason in reasons.items() if reason is not None}
    applicable = [MODELS[model] for model in models if model not in not_applicable]
    readable = np.all([model.readable(cohort) for model in applicable], axis=0) | np.zeros(len(cohort.cases), bool)
    excluded = {
        case: "no expression" if slides else "no slides"
        for case, slides in zip(cohort.cases.index[~readable], cohort.has_slides[~readable], strict=True)
    }

    def kept(cases: Sequence[str]) -> tuple[str, ...]:
        return tuple(case for case in cases if case not in excluded)

    cut = tuple(Fold(fold.repeat, fold.index, kept(fold.training), kept(fold.validation)) for fold in folds)
    return Comparison(cohort.name, cut if applicable else (), not_applicable, excluded)
