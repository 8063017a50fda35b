"""Figure 3: do the cases that a model calls high-risk die earlier? For every model and cohort of a finished study.

    python studies/risk_groups.py                            # of results/compare_models
    python studies/risk_groups.py results/query_counts       # of another study

A held-out case is high-risk if its risk is above the median that the same model gave to its training cases. This cut is
fixed before any held-out case is predicted. The paper cuts each fold at the median of its held-out cases.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from survq.command_line import from_command_line
from survq.evaluation.kaplan_meier import LOG_RANK_CAVEAT
from survq.exits import UsageError, exit_on_user_error
from survq.reporting.report_material import material_of
from survq.reporting.risk_groups import risk_group_table, risk_groups_figure
from survq.reporting.saved import save
from survq.reporting.study_report import write_report


@dataclass(frozen=True)
class Settings:
    """Figure 3: survival of high- and low-risk cases, from the predictions of a finished study. Nothing is trained."""

    study: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RESULTS")] = Path("results/compare_models")
    """Results folder of a study, such as results/compare_models. The figures are written into it."""


def main(settings: Settings) -> None:
    with exit_on_user_error():
        material = material_of(settings.study)
        table = risk_group_table(material.methods)
        if table.empty:
            raise UsageError(f"{settings.study}: no run has finished. Fix: run its study again to continue it.")
        shown = table.drop(columns=["reason"]).to_string(index=False, float_format="{:.3g}".format)
        written = save(material.results.folder, "risk_groups", table)
        for cohort in material.cohorts:
            if methods := material.of(cohort):
                figure = risk_groups_figure(methods, f"{cohort}: survival of high- and low-risk cases")
                written += save(material.results.folder, f"risk_groups_{cohort}", figure)
        written += write_report(material)

        print(f"Risk groups of {len(table)} methods; column cut: where they are divided\n\n{shown}\n")
        print(f"  {LOG_RANK_CAVEAT}\n  p_holm is adjusted for all rows.\n")
        for path in written:
            print(f"  written   {path}")


if __name__ == "__main__":
    main(from_command_line(Settings))
