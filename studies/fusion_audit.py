"""Does a fused model use slides and genes? An audit of every fused model of a finished study.

    python studies/fusion_audit.py                            # of results/compare_models
    python studies/fusion_audit.py results/OTHER              # of any study with fused and unimodal models

A fused model should rank rightly what either modality ranks rightly, and beat the weighted mean of the two alone. The
audit needs predictions only; see survq/evaluation/fusion_audit.py for what it can and cannot tell.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from survq.evaluation.fusion_audit import KINDS
from survq.exits import UsageError, exit_on_user_error
from survq.reporting.fusion import audit_table, audited, fusion_figure, pairs_table
from survq.reporting.report_material import material_of
from survq.reporting.saved import save
from survq.reporting.study_report import write_report

LEGEND = """\
  minus_late_fusion    C-index minus that of the weighted mean of both alone, whose weight other folds choose
  ..._correlation      of the fused risk with one modality's risk given the other's, and with their product given both
  ..._p                by permutation; small means that the fused risk holds something of it
  Without p below 0.05, a fused model says nothing of that modality that the other does not say already."""


@dataclass(frozen=True)
class Settings:
    """Audit of fused models, from the predictions of a finished study. Nothing is trained."""

    study: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RESULTS")] = Path("results/compare_models")
    """Results folder of a study, such as results/compare_models. Tables and figures are written into it."""


def main(settings: Settings) -> None:
    with exit_on_user_error():
        material = material_of(settings.study)
        by_cohort = {cohort: audited(material.of(cohort)) for cohort in material.cohorts}
        audits = [one for found in by_cohort.values() for one in found]
        if not audits:
            raise UsageError(
                f"{settings.study}: no cohort has a finished model of both modalities, one of slides alone and one of "
                "genes alone on the same folds. Fix: python studies/compare_models.py --models survq abmil snn"
            )
        table, pairs = audit_table(audits), pairs_table(audits)
        shown = table[[name for name in table if not name.endswith(("_low", "_high"))]]
        print(f"Fusion audit\n\n{shown.to_string(index=False, float_format='{:.3f}'.format)}\n\n{LEGEND}\n")
        kinds = pairs.pivot(index=["cohort", "method", "seed"], columns="pairs_right_by", values="fused_right")[
            [*KINDS]
        ]
        print("Share of pairs that the fused model ranks rightly, by which models alone do\n")
        print(f"{kinds.reset_index().to_string(index=False, float_format='{:.3f}'.format)}\n")
        folder = material.results.folder
        written = [*save(folder, "fusion_audit", table), *save(folder, "fusion_pairs", pairs)]
        for cohort, found in by_cohort.items():
            if found:
                written += save(folder, f"fusion_{cohort}", fusion_figure(found, f"{cohort}: what fusion adds"))
        for path in [*written, *write_report(material)]:
            print(f"  written   {path}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
