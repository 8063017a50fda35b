"""How far a map can be trusted: its agreement with the untrained model, and with the truth of a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from survq.interpretation.query_maps import correlations
from survq.interpretation.truth import EFFECTS, hottest_planted, patch_auroc


def evidence(
    maps: Mapping[str, Float[np.ndarray, " patch"]],
    untrained: Mapping[str, Float[np.ndarray, " patch"]],
    morphology: Int[np.ndarray, " patch"] | None = None,
) -> pd.DataFrame:
    """One row per map of a case:

    agreement        rank correlation with the same map of the untrained model; near 1: training changed little
    auroc_worse, auroc_better            of the patches of a planted morphology against indifferent ones
    untrained_worse, untrained_better    the same of the untrained model
    hottest_planted, planted             share of planted patches in the hottest tenth, and in the whole case

    The last six are only there with `morphology`, the truth of a simulation. Undefined values are NaN.
    """
    rows = []
    for name, values in maps.items():
        row = {"map": name, "agreement": float(correlations(values, untrained[name]))}
        if morphology is not None:
            for prefix, scores in (("auroc", values), ("untrained", untrained[name])):
                row |= {
                    f"{prefix}_{effect}": float(patch_auroc(scores, morphology, kind))
                    for effect, kind in EFFECTS.items()
                }
            row["hottest_planted"] = hottest_planted(values, morphology)
            row["planted"] = float(np.isin(morphology, list(EFFECTS.values())).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def evidence_note(row: Mapping[str, Any]) -> str:
    """A row of `evidence` in a few lines, for a figure."""
    lines = [f"agreement with untrained model {_number(row['agreement'])}"]
    if "auroc_worse" in row:
        lines.append(f"AUROC worse {_number(row['auroc_worse'])}, better {_number(row['auroc_better'])}")
        lines.append(f"untrained {_number(row['untrained_worse'])}, {_number(row['untrained_better'])}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.2f}"
