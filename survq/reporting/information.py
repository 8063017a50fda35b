"""The rows of Table 6 and the points of Figure 5, from the fold models of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from survq.data.cohort import Cohort
from survq.interpretation.geometry import (
    MODALITIES,
    information,
    neighbour_embedding,
    principal_plane,
    queries_of,
    same_neighbour,
    tokens_and_reads,
)
from survq.interpretation.held_out import bag_of, held_out_sample
from survq.reporting.figures import BLUE, VERMILION
from survq.training.fold import FittedFold
from survq.training.learner import initial_model

SEEDS = (0, 1)  # of t-SNE


def information_table(folds: Sequence[FittedFold], predictions: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """One row per modality and kind of queries: components, original, in_subspace, kept (see TABLE_6)."""
    rows = []
    for fold in folds:
        cases = held_out_sample(fold, predictions, cohort)
        for modality in MODALITIES:
            read = [tokens_and_reads(fold, cohort, bag_of(cohort, case), case, modality) for case in cases]
            for kind in read[0][1]:
                found = information([tokens for tokens, _ in read], [reads[kind] for _, reads in read])
                rows.append({"modality": modality, "queries": kind, **vars(found)})
    return pd.DataFrame(rows).groupby(["modality", "queries"], sort=False, as_index=False).mean()


def query_points(fold: FittedFold) -> pd.DataFrame:
    """Figure 5 as a table, one row per view and query: model, view, query, modality, x, y; same_neighbour of the model
    and explained, the share of the variance in a principal plane.
    """
    untrained = initial_model(fold.config, fold.spec, fold.repeat, fold.index)
    tables = []
    for name, model in (("trained", fold.model), ("before training", untrained)):
        points, genomic = queries_of(model)
        plane, explained = principal_plane(points)
        views = {"PCA": plane} | {f"t-SNE, seed {seed}": neighbour_embedding(points, seed) for seed in SEEDS}
        number = np.concatenate([np.arange((~genomic).sum()), np.arange(genomic.sum())])
        for view, places in views.items():
            tables.append(
                pd.DataFrame({"model": name, "view": view, "query": number})
                .assign(modality=np.where(genomic, "genomic", "histology"), x=places[:, 0], y=places[:, 1])
                .assign(
                    same_neighbour=same_neighbour(points, genomic), explained=explained if view == "PCA" else np.nan
                )
            )
    return pd.concat(tables, ignore_index=True)


def query_points_figure(points: pd.DataFrame, title: str) -> Figure:
    """Figure 5: the queries of both modalities, trained and before training, by PCA and by t-SNE."""
    models, views = points["model"].unique(), points["view"].unique()
    figure = Figure(figsize=(3.4 * len(views), 3.5 * len(models) + 0.4), layout="constrained")
    figure.suptitle(title.replace("$", r"\$"))
    panels = figure.subplots(len(models), len(views), squeeze=False)
    for row, model in zip(panels, models, strict=True):
        for axes, view in zip(row, views, strict=True):
            shown = points[(points["model"] == model) & (points["view"] == view)]
            for modality, colour, mark in (("histology", BLUE, "o"), ("genomic", VERMILION, "^")):
                of_one = shown[shown["modality"] == modality]
                label = f"{len(of_one)} {modality} queries"
                axes.scatter(of_one["x"], of_one["y"], s=9, c=colour, marker=mark, alpha=0.7, label=label)
            same, explained = shown["same_neighbour"].iloc[0], shown["explained"].iloc[0]
            about = f"{explained:.0%} of the variance" if view == "PCA" else f"nearest of its own modality: {same:.0%}"
            axes.set_title(f"{model}, {view}\n{about}", fontsize=9)
            axes.set(xticks=[], yticks=[])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure
