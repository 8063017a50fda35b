"""What nested searches of a model found, told honestly: whether choosing helped, if they agree, and what mattered."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence

import optuna
import pandas as pd
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from survq.evaluation.significance import bootstrap_difference
from survq.tuning.outcomes import default_predictions, outer_predictions
from survq.tuning.search import Search


def chosen_minus_default(searches: Sequence[Search], seeds: int) -> pd.DataFrame:
    """The C-index of the chosen settings minus that of the default one on the outer folds, a row per cohort and seed.

    Columns: cohort, model, seed, difference, low, high (95 %, paired bootstrap of patients), in_words. The default is
    the first trial's setting with all its epochs, trained on the same cases. Seeds with a missing run have no row.
    """
    rows = []
    for name in dict.fromkeys(search.cohort.name for search in searches):
        own = [search for search in searches if search.cohort.name == name]
        for seed in range(seeds):
            chosen, default = outer_predictions(own, seed), default_predictions(own, seed)
            if chosen is not None and default is not None:
                found = bootstrap_difference(chosen, default)
                values = found.estimate, found.low, found.high
                rows.append((name, own[0].model, seed, *values, f"{verdict(*values)}; {agreement(own)}"))
    return pd.DataFrame(rows, columns=["cohort", "model", "seed", "difference", "low", "high", "in_words"])


def verdict(difference: float, low: float, high: float) -> str:
    """A sentence about chosen minus default."""
    text = f"chosen minus default setting on the outer folds: {difference:+.3f} [{low:+.3f}, {high:+.3f}]"
    if low > 0:
        return f"{text}: choosing helped"
    if difference < 0:
        return f"{text}: choosing made it worse{'' if high < 0 else ', though not beyond chance'}"
    return f"{text}: choosing made no difference beyond chance"


def agreement(searches: Sequence[Search]) -> str:
    """A sentence about the searches of one cohort: how many chose the default, and how far their choices lie apart."""
    chosen = [search for search in searches if search.chosen is not None]
    if not chosen:
        return "no search has a choice"
    first = sum(search.chose_default for search in chosen)
    params = [search.chosen_params for search in chosen]
    parts = []
    for name in params[0]:
        values = [own[name] for own in params if name in own]
        value, count = Counter(values).most_common(1)[0]
        if all(isinstance(one, int | float) and not isinstance(one, bool) for one in values) and count < len(values):
            parts.append(f"{name} {min(values):.3g} to {max(values):.3g}")
        else:
            parts.append(f"{name} {value} in {count} of {len(values)}")
    return f"{first} of {len(chosen)} outer searches chose the default setting; {'; '.join(parts)}"


def best_so_far(searches: Sequence[Search]) -> pd.DataFrame:
    """The highest mean inner C-index up to each trial: columns cohort, search, trial, c_index. It is optimistic."""
    rows = []
    for search in searches:
        best = math.nan
        for trial in search.trials:
            if trial.state == "finished" and not math.isnan(trial.best.mean_c_index):
                best = trial.best.mean_c_index if math.isnan(best) else max(best, trial.best.mean_c_index)
            rows.append((search.cohort.name, search.name, trial.number, best))
    return pd.DataFrame(rows, columns=["cohort", "search", "trial", "c_index"])


def importance(searches: Sequence[Search]) -> pd.DataFrame:
    """The importance of each searched setting in each outer search: columns cohort, search, setting, importance.

    Optuna's PED-ANOVA (Watanabe et al., 2023) on the trials that ended; the importances of a search sum to 1. A search
    with fewer than four such trials has none.
    """
    rows = []
    for search in searches:
        trials = [trial.as_optuna_trial() for trial in search.trials]
        if sum(trial.state == TrialState.COMPLETE for trial in trials) < 4:
            continue
        study = optuna.create_study(direction="maximize")
        study.add_trials(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
        rows += [(search.cohort.name, search.name, name, float(value)) for name, value in found.items()]
    return pd.DataFrame(rows, columns=["cohort", "search", "setting", "importance"])
