"""Figures of a report: the C-index of every fold, and predicted against observed survival by risk third."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from survq.evaluation.calibration_by_risk import THIRDS, risk_thirds
from survq.evaluation.concordance import fold_concordance
from survq.evaluation.held_out import HeldOut
from survq.evaluation.kaplan_meier import survival_curve
from survq.reporting.figures import BLUE, VERMILION

COLOURS = (BLUE, "#E69F00", VERMILION)  # of the low, middle and high third
LINES = ("-", "-.", "--")


def folds_figure(methods: Sequence[tuple[str, HeldOut]], metrics: pd.DataFrame, title: str) -> Figure:
    """A row per method: the C-index of each fold as a grey dot, sized by its comparable pairs; the mean in blue with
    its 95 % interval. `metrics` has a row per method, in this order: value, low, high.
    """
    figure = Figure(figsize=(7.5, 1.5 + 0.34 * len(methods)), layout="constrained")
    axes = figure.subplots()
    for y, (_, method) in enumerate(methods):
        folds = fold_concordance(method.predictions)
        share = folds["pairs"] / max(folds["pairs"].max(), 1)
        axes.scatter(folds["c_index"], [y] * len(folds), s=12 + 50 * share, color="0.6", alpha=0.6, linewidth=0)
        row = metrics.iloc[y]
        axes.plot([row["low"], row["high"]], [y + 0.24] * 2, color=BLUE, linewidth=2)
        axes.plot(row["value"], y + 0.24, "o", color=BLUE, markersize=5)
    axes.axvline(0.5, color="0.75", linewidth=0.9, zorder=0)
    axes.set(title=title, ylim=(len(methods) - 0.4, -0.5))
    axes.set_xlabel("C-index: folds (grey),\nmean and 95 % interval (blue)")  # long names leave little room for it
    axes.set_yticks(range(len(methods)), [literal(name) for name, _ in methods])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.title.set_fontsize("medium")
    return figure


def calibration_figure(method: HeldOut, title: str) -> Figure:
    """Kaplan-Meier of each third by predicted risk with its 95 % band, and the mean predicted survival as dots.

    The dots lie at the interval edges, where survival is predicted, averaged over folds.
    """
    thirds = risk_thirds(method.survival(method.median_event_time))
    edges = np.mean([fold.edges for fold in method.folds if fold.edges is not None], axis=0)
    predicted = np.array([method.survival(float(edge)) for edge in edges])
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, colour, line) in enumerate(zip(THIRDS, COLOURS, LINES, strict=True)):
        mine = thirds == number
        if not mine.any():
            continue
        cases = method.outcomes[mine]
        curve = survival_curve(cases["time"].to_numpy(float), cases["event"].to_numpy(bool))
        axes.step(
            curve["time"], curve["survival"], line, where="post", color=colour, linewidth=1.6, label=f"{name} risk"
        )
        axes.fill_between(
            curve["time"], curve["low"], curve["high"], step="post", color=colour, alpha=0.13, linewidth=0
        )
        mean = predicted[:, mine].mean(axis=1)
        axes.plot(edges, mean, "o", color=colour, markeredgecolor="black", markersize=8, zorder=3)
    axes.plot([], [], "o", color="white", markeredgecolor="black", markersize=8, label="predicted, at the edges")
    axes.set(xlim=(0, edges[-1] * 1.6), ylim=(0, 1.03), xlabel="months", ylabel="survival", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(frameon=False, loc="lower left", fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def literal(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
