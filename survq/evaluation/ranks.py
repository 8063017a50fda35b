"""The mean rank of several models over cohorts, with its interval by bootstrap of patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from survq.evaluation.significance import Interval, draw_patients, interval_of, mean_concordance

Predictions = Mapping[str, Sequence[pd.DataFrame]]
"""model -> its held-out predictions of one cohort, one table per seed."""


def mean_ranks(cohorts: Sequence[Predictions], *, resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """The rank of each model by its C-index, 1 being the best, averaged over cohorts; ties share their mean rank.

    All models of a cohort are ranked on the same resampled patients. Only models with predictions of all cohorts are
    ranked. Of several seeds, the mean C-index counts.
    """
    models = [model for model in cohorts[0] if all(model in cohort for cohort in cohorts)] if cohorts else []
    if not models:
        return {}
    ranks = []
    for number, cohort in enumerate(cohorts):
        draws = draw_patients(cohort[models[0]][0], resamples, seed + number)
        by_seed = [[mean_concordance(predictions, draws) for predictions in cohort[model]] for model in models]
        c_index = np.array([np.mean(seeds, axis=0) for seeds in by_seed])
        ranks.append(np.where(np.isnan(c_index).any(axis=0), np.nan, rankdata(-c_index, axis=0)))
    mean = np.mean(ranks, axis=0)  # (model, resample)
    return {model: interval_of(mean[position]) for position, model in enumerate(models)}
