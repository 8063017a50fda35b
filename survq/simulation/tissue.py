"""The tissue on simulated slides: its cells, and the morphology of each patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from survq.simulation.worlds import PROGNOSTIC, WorldConfig

SLIDES_PER_CASE = (0.75, 0.2, 0.05)  # probabilities of 1, 2 and 3
REGION_CELLS = 4.0  # length scale of regions of one morphology, in patches
REGION_STRENGTH = 1.5
REGION_WAVES = 12
GRAIN = 0.3  # raggedness of the borders of regions
FEWEST_PROGNOSTIC = (3, 0.01)  # minimum per case of each prognostic morphology: patches, or share


@dataclass(frozen=True, eq=False)
class Section:
    """The tissue on one slide, before it is painted."""

    case: int
    number: int  # within the case, from 1
    cells: Int[np.ndarray, "patch 2"]  # positions on the grid of patches, in raster order
    morphology: Int[np.ndarray, " patch"]


def draw_sections(
    config: WorldConfig, inclinations: Float[np.ndarray, "case morphology"], random: np.random.Generator
) -> list[Section]:
    """The sections of all cases, in the order of cases. `inclinations` are log shares."""
    sections = []
    for case, inclination in enumerate(inclinations):
        jitter = random.uniform(-config.patch_jitter, config.patch_jitter)
        patches = round(config.patches * (1 + jitter))
        slides = 1 + random.choice(len(SLIDES_PER_CASE), p=SLIDES_PER_CASE)
        sizes = 1 + random.multinomial(patches - slides, random.dirichlet(np.full(slides, 5.0)))
        cells = [tissue_cells(size, random) for size in sizes.tolist()]
        pull = np.concatenate([inclination + morphology_pull(c, config.morphologies, random) for c in cells])
        morphology = _with_prognostic_patches(pull.argmax(axis=1), pull)
        parts = np.split(morphology, sizes.cumsum()[:-1])
        sections += [Section(case, n, c, m) for n, (c, m) in enumerate(zip(cells, parts, strict=True), start=1)]
    return sections


def tissue_cells(patches: int, random: np.random.Generator) -> Int[np.ndarray, "patch 2"]:
    """The cells (x, y) of a grid that one to three irregular pieces of tissue cover, in raster order."""
    pieces = random.integers(1, 4)
    radius = np.sqrt(patches / (pieces * np.pi))
    centres = random.uniform(-2, 2, (pieces, 2)) * radius
    phase = random.uniform(0, 2 * np.pi, (pieces, 2))
    reach = int(np.ceil(3.6 * radius)) + 2
    y, x = (axis.ravel() for axis in np.mgrid[-reach : reach + 1, -reach : reach + 1])

    dx, dy = x[:, None] - centres[:, 0], y[:, None] - centres[:, 1]  # (cell, piece)
    angle = np.arctan2(dy, dx)
    edge = 1 + 0.2 * np.cos(3 * angle + phase[:, 0]) + 0.15 * np.cos(5 * angle + phase[:, 1])
    depth = (edge - np.hypot(dx, dy) / radius).max(axis=1)  # above 0 inside a piece
    inside = np.sort(np.argpartition(-depth, patches - 1)[:patches])
    margin = random.integers(0, 40, 2)
    return np.stack([x, y], axis=1)[inside] + reach + margin


def morphology_pull(
    cells: Int[np.ndarray, "patch 2"], morphologies: int, random: np.random.Generator
) -> Float[np.ndarray, "patch morphology"]:
    """Scores of each morphology per cell: smooth waves, which form regions, plus noise."""
    frequency = random.standard_normal((2, morphologies * REGION_WAVES)) / REGION_CELLS
    phase = random.uniform(0, 2 * np.pi, morphologies * REGION_WAVES)
    waves = np.cos(cells @ frequency + phase).reshape(len(cells), morphologies, REGION_WAVES)
    regions = np.sqrt(2 / REGION_WAVES) * waves.sum(axis=2)  # deviation 1
    return REGION_STRENGTH * regions + GRAIN * random.gumbel(size=regions.shape)


def _with_prognostic_patches(
    morphology: Int[np.ndarray, " patch"], pull: Float[np.ndarray, "patch morphology"]
) -> Int[np.ndarray, " patch"]:
    """Change the likeliest other patches into prognostic ones if a case has too few: each case has a signal."""
    fewest = max(FEWEST_PROGNOSTIC[0], int(FEWEST_PROGNOSTIC[1] * len(morphology)))
    for prognostic in PROGNOSTIC:
        lacking = fewest - (morphology == prognostic).sum()
        if lacking > 0:
            commonest = np.bincount(morphology).argmax()  # may be the other prognostic one, and the only one
            free = np.flatnonzero(~np.isin(morphology, PROGNOSTIC) | (morphology == commonest))
            morphology[free[np.argsort(-pull[free, prognostic])[:lacking]]] = prognostic
    return morphology


def patch_counts(sections: Sequence[Section], cases: int, morphologies: int) -> Int[np.ndarray, "case morphology"]:
    """The number of patches of each morphology in the sections of each case."""
    case = np.concatenate([np.full(len(section.morphology), section.case) for section in sections])
    morphology = np.concatenate([section.morphology for section in sections])
    return np.bincount(case * morphologies + morphology, minlength=cases * morphologies).reshape(cases, morphologies)
