"""Simulated worlds: the parameters of the distribution from which cases are drawn (survq/simulation/cohort.py).

Tissue has a few *morphologies*. The feature vector of a patch is the centroid of its morphology plus noise.
Morphologies 0 and 1 are *prognostic*: 0 raises the hazard, 1 lowers it. The expression of genes depends on the
*activities* of their pathways. A few pathways are *planted*: their activities change the hazard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from survq.data.gene_sets import GeneSets
from survq.data.streams import generator
from survq.exits import UsageError

PROGNOSTIC = (0, 1)  # morphologies: the first raises the hazard, the second lowers it
CENTROID_MIXING = 0.35  # makes centroids nearly, not exactly, orthogonal
PATHWAY_GENES = (8, 25)  # own genes of a pathway, both ends included
PATHWAY_OVERLAP = 0.2  # further members, drawn from all genes, as a share of the own genes
REPRESSED_GENES = 0.25  # share of genes that decrease with the activity of their pathway
PATHWAY_BLOCKS = 8  # pathways in the same block have correlated activities
EXPRESSION_SITE_SHIFT = 0.3  # deviation over sites, in units of log expression


@dataclass(frozen=True)
class WorldConfig:
    """The settings of a world and of its usual cohort. The defaults are the preset `rare`.

    Norms and shifts of features are in units of their white noise, whose deviation is 1 in every direction.
    """

    world: int = 0  # seed of the world; the cases of a cohort have their own seed

    cases: int = 400  # training cases if there are held-out cases; otherwise folds are made of them
    held_out: int = 400  # further cases, the validation cases of a single fold
    folds: int = 5  # if there are no held-out cases
    sites: int = 6
    patches: int = 128  # per case, on average
    patch_jitter: float = 0.25  # a case has (1 - jitter) to (1 + jitter) times as many

    width: int = 32  # of a patch's feature vector
    morphologies: int = 6
    prognostic_share: float = 0.05  # typical share of each prognostic morphology
    centroid_norm: float = 6.0
    severity_norm: float = 2.0  # shift of patch features per unit of severity
    nuisance_rank: int = 12  # directions of variation without effect on the hazard
    nuisance_norm: float = 3.0
    stain_shift: float = 0.6  # deviation of a slide's shift per feature; that of a site is half as large

    pathways: int = 20
    planted_pathways: int = 3
    pathway_correlation: float = 0.3  # of activities within a block
    gene_level_spread: float = 3.0  # deviation of the genes' mean log expression; dominates unscaled expression
    gene_noise: float = 0.5  # deviation of a gene; an activity of deviation 1 changes it by 0.4 to 1

    histology: Literal["share", "severity"] = "share"  # property of the prognostic morphologies that changes the hazard
    effect_histology: float = 1.2  # log hazard per standard deviation
    effect_genomics: float = 1.2
    effect_interaction: float = 0.0
    censoring: float = 0.4  # share of cases

    missing_slides: float = 0.0  # share of cases
    missing_expression: float = 0.0  # share of cases; no case lacks both
    missing_by_age: float = 0.0  # log odds of a missing modality per standard deviation of age; 0: missing at random

    def __post_init__(self):
        if problems := list(self._problems()):
            raise UsageError(f"This world cannot be simulated: {'; '.join(problems)}.")

    def _problems(self) -> Iterator[str]:
        if self.cases < 1 or self.held_out < 0:
            yield f"cases={self.cases}, held_out={self.held_out}; expected at least 1 and at least 0"
        if self.morphologies < 3:
            yield f"morphologies={self.morphologies}; expected 3 or more, because 2 are prognostic"
        if not self.morphologies + 2 <= self.width <= 1024:
            yield f"width={self.width}; expected {self.morphologies + 2} (morphologies and 2) to 1024"
        if not 0 < self.prognostic_share < 0.5:
            yield f"prognostic_share={self.prognostic_share}; expected more than 0 and less than 0.5"
        if not 0 <= self.patch_jitter < 1 or self.patches * (1 - self.patch_jitter) < 12:
            yield (
                f"patches={self.patches}, patch_jitter={self.patch_jitter}; expected a jitter in [0, 1) "
                f"and at least 12 patches per case"
            )
        if not 1 <= self.planted_pathways <= self.pathways:
            yield f"planted_pathways={self.planted_pathways}; expected 1 to {self.pathways} (all pathways)"
        if not 1 <= self.sites <= 99:
            yield f"sites={self.sites}; expected 1 to 99"
        if self.histology not in ("share", "severity"):
            yield f'histology={self.histology!r}; expected "share" or "severity"'
        if not 0 < self.censoring < 1:
            yield f"censoring={self.censoring}; expected more than 0 and less than 1"
        if min(self.missing_slides, self.missing_expression) < 0 or self.missing_slides + self.missing_expression > 1:
            yield (
                f"missing_slides={self.missing_slides}, missing_expression={self.missing_expression}; "
                f"expected shares that sum to at most 1"
            )


_RARE = WorldConfig()

PRESETS: dict[str, WorldConfig] = {
    # small and easy: a small SurvQ reaches a C-index above 0.7 in ten epochs of 160 cases
    "demo": WorldConfig(
        cases=240,
        held_out=0,
        folds=3,
        sites=8,
        patches=60,
        patch_jitter=0.5,
        width=64,
        morphologies=4,
        prognostic_share=0.15,
        severity_norm=0.3,
        nuisance_rank=4,
        nuisance_norm=1.0,
        stain_shift=0.1,
        pathways=24,
        planted_pathways=1,
        pathway_correlation=0.1,
        gene_level_spread=1.0,
        gene_noise=0.3,
        effect_histology=1.5,
        effect_genomics=1.5,
        missing_slides=0.03,
        missing_expression=0.03,
    ),
    # for tests with thresholds that a correct implementation meets
    "test": WorldConfig(
        cases=600,
        patches=64,
        width=16,
        morphologies=4,
        prognostic_share=0.06,
        severity_norm=0.3,
        nuisance_rank=6,
        nuisance_norm=2.0,
        stain_shift=0.3,
        pathways=12,
        pathway_correlation=0.1,
        gene_level_spread=1.0,
        gene_noise=0.3,
        effect_histology=1.5,
        effect_genomics=1.5,
        censoring=0.3,
    ),
    # prognostic tissue is rare: queries should outperform the mean over patches
    "rare": _RARE,
    # prognostic tissue is abundant: the mean over patches nearly suffices
    "bulk": replace(_RARE, prognostic_share=0.12, centroid_norm=4.0, stain_shift=0.2),
    # the log hazard has a product term, which no sum of the modalities contains
    "interaction": replace(_RARE, cases=1000, effect_histology=0.9, effect_genomics=0.9, effect_interaction=1.2),
    # known to be hard: the hazard depends on the appearance of the prognostic tissue, not on its share
    "severity": replace(_RARE, histology="severity"),
}


@dataclass(frozen=True, eq=False)
class PatchSpace:
    """The distribution of patches in feature space."""

    centroids: Float[np.ndarray, "morphology feature"]
    severity_axis: Float[np.ndarray, " feature"]  # direction of severity, shared by all morphologies
    nuisance: Float[np.ndarray, "rank feature"]  # with a power-law spectrum, as of stain and texture
    site_shift: Float[np.ndarray, "site feature"]

    @classmethod
    def draw(cls, config: WorldConfig) -> PatchSpace:
        random = generator(config.world, "patch space")
        morphologies, width = config.morphologies, config.width
        directions = min(width, morphologies + 1 + config.nuisance_rank)
        orthogonal = np.linalg.qr(random.standard_normal((width, directions)))[0].T

        centroids = orthogonal[:morphologies] + CENTROID_MIXING * _unit(random.standard_normal((morphologies, width)))
        nuisance = orthogonal[morphologies + 1 :]
        spectrum = np.arange(1, len(nuisance) + 1) ** -0.5
        return cls(
            centroids=config.centroid_norm * _unit(centroids),
            severity_axis=orthogonal[morphologies],
            nuisance=config.nuisance_norm * _unit(spectrum)[:, None] * nuisance,
            site_shift=0.5 * config.stain_shift * random.standard_normal((config.sites, width)),
        )


@dataclass(frozen=True, eq=False)
class Transcriptome:
    """How genes depend on pathways, and which pathways change the hazard."""

    pathways: GeneSets
    genes: tuple[str, ...]
    block: Int[np.ndarray, " pathway"]
    home: Int[np.ndarray, " gene"]  # the pathway for which the gene was drawn; others may contain it, too
    loading: Float[np.ndarray, "pathway gene"]
    gene_mean: Float[np.ndarray, " gene"]
    gene_scale: Float[np.ndarray, " gene"]
    site_shift: Float[np.ndarray, "site gene"]
    planted: Int[np.ndarray, " planted"]  # pathways
    weight: Float[np.ndarray, " planted"]  # scaled so that the weighted sum of their activities has deviation 1

    @classmethod
    def draw(cls, config: WorldConfig) -> Transcriptome:
        random = generator(config.world, "transcriptome")
        count = config.pathways
        low, high = PATHWAY_GENES
        own = random.integers(low, high + 1, count)
        gene_count = int(own.sum())
        loading = np.zeros((count, gene_count))
        for pathway, (first, size) in enumerate(zip(own.cumsum() - own, own, strict=True)):
            shared = random.choice(gene_count, round(PATHWAY_OVERLAP * size), replace=False)
            members = np.union1d(np.arange(first, first + size), shared)
            loading[pathway, members] = random.uniform(0.4, 1.0, len(members))
        genes = tuple(f"SIMGENE{number:04d}" for number in range(1, gene_count + 1))
        members_by_name = tuple(tuple(genes[gene] for gene in np.flatnonzero(row)) for row in loading)
        names = tuple(f"SIMULATED_PATHWAY_{number:02d}" for number in range(1, count + 1))

        block = np.arange(count) % PATHWAY_BLOCKS
        planted = np.sort(random.choice(count, config.planted_pathways, replace=False))
        weight = random.choice([-1.0, 1.0], len(planted)) * random.uniform(0.7, 1.3, len(planted))
        correlation = np.where(block[planted, None] == block[planted], config.pathway_correlation, 0.0)
        np.fill_diagonal(correlation, 1.0)
        return cls(
            pathways=GeneSets(names, members_by_name),
            genes=genes,
            block=block,
            home=np.arange(count).repeat(own),
            loading=loading * np.where(random.uniform(size=gene_count) < REPRESSED_GENES, -1.0, 1.0),
            gene_mean=random.normal(3.0, config.gene_level_spread, gene_count),
            gene_scale=random.uniform(0.7, 1.5, gene_count),
            site_shift=EXPRESSION_SITE_SHIFT * random.standard_normal((config.sites, gene_count)),
            planted=planted,
            weight=weight / np.sqrt(weight @ correlation @ weight),
        )


def _unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors (along the last axis) scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
