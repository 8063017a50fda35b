"""Does a fused model use slides and genes? An audit of every fused model of a finished study.

    python studies/fusion_audit.py                            # of results/compare_models
    python studies/fusion_audit.py results/OTHER              # of any study with fused models

Three questions, each answered from held-out cases:

    what is lost when a case gets the slides, or the genes, of another case?    needs weights (--keep-weights) and data
    does the model beat the weighted mean of a slide model and a gene model?    needs the predictions of all three
    does its risk hold what either of the two says, or an interaction?          the same

Only the first separates use of a modality from correlation with it. survq/evaluation/modality_shuffle.py and
fusion_audit.py there say what each can and cannot tell.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from survq.command_line import from_command_line
from survq.exits import UsageError, exit_on_user_error
from survq.reporting.fusion import audit_table, audited, fusion_figure, is_fused, pairs_table
from survq.reporting.fusion_shuffle import data_of_study, shuffle_figure, shuffle_table
from survq.reporting.fusion_text import fusion_text
from survq.reporting.report_material import material_of
from survq.reporting.saved import save
from survq.reporting.study_report import write_report


@dataclass(frozen=True)
class Settings:
    """Audit of fused models, from a finished study. Nothing is trained.

    With kept weights and the data, it predicts all held-out cases again with the slides, and with the genes, of other
    cases. compare_models keeps the weights of its demo; for real data, run it with --keep-weights.
    """

    study: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RESULTS")] = Path("results/compare_models")
    """Results folder of a study, such as results/compare_models. Tables and figures are written into it."""
    data: str | None = None
    """Data folder of the study, or its bucket URI. If omitted: the one that the study was given."""


def main(settings: Settings) -> None:
    with exit_on_user_error():
        material = material_of(settings.study)
        fused = [method for method in material.methods if is_fused(method)]
        shuffled = shuffle_table(fused, data_of_study(material, settings.data))
        by_cohort = {cohort: audited(material.of(cohort)) for cohort in material.cohorts}
        audits = [one for found in by_cohort.values() for one in found]
        known = shuffled[shuffled["reason"] == ""] if len(shuffled) else shuffled
        if not audits and not len(known):
            raise UsageError(
                f"{settings.study}: no cohort has a finished model of both modalities with its weights, or beside it "
                "one of slides alone and one of genes alone on the same folds. Fix: python studies/compare_models.py "
                "--models survq abmil snn --keep-weights"
            )
        folder = material.results.folder
        written = save(folder, "fusion_shuffled", shuffled)
        for cohort, rows in known.groupby("cohort", sort=False):
            title = f"{cohort}: what is lost with another case's slides or genes"
            written += save(folder, f"fusion_shuffled_{cohort}", shuffle_figure(rows, title))
        if audits:
            written += save(folder, "fusion_audit", audit_table(audits))
            written += save(folder, "fusion_pairs", pairs_table(audits))
        for cohort, found in by_cohort.items():
            if found:
                written += save(folder, f"fusion_{cohort}", fusion_figure(found, f"{cohort}: what fusion adds"))
        written += write_report(material)

        print(f"\n{fusion_text(shuffled, audits)}\n")
        for path in written:
            print(f"  written   {path}")


if __name__ == "__main__":
    main(from_command_line(Settings))
