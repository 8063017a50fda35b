"""C-index by both numbers of queries, from one nested training per fold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from survq.evaluation.concordance import fold_concordance, summarise
from survq.evaluation.significance import bootstrap_interval
from survq.reporting.figures import BLUE, VERMILION
from survq.training.record import Record

COUNTS = ["histology_queries", "genomic_queries"]


def curve_table(curve: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of numbers: C-index, mean over folds. Where one of the numbers is the largest also its 95 %
    interval by bootstrap of patients, low and high; elsewhere NaN.

    `curve` has the held-out predictions of each pair.
    """
    rows, largest = [], curve[COUNTS].max().to_numpy()
    for counts, predictions in curve.groupby(COUNTS):
        mean = summarise(fold_concordance(predictions)).c_index
        edge = (np.array(counts) == largest).any()
        found = bootstrap_interval(predictions) if edge else None
        low, high = (found.low, found.high) if found else (np.nan, np.nan)
        rows.append((*counts, mean, low, high))  # type: ignore[misc]
    return pd.DataFrame(rows, columns=[*COUNTS, "c_index", "low", "high"])


def curve_figure(table: pd.DataFrame, checks: pd.DataFrame, title: str) -> Figure:
    """The surface of C over both numbers, and its two edges with bands. `checks` are runs of a fixed number each."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle(title.replace("$", r"\$"))
    surface, *edges = figure.subplots(1, 3)
    grid = table.pivot(index=COUNTS[1], columns=COUNTS[0], values="c_index")
    image = surface.imshow(grid, origin="lower", cmap="viridis", aspect="auto")
    for row, line in enumerate(grid.to_numpy()):
        for column, value in enumerate(line):
            dark = value < (np.nanmin(grid.to_numpy()) + np.nanmax(grid.to_numpy())) / 2
            shown = f"{value:.2f}".lstrip("0")
            surface.text(column, row, shown, ha="center", va="center", fontsize=6, color="white" if dark else "black")
    surface.set_xticks(range(grid.shape[1]), [str(count) for count in grid.columns])
    surface.set_yticks(range(grid.shape[0]), [str(count) for count in grid.index])
    surface.set(xlabel="histology queries", ylabel="genomic queries", title="one nested training per fold")
    figure.colorbar(image, ax=surface, label="C-index, mean over folds")
    for axes, varied, kept in zip(edges, COUNTS, reversed(COUNTS), strict=True):
        _edge(axes, table[table[kept] == table[kept].max()], checks, varied, kept)
    low = min([table["low"].min(), *checks["low"]])
    high = max([table["high"].max(), *checks["high"]])
    for axes in edges:
        axes.set_ylim(low - 0.01, high + 0.01)
    edges[0].set_ylabel("C-index, mean over folds")
    edges[0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _edge(axes: Axes, line: pd.DataFrame, checks: pd.DataFrame, varied: str, kept: str) -> None:
    line = line.sort_values(varied)
    axes.fill_between(line[varied], line["low"], line["high"], color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(line[varied], line["c_index"], "-o", color=BLUE, markersize=4, label="nested, with 95 % interval")
    axes.errorbar(
        checks[varied], checks["c_index"], [checks["c_index"] - checks["low"], checks["high"] - checks["c_index"]],
        fmt="s", color=VERMILION, capsize=3, label="trained with these numbers alone",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(line[varied]), [str(count) for count in line[varied]], fontsize=7)
    axes.set_xlabel(varied.replace("_", " "))
    axes.set_title(f"with all {line[kept].max()} {kept.replace('_', ' ')}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def alone_table(records: Mapping[tuple[int, int], Record]) -> pd.DataFrame:
    """The rows of `curve_table` for runs of a fixed number of queries each."""
    rows = []
    for counts, record in records.items():
        assert record.report.c_index is not None
        found = record.report.c_index
        rows.append((*counts, found.mean, found.low, found.high))
    return pd.DataFrame(rows, columns=[*COUNTS, "c_index", "low", "high"])


def compared_at(table: pd.DataFrame, checks: pd.DataFrame) -> pd.DataFrame:
    """Nested and alone side by side, where both exist, and their difference."""
    both = checks.merge(table, on=COUNTS, suffixes=("_alone", "_nested"))[[*COUNTS, "c_index_nested", "c_index_alone"]]
    both = both.rename(columns={"c_index_nested": "nested", "c_index_alone": "alone"})
    return both.assign(difference=both["nested"] - both["alone"])
