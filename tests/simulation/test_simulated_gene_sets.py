"""Simulated collections of gene sets: made of the world's genes, and without an effect on other draws."""

from dataclasses import replace

import numpy as np
import pytest

from survq.simulation.cohort import World
from survq.simulation.gene_sets import draw_gene_sets
from survq.simulation.worlds import PRESETS, Transcriptome


def collections(**changes):
    config = replace(PRESETS["demo"], **changes)
    transcriptome = Transcriptome.draw(config)
    return draw_gene_sets(config, transcriptome), transcriptome


@pytest.mark.parametrize("pathways", [1, 2, 5, 24])
def test_collections_are_made_of_the_genes_of_the_world(pathways):
    drawn, transcriptome = collections(pathways=pathways)
    assert {name: len(sets) for name, sets in drawn.items()} == {
        "pathways": pathways,
        "six_groups": 6,
        "eight_families": 8,
        "hallmarks": max(1, pathways // 2),
    }
    genes = set(transcriptome.genes)
    for sets in drawn.values():
        assert len(set(sets.names)) == len(sets)
        assert all(members and set(members) <= genes and len(set(members)) == len(members) for members in sets.genes)
    assert set().union(*drawn["six_groups"].genes) == genes
    assert sorted(gene for family in drawn["eight_families"].genes for gene in family) == sorted(genes)
    assert set().union(*drawn["hallmarks"].genes) < genes


def test_groups_and_hallmarks_follow_pathways_and_families_do_not():
    """A planted pathway is therefore in one or two groups, but in all families."""
    drawn, _ = collections()

    def most_in_one_set(collection: str) -> float:
        shares = [
            max(len(set(pathway) & set(members)) / len(pathway) for members in drawn[collection].genes)
            for pathway in drawn["pathways"].genes
        ]
        return float(np.median(shares))

    assert most_in_one_set("six_groups") > 0.8
    assert most_in_one_set("hallmarks") > 0.6
    assert most_in_one_set("eight_families") < 0.4


def test_collections_depend_only_on_the_world():
    assert collections()[0] == collections()[0]
    one, other = collections()[0], collections(world=1)[0]
    assert all(one[name] != other[name] for name in one)


def test_collections_do_not_change_earlier_draws():
    """Numbers of commit af80aa8, which had no collections: further draws do not change the draws of a world."""
    cohort = World(PRESETS["demo"]).cohort(40, seed=0)
    slides = list(cohort.slides())
    figures = {
        "months": cohort.cases["time"].sum(),
        "events": cohort.cases["event"].sum(),
        "eta": cohort.truth["eta"].abs().sum(),
        "expression": cohort.expression.to_numpy(float).sum(),
        "places": sum(int(slide.coordinates.sum()) for slide in slides),
        "features": sum(float(np.abs(slide.features.astype(float)).sum()) for slide in slides),
    }
    assert figures == pytest.approx(
        {
            "months": 1651.721,
            "events": 22.0,
            "eta": 70.287,
            "expression": 50897.199,
            "places": 58356480.0,
            "features": 154862.419,
        },
        rel=1e-4,
    )
