"""A comparison of models as text: the tables of differences and ranks, and what they say."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

SIGNIFICANT, CERTAIN = 0.05, 0.9
NAMES = {"p_value": "p", "p_holm": "p Holm"}
LEGEND = """\
  low, high    95 % interval by paired bootstrap of patients: would these trained models differ on new patients?
  p            corrected resampled t-test over folds: would the methods differ if they were trained again?
  p Holm       adjusted for all rows of this table
  better, equal, worse    probability that the true difference is above 0.01, within it, or below -0.01"""


def differences_text(differences: pd.DataFrame, labels: Mapping[str, str] | None = None) -> str:
    """The table of `differences_from`, how to read it, and a sentence per cohort; `labels` are the models' names."""
    named = differences if labels is None else differences.assign(model=differences["model"].map(labels))
    table = named.rename(columns=NAMES).to_string(index=False, float_format="{:.3f}".format)
    sentences = [_verdict(str(cohort), own) for cohort, own in named.groupby("cohort", sort=False)]
    return "\n".join([table, "", LEGEND, "", *sentences])


def ranks_text(ranks: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """The table of `ranks_of`."""
    return ranks.assign(model=ranks["model"].map(labels)).to_string(index=False, float_format="{:.1f}".format)


def _verdict(cohort: str, differences: pd.DataFrame) -> str:
    models, found = differences["model"], differences["p_holm"] < SIGNIFICANT
    better = list(models[found & (differences["difference"] > 0)])
    worse = list(models[found & (differences["difference"] < 0)])
    equal = list(models[differences["equal"] >= CERTAIN])
    return (
        f"  {cohort}: better than the reference (p Holm < {SIGNIFICANT}): {', '.join(better) or 'none'}; "
        f"worse: {', '.join(worse) or 'none'}; practically equal (probability {CERTAIN} or more): "
        f"{', '.join(equal) or 'none'}; undecided: {len(models) - len({*better, *worse, *equal})} of {len(models)}."
    )
