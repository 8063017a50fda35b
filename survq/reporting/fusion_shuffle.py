"""Which modalities the fused models of a study use: their C-index with the slides, or the genes, of other cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from survq.data.cohort import Cohort
from survq.data.location import Location
from survq.demo import demo_folder
from survq.evaluation.modality_shuffle import ShuffleEffect, shuffle_effect
from survq.evaluation.significance import Interval
from survq.exits import UserError
from survq.interpretation.modality_shuffle import MODALITIES, CannotShuffle, shuffled_risks
from survq.reporting.figures import BLUE, VERMILION
from survq.reporting.fusion import SMALL_P, interval
from survq.reporting.methods import Method
from survq.reporting.report_figures import literal
from survq.reporting.report_material import Material

SHUFFLES = 10
NAMES = {"histology": "slides", "genomics": "genes"}
SAME = 0.9999  # rank correlation from which on two rankings are the same
UNKNOWN = ShuffleEffect(np.nan, np.nan, Interval(np.nan, np.nan, np.nan, 0), np.nan, np.nan)


def data_of_study(material: Material, asked: str | None) -> Location:
    """The data folder of a study: the one asked for, else the one that its settings name, else that of the demo."""
    named = asked or material.settings.get("data")
    return Location.at(named) if named else demo_folder(material.results.folder.parent)


def shuffle_table(methods: Sequence[Method], data: Location, notify: Callable[[str], None] = print) -> pd.DataFrame:
    """Two rows per fused method: what shuffling its slides, or its genes, within folds does to its C-index.

    cohort, method, seed, shuffled, c_index, c_index_shuffled, drop (with its 95 % interval), p, rank_agreement (of the
    risks with the own and with another case's modality; 1: not read), verdict; where they are NaN, the reason in a
    sentence. Errors of data or weights that cannot be read go to `notify`, because they may name cases.
    """
    cohorts: dict[str, Cohort] = {}
    rows = []
    for method in methods:
        effects, reason = dict.fromkeys(MODALITIES, UNKNOWN), "the weights were not kept; --keep-weights keeps them"
        if all(any(name.endswith(".safetensors") for name in one.report.files) for one in method.records):
            notify(f"  {method.cohort}, {method.title}: slides and genes are shuffled {SHUFFLES} times")
            try:
                if method.cohort not in cohorts:
                    cohorts[method.cohort] = Cohort.load(data, method.cohort)
                found = shuffled_risks(method.records, cohorts[method.cohort], shuffles=SHUFFLES)
                effects = {name: shuffle_effect(found.own, found.shuffled[name]) for name in MODALITIES}
                reason = ""
            except CannotShuffle as error:
                reason = str(error)
            except (UserError, OSError) as error:
                notify(f"  {error}")
                reason = "the data or the weights cannot be read"
        rows += [_row(method, name, effect, reason) for name, effect in effects.items()]
    return pd.DataFrame(rows)


def _row(method: Method, modality: str, effect: ShuffleEffect, reason: str) -> dict[str, object]:
    return {
        **{"cohort": method.cohort, "method": method.name, "seed": method.seed, "shuffled": NAMES[modality]},
        **{"c_index": effect.c_index, "c_index_shuffled": effect.shuffled},
        **interval("drop", effect.drop),
        **{"p": effect.p_value, "rank_agreement": effect.agreement},
        **{"verdict": "" if reason else verdict(effect), "reason": reason},
    }


def verdict(effect: ShuffleEffect) -> str:
    if effect.agreement >= SAME:
        return "not read"
    return "used" if effect.p_value < SMALL_P else "read, without a gain that shows"


def shuffle_figure(rows: pd.DataFrame, title: str) -> Figure:
    """The drop in C-index of each method and modality, with its 95 % interval."""
    methods = list(dict.fromkeys(zip(rows["method"], rows["seed"], strict=True)))
    figure = Figure(figsize=(7.5, 1.5 + 0.4 * len(methods)), layout="constrained")
    axes = figure.subplots()
    for number, (name, colour) in enumerate(zip(NAMES.values(), (BLUE, VERMILION), strict=True)):
        own = rows[rows["shuffled"] == name].set_index(["method", "seed"])
        for y, method in enumerate(methods):
            row, height = own.loc[method], y + 0.24 * (number - 0.5)
            axes.plot([row["drop_low"], row["drop_high"]], [height] * 2, color=colour, linewidth=2)
            axes.plot(row["drop"], height, "o", color=colour, markersize=5, label=f"{name} shuffled" if y == 0 else "")
    axes.axvline(0, color="0.75", linewidth=0.9, zorder=0)
    titles = [f"{name}, seed {seed}" if seed else str(name) for name, seed in methods]
    axes.set_yticks(range(len(methods)), [literal(name) for name in titles])
    axes.set(xlabel="drop in C-index, 95 % interval", ylim=(len(methods) - 0.4, -0.6), title=literal(title))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.title.set_fontsize("medium")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure
