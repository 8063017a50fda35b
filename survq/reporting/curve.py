"""C-index by both numbers of queries, from one nested training per fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from survq.evaluation.significance import draw_patients, interval_of, mean_concordance
from survq.reporting.figures import BLUE, VERMILION
from survq.training.record import Record

COUNTS = ["histology_queries", "genomic_queries"]
RESAMPLES = 1000


def curve_table(curve: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of numbers: C-index, mean over folds, with its 95 % interval by bootstrap of patients, low and
    high; and `minus_all`, the C-index minus that of all queries, with its paired interval, minus_low and minus_high.

    `curve` has the held-out predictions of each pair.
    """
    groups = {counts: predictions for counts, predictions in curve.groupby(COUNTS)}
    draws = draw_patients(next(iter(groups.values())), RESAMPLES, seed=0)  # of all pairs
    resampled = {counts: mean_concordance(predictions, draws) for counts, predictions in groups.items()}
    rows = []
    for counts, values in resampled.items():
        own, minus = interval_of(values), interval_of(values - resampled[max(groups)])
        rows.append((*counts, own.estimate, own.low, own.high, minus.estimate, minus.low, minus.high))  # type: ignore[misc]
    columns = ["c_index", "low", "high", "minus_all", "minus_low", "minus_high"]
    return pd.DataFrame(rows, columns=[*COUNTS, *columns])


def curve_figure(table: pd.DataFrame, checks: pd.DataFrame, title: str) -> Figure:
    """The surface of C over both numbers, its difference from all queries, and its two edges, all with their intervals.
    `checks` are runs of a fixed number each.
    """
    figure = Figure(figsize=(15, 9.5), layout="constrained")
    figure.suptitle(title.replace("$", r"\$"))
    above, below = figure.subfigures(2, 1, height_ratios=[5.5, 4], squeeze=False)[:, 0]
    surface, difference = above.subplots(1, 2)
    middle = (table["c_index"].min() + table["c_index"].max()) / 2
    _surface(
        surface, table, "c_index", ("low", "high"), "C-index of one nested training per fold, with its 95 % interval",
        lambda value: f"{value:.2f}".lstrip("0"), lambda value: value < middle, cmap="viridis",
    )  # fmt: skip
    most = max(table["minus_all"].abs().max(), 0.01)
    _surface(
        difference, table, "minus_all", ("minus_low", "minus_high"),
        "C-index minus that of all queries; framed where the 95 % interval excludes 0",
        lambda value: f"{value:+.2f}", lambda value: abs(value) > 0.6 * most, cmap="RdBu", vmin=-most, vmax=most,
    )  # fmt: skip
    beyond = table[(table["minus_low"] > 0) | (table["minus_high"] < 0)]
    across, up = (sorted(table[name].unique()) for name in COUNTS)
    for h, g in beyond[COUNTS].to_numpy().tolist():
        corner = across.index(h) - 0.47, up.index(g) - 0.47
        difference.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="black", linewidth=1.2))
    edges = below.subplots(1, 2, sharey=True)
    for axes, varied, kept in zip(edges, COUNTS, reversed(COUNTS), strict=True):
        _edge(axes, table[table[kept] == table[kept].max()], checks, varied, kept)
    edges[0].set_ylabel("C-index, mean over folds")
    handles, labels = edges[0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _surface(
    axes: Axes, table: pd.DataFrame, column: str, interval: tuple[str, str], title: str,
    written: Callable[[float], str], is_dark: Callable[[float], bool], **style: Any,
) -> None:  # fmt: skip
    """A column over both numbers of queries; each value stands above its interval."""
    grid = table.pivot(index=COUNTS[1], columns=COUNTS[0], values=column)
    image = axes.imshow(grid, origin="lower", aspect="auto", **style)
    rows, columns = {count: i for i, count in enumerate(grid.index)}, {count: i for i, count in enumerate(grid.columns)}
    for row in table.to_dict("records"):
        x, y = columns[row[COUNTS[0]]], rows[row[COUNTS[1]]]
        colour = "white" if is_dark(row[column]) else "black"
        axes.text(x, y, written(row[column]), ha="center", va="bottom", fontsize=8, color=colour)
        bounds = " ".join(written(row[bound]) for bound in interval)
        axes.text(x, y - 0.08, bounds, ha="center", va="top", fontsize=5.5, color=colour)
    axes.set_xticks(range(grid.shape[1]), [str(count) for count in grid.columns])
    axes.set_yticks(range(grid.shape[0]), [str(count) for count in grid.index])
    axes.set(xlabel="histology queries", ylabel="genomic queries")
    axes.set_title(title, fontsize=10)
    axes.figure.colorbar(image, ax=axes, shrink=0.9)


def _edge(axes: Axes, line: pd.DataFrame, checks: pd.DataFrame, varied: str, kept: str) -> None:
    line = line.sort_values(varied)
    axes.fill_between(line[varied], line["low"], line["high"], color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(line[varied], line["c_index"], "-o", color=BLUE, markersize=4, label="nested, with 95 % interval")
    axes.errorbar(
        checks[varied], checks["c_index"], [checks["c_index"] - checks["low"], checks["high"] - checks["c_index"]],
        fmt="s", color=VERMILION, capsize=3, label="trained alone, with the numbers beside it",
    )  # fmt: skip
    for row in checks.to_dict("records"):
        beside = f"{row[COUNTS[0]]}, {row[COUNTS[1]]}"
        axes.annotate(beside, (row[varied], row["c_index"]), (5, 4), textcoords="offset points", fontsize=7)
    axes.set_xscale("log", base=2)
    counts = list(line[varied])
    crowded = [count < counts[-1] < 1.4 * count for count in counts]  # by the label of the last
    labels = ["" if hidden else str(count) for count, hidden in zip(counts, crowded, strict=True)]
    axes.set_xticks(counts, labels, fontsize=7)
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
