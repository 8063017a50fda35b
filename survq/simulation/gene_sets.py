"""The gene sets of a simulated world: its pathways, and collections similar to those that models other than SurvQ read.

    six_groups        all genes in six functional groups: each has the genes of some pathways, and a few others
    eight_families    all genes in eight families, independent of the pathways
    hallmarks         half as many sets as pathways, each with most genes of some pathways

Each collection has its own random stream, so that no collection changes other draws.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from survq.data.gene_sets import PATHWAYS, GeneSets
from survq.data.streams import generator
from survq.simulation.worlds import Transcriptome, WorldConfig

GROUP_OVERLAP = 0.1  # further genes of a functional group, as a share of its own
HALLMARK_SHARE = 0.8  # share of its pathways' genes that a hallmark has


def draw_gene_sets(config: WorldConfig, transcriptome: Transcriptome) -> dict[str, GeneSets]:
    """All collections of a world, by name."""
    genes = np.arange(len(transcriptome.genes))

    def by_pathway(random: np.random.Generator) -> Int[np.ndarray, " gene"]:
        """All genes, grouped by pathway, with the pathways in random order."""
        place = random.permutation(config.pathways)
        return np.argsort(place[transcriptome.home], kind="stable")

    def named(prefix: str, sets: list[np.ndarray]) -> GeneSets:
        names = tuple(f"SIMULATED_{prefix}_{number:02d}" for number in range(1, len(sets) + 1))
        return GeneSets(names, tuple(tuple(transcriptome.genes[gene] for gene in np.sort(members)) for members in sets))

    random = generator(config.world, "six groups")
    groups = [
        np.union1d(own, random.choice(genes, round(GROUP_OVERLAP * len(own)), replace=False))
        for own in np.array_split(by_pathway(random), 6)
    ]
    families = np.array_split(generator(config.world, "eight families").permutation(genes), 8)
    random = generator(config.world, "hallmarks")
    hallmarks = [
        random.choice(own, max(1, round(HALLMARK_SHARE * len(own))), replace=False)
        for own in np.array_split(by_pathway(random), max(1, config.pathways // 2))
    ]
    return {
        PATHWAYS: transcriptome.pathways,
        "six_groups": named("GROUP", groups),
        "eight_families": named("FAMILY", families),
        "hallmarks": named("HALLMARK", hallmarks),
    }
