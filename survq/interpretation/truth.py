"""How well a map finds what a simulation planted.

An AUROC is the probability that a planted item scores above another one, one half by chance. Patches are compared
within their case: those of a prognostic morphology with those of indifferent ones.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from survq.data.cohort import Cohort
from survq.simulation.cohort import World
from survq.simulation.data_folder import read_simulation, simulator
from survq.simulation.worlds import PROGNOSTIC, WorldConfig

EFFECTS = dict(zip(("worse", "better"), PROGNOSTIC, strict=True))
"""The prognostic morphologies, by their effect on the outlook."""


def morphologies(cohort: Cohort) -> dict[str, Int[np.ndarray, " patch"]] | None:
    """The morphology of each patch of each case, in the order of its bag; None if the cohort is not simulated.

    The cohort is simulated again: None also if another version of the simulator drew it, or its slides are others now.
    """
    simulation = read_simulation(cohort.folder)
    if simulation is None or simulation["simulator"] != simulator():
        return None
    config = WorldConfig(**simulation["config"])
    sections = World(config).cohort(config.cases + config.held_out, simulation["seed"]).sections
    found = {}
    for case, rows in cohort.slides_by_case.items():
        of_slides = [sections[row["slide_id"]].morphology for row in rows if row["slide_id"] in sections]
        if [len(part) for part in of_slides] != [row["patches"] for row in rows]:
            return None
        found[case] = np.concatenate(of_slides)
    return found


def auroc(score: Float[np.ndarray, "*rows item"], planted: Bool[np.ndarray, " item"]) -> Float[np.ndarray, "*rows"]:
    """The probability that a planted item scores above another one; equal scores count one half. NaN without others."""
    positive = planted.sum()
    if positive in (0, len(planted)):
        return np.full(score.shape[:-1], np.nan)
    above = rankdata(score, axis=-1)[..., planted].sum(axis=-1) - positive * (positive + 1) / 2
    return np.asarray(above / (positive * (len(planted) - positive)))


def patch_auroc(
    score: Float[np.ndarray, "*rows patch"], morphology: Int[np.ndarray, " patch"], prognostic: int
) -> Float[np.ndarray, "*rows"]:
    """How well a score tells a case's patches of a prognostic morphology from indifferent ones."""
    compared = (morphology == prognostic) | ~np.isin(morphology, PROGNOSTIC)
    return auroc(score[..., compared], morphology[compared] == prognostic)


def hottest_planted(score: Float[np.ndarray, " patch"], morphology: Int[np.ndarray, " patch"]) -> float:
    """The share of planted patches, of either prognostic morphology, in the tenth with the highest scores."""
    hottest = np.argsort(-score, kind="stable")[: max(1, round(len(score) / 10))]
    return float(np.isin(morphology[hottest], PROGNOSTIC).mean())
