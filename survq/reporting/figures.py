"""Figures of survival and of studies. Each function returns a matplotlib Figure that pyplot does not keep.

Colours are those of Okabe and Ito, which colour-blind readers can distinguish; groups and cohorts also differ in line
or marker.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from survq.evaluation.epochs import Epoch
from survq.evaluation.kaplan_meier import log_rank, risk_groups, survival_curve
from survq.reporting.tables import Table

BLUE, VERMILION = "#0072B2", "#D55E00"
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
QUERIES = {"histology_queries": "histology queries", "genomic_queries": "genomic queries"}


def kaplan_meier_figure(predictions: pd.DataFrame, title: str) -> Figure:
    """Survival of the cases above and below the median risk of their fold, as `survival_figure` (Figure 3).

    `predictions` has one row per held-out case and fold: case_id, repeat, fold, time (months), event, risk.
    """
    return survival_figure(risk_groups(predictions), title)


def survival_figure(groups: pd.DataFrame, title: str) -> Figure:
    """Survival of the high- and low-risk cases, with its 95 % band, numbers at risk and log-rank p.

    `groups` is a table of `risk_groups`.
    """
    figure = Figure(figsize=(6, 4.8), layout="constrained")
    axes, at_risk = figure.subplots(2, 1, sharex=True, height_ratios=[6, 1])
    shown = draw_survival(axes, groups)
    axes.set(ylabel="survival", title=title)
    limit = axes.get_xlim()[1]
    ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= limit]
    for row, (_, cases, colour) in enumerate(shown):
        for tick in ticks:
            at_risk.text(tick, row, f"{(cases['time'] >= tick).sum()}", color=colour, ha="center", va="center")
    at_risk.set(ylim=(len(shown) - 0.5, -0.5), xlabel="months", yticks=range(len(shown)))
    at_risk.set_yticklabels([name for name, *_ in shown])
    at_risk.set_title("number at risk", loc="left", fontsize="medium")
    at_risk.tick_params(length=0)
    at_risk.tick_params(axis="y", pad=16)
    at_risk.spines[:].set_visible(False)
    return figure


def draw_survival(axes: Axes, groups: pd.DataFrame) -> list[tuple[str, pd.DataFrame, str]]:
    """Draw the Kaplan-Meier curves of the risk groups; returns those that are not empty: name, cases and colour."""
    test = log_rank(groups)
    shown = [
        (name, groups[groups["high"] == high], colour)
        for name, high, colour in [("low", False, BLUE), ("high", True, VERMILION)]
        if (groups["high"] == high).any()
    ]
    for name, cases, colour in shown:
        time, event = cases["time"].to_numpy(float), cases["event"].to_numpy(bool)
        curve, line = survival_curve(time, event), "-" if name == "low" else "--"
        label = f"{name} risk: {event.sum()} of {len(cases)} died"
        axes.step(curve["time"], curve["survival"], line, where="post", color=colour, linewidth=1.8, label=label)
        axes.fill_between(
            curve["time"], curve["low"], curve["high"], step="post", color=colour, alpha=0.15, linewidth=0
        )
        censored = curve[curve["censored"] > 0]
        axes.plot(censored["time"], censored["survival"], "|", color=colour, markersize=6, alpha=0.7)
    axes.set(xlim=(0, None), ylim=(0, 1.03))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    p = f"log-rank test: {test.reason}" if test.reason else f"log-rank {_p_value(test.p_value)}"
    axes.legend(title=p, frameon=False, loc="best", fontsize="small", alignment="left")
    _plain(axes)
    return shown


def query_count_figure(table: Table, oracle: Mapping[str, float] | None = None) -> Figure:
    """C-index by number of queries, one panel per varied modality and one line per cohort (Table 3).

    `table` has histology_queries and genomic_queries among its rows. Each panel varies one of them and fixes the other
    at the value with most combinations. The bars are 95 % patient-bootstrap intervals; a line within its own bars shows
    no trend. `oracle` maps simulated cohorts to the C-index of the true risk.
    """
    if missing := [name for name in QUERIES if name not in table.rows]:
        raise ValueError(
            f"The table has the rows {list(table.rows)}, without {missing}. Fix: make it with {list(QUERIES)}."
        )
    if others := [name for name in table.rows if name not in QUERIES and table.cells[name].nunique(dropna=False) > 1]:
        raise ValueError(
            f"The table varies {others} in addition to the numbers of queries. Fix: choose one value of each."
        )
    cohorts = list(table.cells[table.columns].unique())
    varying = [name for name in QUERIES if table.cells[name].nunique() > 1] or ["genomic_queries"]
    figure = Figure(figsize=(3 + 3 * len(varying), 4), layout="constrained")
    panels = figure.subplots(1, len(varying), sharey=True, squeeze=False)[0]
    for axes, varied in zip(panels, varying, strict=True):
        (kept,) = QUERIES.keys() - {varied}
        fixed = table.cells.groupby(kept, sort=False)[varied].nunique().idxmax()
        cells = table.cells[table.cells[kept] == fixed].sort_values(varied)
        counts = sorted(cells[varied].unique())
        axes.set_xscale("symlog", base=2, linthresh=1)  # logarithmic, but including 0 queries
        axes.xaxis.set_major_locator(FixedLocator(counts))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{count:g}" for count in counts])
        octaves = max(1.0, math.log2(max(*counts, 1) / max(min(counts), 1)))
        for i, cohort in enumerate(cohorts):
            line = cells[cells[table.columns] == cohort]
            colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
            # shifted per cohort, so that bars do not hide each other
            x = line[varied] * 2 ** (0.02 * octaves * (i - (len(cohorts) - 1) / 2))
            axes.plot(x, line["mean"], "-", color=colour, marker=mark, markersize=5, label=cohort)
            axes.vlines(x, line["low"], line["high"], color=colour, linewidth=1.2, alpha=0.6)
            if oracle and cohort in oracle:
                axes.axhline(oracle[cohort], color=colour, linestyle=":", linewidth=1.2)
        axes.margins(x=0.15)
        axes.set(xlabel=QUERIES[varied], title=f"with {fixed:g} {QUERIES[kept]}")
        axes.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)
        _plain(axes)
    panels[0].set_ylabel("C-index, mean over folds")
    handles, _ = panels[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color="0.4", marker="|", linestyle="", markersize=12, label="95 % interval"))
    if oracle:
        handles.append(Line2D([], [], color="0.4", linestyle=":", label="true risk"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    return figure


def learning_curves_figure(epochs: Sequence[Epoch], title: str) -> Figure:
    """Losses and C-index by epoch: one faint line per fold, and their mean in bold.

    A C-index of NaN is a gap in its fold's line and excluded from the mean.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    loss, c_index = figure.subplots(1, 2)
    for axes, name, label, colour, line in [
        (loss, "training_loss", "training cases", BLUE, "-"),
        (loss, "validation_loss", "held-out cases", VERMILION, "--"),
        (c_index, "c_index", "held-out cases", VERMILION, "--"),
    ]:
        by_fold = pd.DataFrame([getattr(epoch, name) for epoch in epochs], index=[epoch.epoch for epoch in epochs])
        axes.plot(by_fold.index, by_fold, line, color=colour, alpha=0.3, linewidth=1)
        mean = f"{label}, mean of {by_fold.shape[1]} folds"
        axes.plot(by_fold.index, by_fold.mean(axis=1), line, color=colour, linewidth=2.5, label=mean)
    c_index.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)
    for axes, label in [(loss, "loss"), (c_index, "C-index")]:
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        _plain(axes)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"
