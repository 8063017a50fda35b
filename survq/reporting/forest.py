"""The figure of a comparison: the C-index of every model with its interval, one panel per cohort."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from survq.reporting.figures import BLUE, VERMILION
from survq.reporting.tables import Table


def forest_figure(table: Table, reference: str, oracle: Mapping[str, float] | None = None) -> Figure:
    """C-index and 95 % interval by patient bootstrap of each row of a comparison, in its order and groups.

    The dashed line is the C-index of the row `reference`; the dotted one that of the true risk of a simulated cohort
    (`oracle`, by cohort). Rows without a number keep their place and state the problem.
    """
    cells, cohorts = table.cells, list(dict.fromkeys(table.cells[table.columns]))
    rows = cells.drop_duplicates(list(table.rows))
    heights, labels, headings = {}, {}, {}
    height = 0.0
    for group, members in rows.groupby("group", sort=False):
        headings[height] = str(group)
        for model in members["model"]:
            height += 1
            heights[model], labels[height] = height, str(model)
        height += 1.4
    figure = Figure(figsize=(2.6 + 3.4 * len(cohorts), 1.2 + 0.22 * height), layout="constrained")
    panels = figure.subplots(1, len(cohorts), sharey=True, squeeze=False)[0]
    for axes, cohort in zip(panels, cohorts, strict=True):
        own = cells[cells[table.columns] == cohort].set_index("model")
        for model, y in heights.items():
            if model not in own.index or not own.loc[model, "mean"] > 0:
                axes.text(0.5, y, " no result", va="center", fontsize="small", color="0.5")
                continue
            cell, colour = own.loc[model], VERMILION if model == reference else BLUE
            axes.plot([cell["low"], cell["high"]], [y, y], color=colour, linewidth=1.4, alpha=0.7)
            axes.plot(cell["mean"], y, "D" if model == reference else "o", color=colour, markersize=5)
        if reference in own.index:
            axes.axvline(own.loc[reference, "mean"], color=VERMILION, linestyle="--", linewidth=0.9, zorder=0)
        axes.axvline(0.5, color="0.75", linewidth=0.9, zorder=0)
        if oracle and cohort in oracle:
            axes.axvline(oracle[cohort], color="0.3", linestyle=":", linewidth=1.2, zorder=0)
            axes.text(
                oracle[cohort],
                -0.9,
                "true risk",
                ha="center",
                va="bottom",
                fontsize="x-small",
                color="0.3",
                backgroundcolor="white",
            )
        events, cases = int(own["events"].iloc[0]), int(own["cases"].iloc[0])
        axes.set(xlabel="C-index, mean over folds", title=f"{cohort}, {events} events in {cases} cases")
        axes.title.set_fontsize("medium")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        for y, heading in headings.items():
            axes.axhline(y + 0.45, color="0.92", linewidth=0.8, zorder=0)
            if axes is panels[0]:
                axes.annotate(
                    heading, (0, y), xycoords=("axes fraction", "data"), xytext=(-6, 0), textcoords="offset points",
                    ha="right", va="center", fontweight="bold", fontsize="small",
                )  # fmt: skip
    panels[0].set_yticks(list(labels), list(labels.values()))
    panels[0].set_ylim(height - 0.6, -1.2)
    return figure
