"""The figure of the nested searches of a cohort: best trial so far, and which settings mattered."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from survq.reporting.figures import BLUE, VERMILION
from survq.reporting.report_figures import literal


def search_figure(best: pd.DataFrame, importance: pd.DataFrame, title: str) -> Figure:
    """Left: the best inner C-index so far, a line per outer search. Right: importance of each setting, a dot per search
    and their mean. `best` and `importance` are tables of survq.tuning.findings.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    figure.suptitle(literal(title))
    curves, settings = figure.subplots(1, 2)
    for _, own in best.groupby("search", sort=False):
        curves.step(own["trial"] + 1, own["c_index"], where="post", color=BLUE, alpha=0.6)
    curves.set(xlabel="trials", ylabel="best inner C-index (optimistic)")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    names = list(importance.groupby("setting")["importance"].mean().sort_values(ascending=False).index)
    for y, name in enumerate(names):
        values = importance.loc[importance["setting"] == name, "importance"]
        settings.plot(values, [y] * len(values), "o", color="0.6", markersize=5, alpha=0.7, linewidth=0)
        settings.plot(values.mean(), y, "D", color=VERMILION, markersize=7)
    settings.set_yticks(range(len(names)), [literal(name) for name in names])
    settings.set(xlabel="importance: outer searches (grey) and mean", xlim=(-0.03, 1.03))
    if names:
        settings.set_ylim(len(names) - 0.5, -0.5)
    else:
        settings.text(0.5, 0.5, "too few finished trials", ha="center", transform=settings.transAxes)
    for axes in (curves, settings):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
