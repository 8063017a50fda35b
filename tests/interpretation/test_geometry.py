"""The variance that queries keep, on cases that can be computed by hand; and queries as points."""

import numpy as np
import pytest

from survq.interpretation.geometry import (
    MODALITIES,
    information,
    neighbour_embedding,
    principal_plane,
    same_neighbour,
    tokens_and_reads,
)
from survq.interpretation.query_maps import maps_of
from survq.reporting.map_figures import label_directions


def test_information_by_hand():
    """The tokens vary by 2 along x and 1/2 along y, so that x alone has 80 %. The reads lie on the diagonal."""
    tokens = [np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])]
    diagonal = [np.array([[1.0, 1.0], [-1.0, -1.0]])]
    found = information(tokens, diagonal, share=0.8)
    assert (found.components, found.original) == (1, pytest.approx(0.8))
    assert (found.in_subspace, found.kept) == (pytest.approx(0.5), pytest.approx(0.5))
    found = information(tokens, diagonal, share=0.81)
    assert (found.components, found.original) == (2, pytest.approx(1.0))
    assert (found.in_subspace, found.kept) == (pytest.approx(1.0), pytest.approx(2 / 2.5))
    assert information(tokens, tokens).kept == pytest.approx(1)
    # what reads the mean of each case keeps the variance between cases: 9 of 9 + 2 along x
    shifted = [tokens[0] + [3, 0], tokens[0] - [3, 0]]
    means = [rows.mean(axis=0, keepdims=True) for rows in shifted]
    assert information(shifted, means, share=0.9).kept == pytest.approx(9 / 11)
    # each case has the same weight, however many tokens it has
    assert information([shifted[0], np.tile(shifted[1], (5, 1))], means, share=0.9).kept == pytest.approx(9 / 11)
    nothing = information([np.ones((3, 2))], diagonal)
    assert nothing.components == 0 and np.isnan(nothing.kept)


@pytest.mark.parametrize("modality", MODALITIES)
def test_reads_are_the_attention_times_the_tokens(setting, modality):
    case = setting.held_out[0]
    tokens, reads = tokens_and_reads(setting.fold, setting.cohort, setting.bags[case], case, modality)
    maps = maps_of(setting.fold, setting.cohort, setting.bags[case], case)
    A = maps.histology if modality == "histology" else maps.genomics
    assert reads["learned"] == pytest.approx(A @ tokens, abs=1e-4)
    assert set(reads) == {"learned", "random", "shuffled"} and len({rows.shape for rows in reads.values()}) == 1
    again = tokens_and_reads(setting.fold, setting.cohort, setting.bags[case], case, modality)[1]
    for kind in ("random", "shuffled"):
        assert (reads[kind] == again[kind]).all() and not np.allclose(reads[kind], reads["learned"], atol=1e-3)


def test_the_principal_plane_by_hand():
    points = np.array([[3.0, 0.0, 0.0], [-3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, -2.0, 0.0], [0, 0, 1], [0, 0, -1]])
    plane, explained = principal_plane(points + 7)
    assert explained == pytest.approx(26 / 28)
    assert np.abs(plane[:2, 0]) == pytest.approx([3, 3]) and np.abs(plane[2:4, 1]) == pytest.approx([2, 2])
    assert plane[4:] == pytest.approx(0, abs=1e-9)


def test_neighbours_of_separate_and_of_mixed_points():
    random = np.random.default_rng(0)
    genomic = np.arange(40) < 20
    mixed = random.normal(size=(40, 8))
    apart = mixed + 20 * genomic[:, None]
    assert same_neighbour(apart, genomic) == 1
    assert 0.2 < same_neighbour(mixed, genomic) < 0.8
    places = neighbour_embedding(apart, seed=0)
    assert same_neighbour(places, genomic) == 1
    assert (places == neighbour_embedding(apart, seed=0)).all()


def test_numbers_of_adjacent_patches_stand_apart():
    """Half a patch from the middle, then half a patch further: no number lies on another one or on a marked patch."""
    crowds = ([(0, 0), (1, 0)], [(0, 0), (0, 1), (0, 2)], [(0, 0), (1, 0), (0, 1), (1, 1)], [(3, 3), (4, 4), (5, 5)])
    for crowd in crowds:
        corners = np.array(crowd, float)
        away = label_directions(corners)
        assert np.linalg.norm(away, axis=1) == pytest.approx(1)
        labels = corners + away
        between = np.linalg.norm(labels[:, None] - labels, axis=-1) + 9 * np.eye(len(crowd))
        assert between.min() >= 1
        assert np.linalg.norm(labels[:, None] - corners, axis=-1).min() >= 0.99
    assert label_directions(np.array([(2.0, 5.0)])).tolist() == [[0, -1]], "on top"
    unknown = label_directions(np.array([(0.0, 0.0), (np.nan, np.nan)]))
    assert unknown[0].tolist() == [0, -1]
