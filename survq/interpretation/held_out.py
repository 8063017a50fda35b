"""A held-out case of a finished run, seen by the model that never saw it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from survq.data.cohort import Cohort
from survq.data.feature_store import read_slides
from survq.data.half_floats import as_tensor
from survq.interpretation.query_maps import QueryMaps, maps_of
from survq.interpretation.relevance import gradients
from survq.interpretation.truth import EFFECTS, hottest_planted, patch_auroc
from survq.training.fold import FittedFold, digest_of
from survq.training.learner import initial_model

CASES = 24  # of each fold and role in `planted_evidence`
SIGNS = {"worse": 1.0, "better": -1.0}


@dataclass(frozen=True, eq=False)
class HeldOutCase:
    """A case, its maps by the model that held it out, and by that model before training."""

    fold: int
    time: float  # months
    event: bool
    percentile: float  # of its risk among the held-out cases of its fold, 0 to 100
    slides: pd.DataFrame  # its rows of the feature store
    maps: QueryMaps
    untrained: QueryMaps

    @property
    def case_id(self) -> str:
        return self.maps.case_id

    @property
    def slide_ids(self) -> list[str]:
        return list(self.slides["slide_id"])

    @property
    def facts(self) -> str:
        """What is known of the case, for a figure."""
        outcome = f"died after {self.time:.1f} months" if self.event else f"alive after {self.time:.1f} months"
        slides = [f"slide {number}: {slide}" for number, slide in enumerate(self.slide_ids, start=1)]
        return "\n".join(
            [
                outcome,
                f"predicted risk: percentile {self.percentile:.0f} of the cases",
                f"that fold {self.fold} holds out; its model never saw them",
                *(slide if len(slide) <= 44 else slide[:43] + "…" for slide in slides[:6]),
                *([f"... and {len(slides) - 6} more"] if len(slides) > 6 else []),
            ]
        )


def held_out_cases(
    folds: Sequence[FittedFold], predictions: pd.DataFrame, cohort: Cohort, case_ids: Sequence[str]
) -> Iterator[HeldOutCase]:
    """These cases, one by one. `predictions` are those of the run; with repeats, the first one is used."""
    first = predictions[predictions["repeat"] == predictions["repeat"].min()]
    percentile = 100 * first.groupby("fold")["risk"].rank(pct=True)
    for case in case_ids:
        row = first[first["case_id"] == case].iloc[0]
        (fold,) = [fold for fold in folds if (fold.repeat, fold.index) == (row["repeat"], row["fold"])]
        bag = bag_of(cohort, case)
        yield HeldOutCase(
            fold=fold.index,
            time=float(row["time"]),
            event=bool(row["event"]),
            percentile=float(percentile[row.name]),
            slides=cohort.slides[cohort.slides["case_id"] == case],
            maps=maps_of(fold, cohort, bag, case),
            untrained=maps_of(fold, cohort, bag, case, trained=False),
        )


def effect_of(morphology: np.ndarray) -> np.ndarray:
    """(patch,): 1 where a patch worsens the outlook, -1 where it betters it, 0 elsewhere."""
    return sum((SIGNS[name] * (morphology == kind) for name, kind in EFFECTS.items()), np.zeros(len(morphology)))


def planted_evidence(
    folds: Sequence[FittedFold], predictions: pd.DataFrame, cohort: Cohort, truth: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """How well two kinds of maps find planted patches in held-out cases, trained and untrained: one row each.

    model, map, worse and better (AUROC, means over cases), hottest_planted, planted (see `evidence`). The attention is
    that of the query that finds a morphology best in training cases of the same fold. Of each fold `CASES` held-out and
    as many training cases are used, spread evenly over their ids.
    """
    first = predictions[predictions["repeat"] == predictions["repeat"].min()]
    both = _complete(cohort)
    rows = []
    for fold in (fold for fold in folds if fold.repeat == first["repeat"].iloc[0]):
        held_out = held_out_sample(fold, predictions, cohort)
        training = _spread([case for case in both if digest_of(case) in fold.trained_on])
        table = fold.preprocessing.table(cohort)
        for name, model in (
            ("trained", fold.model),
            ("untrained", initial_model(fold.config, fold.spec, fold.repeat, fold.index)),
        ):
            model.eval()
            found: dict[str, list] = {"training": [], "held out": []}  # (case, effect, query): AUROC of attention
            for role, cases in (("training", training), ("held out", held_out)):
                for case in cases:
                    batch = table.batch([case], [bag_of(cohort, case)])
                    with torch.no_grad():
                        attention = model(batch, keep_attention=True).attention
                    assert attention is not None and attention.histology is not None
                    (A,) = attention.histology
                    assert A is not None
                    found[role].append([patch_auroc(A.double().numpy(), truth[case], k) for k in EFFECTS.values()])
                    if role == "held out":
                        (gradient,), _ = gradients(model, batch)
                        length = gradient.norm(dim=1).double().numpy()
                        of_case = {e: float(patch_auroc(length, truth[case], k)) for e, k in EFFECTS.items()}
                        planted = float(np.isin(truth[case], list(EFFECTS.values())).mean())
                        hottest = hottest_planted(length, truth[case])
                        rows.append((name, "gradient", of_case["worse"], of_case["better"], hottest, planted))
            best = np.nanmean(np.array(found["training"]), axis=0).argmax(axis=1)
            for by_effect in found["held out"]:
                worse, better = (float(by_effect[effect][query]) for effect, query in enumerate(best))
                rows.append((name, "attention of the best query", worse, better, np.nan, np.nan))
    columns = ["model", "map", "worse", "better", "hottest_planted", "planted"]
    table = pd.DataFrame(rows, columns=columns)
    return table.groupby(["map", "model"], sort=False, as_index=False)[columns[2:]].mean()


def held_out_sample(fold: FittedFold, predictions: pd.DataFrame, cohort: Cohort) -> list[str]:
    """At most `CASES` cases with slides and expression that a fold held out, spread evenly over their ids."""
    own = predictions[(predictions["repeat"] == fold.repeat) & (predictions["fold"] == fold.index)]["case_id"]
    return _spread(set(own) & _complete(cohort))


def bag_of(cohort: Cohort, case_id: str) -> torch.Tensor:
    """The patches of a case, (patch, feature), float16."""
    return as_tensor(read_slides(cohort.features, cohort.slides_by_case[case_id]))


def _complete(cohort: Cohort) -> set[str]:
    return set(cohort.cases.index[cohort.has_slides & cohort.has_expression])


def _spread(case_ids: Collection[str]) -> list[str]:
    """At most `CASES` of these cases, spread evenly over their sorted ids."""
    ordered = sorted(case_ids)
    return [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, min(CASES, len(ordered)))]
