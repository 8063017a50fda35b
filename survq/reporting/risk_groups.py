"""Risk groups of all methods of a study: their table, and a figure per cohort with a panel per method (Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from survq.evaluation.kaplan_meier import log_rank
from survq.evaluation.paired import holm
from survq.evaluation.restricted_mean import restricted_mean_difference
from survq.reporting.figures import draw_survival
from survq.reporting.methods import Method
from survq.reporting.report_figures import literal

COLUMNS = 3  # panels side by side


def risk_group_table(methods: Sequence[Method]) -> pd.DataFrame:
    """A row per method: cases and deaths of both groups, the months that low-risk cases gain, and the log-rank p.

    `p_holm` is adjusted for all rows. Undefined numbers are NaN, and `reason` says why.
    """
    rows = []
    for method in methods:
        groups, tau = method.held_out.groups, method.held_out.tau
        time, event, high = (groups[name].to_numpy() for name in ("time", "event", "high"))
        test, gained = log_rank(groups), restricted_mean_difference(time, event, high, tau)
        unknown = "" if not math.isnan(gained.estimate) else "a group is empty, or was not followed up to tau"
        rows.append(
            {"cohort": method.cohort, "method": method.name, "seed": method.seed}
            | {"cut": "training median" if method.held_out.has_cuts else "held-out median"}
            | {"low_cases": (~high).sum(), "low_deaths": event[~high].sum()}
            | {"high_cases": high.sum(), "high_deaths": event[high].sum()}
            | {"months_gained": gained.estimate, "low": gained.low, "high": gained.high}
            | {"p_log_rank": test.p_value, "reason": test.reason or unknown}
        )
    table = pd.DataFrame(rows)
    if len(table):
        table.insert(table.columns.get_loc("reason"), "p_holm", holm(table["p_log_rank"].tolist()))
    return table


def risk_groups_figure(methods: Sequence[Method], title: str) -> Figure:
    """Kaplan-Meier of both risk groups, a panel per method of one cohort."""
    columns = min(COLUMNS, len(methods))
    rows = math.ceil(len(methods) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows + 0.4), layout="constrained")
    figure.suptitle(literal(title))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(panels.flat):
        if number < len(methods):
            draw_survival(axes, methods[number].held_out.groups)
            axes.set_title(literal(methods[number].title), fontsize="medium")
        else:
            axes.set_visible(False)
    figure.supxlabel("months")
    figure.supylabel("survival")
    return figure
