"""The fusion audit as text for the terminal: tables without the bounds of their intervals, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from survq.evaluation.fusion_audit import KINDS
from survq.reporting.fusion import Audited, audit_table, pairs_table

SHUFFLED = """\
  drop            C-index minus that with the slides, or the genes, of other cases of the fold; mean of 10 shuffles
  p               by permutation; small means that the model ranks better with a case's own
  rank_agreement  of the risks with the own and with another case's; 1 means that the model does not read it"""
LEGEND = """\
  minus_late_fusion    C-index minus that of the weighted mean of both alone, whose weight other folds choose
  ..._correlation      of the fused risk with one modality's risk given the other's, and with their product given both
  ..._p                by permutation; small means that the fused risk holds something of it
  This is correlation: a model of slides alone may hold something of the genes, where the two are correlated."""


def fusion_text(shuffled: pd.DataFrame, audits: Sequence[Audited]) -> str:
    """`shuffled` is a table of `shuffle_table`."""
    title = "Fusion audit: what is lost with the slides, or the genes, of other cases"
    parts = [title, _printed(shuffled), SHUFFLED]
    if audits:
        pairs = pairs_table(audits)
        kinds = pairs.pivot(index=["cohort", "method", "seed"], columns="pairs_right_by", values="fused_right")
        parts += ["Beside models of one modality", _printed(audit_table(audits)), LEGEND]
        parts.append("Share of pairs that the fused model ranks rightly, by which models alone do")
        parts.append(_printed(kinds[[*KINDS]].reset_index()))
    return "\n\n".join(parts)


def _printed(table: pd.DataFrame) -> str:
    shown = [name for name in table if not name.endswith(("_low", "_high")) and not (table[name] == "").all()]
    return table[shown].to_string(index=False, float_format="{:.3f}".format)
