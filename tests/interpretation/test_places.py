"""A map lies where its patches lie: two slides of a case, with patches whose features name their place."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from survq.data.cohort import Cohort
from survq.data.folds import Fold
from survq.data.write import Slide, write_cohort
from survq.interpretation.files import attention_table, geojson
from survq.interpretation.query_maps import maps_of
from survq.interpretation.relevance import patch_regions
from survq.training.config import TrainConfig
from survq.training.fold import FittedFold
from survq.training.learner import FoldLearner

PLACES = {  # in no order, and partly the same on both slides
    'CASE-02-"<b>DX1': [(448, 896), (0, 0), (1344, 448)],
    "CASE-02-DX2/$x$": [(0, 0), (224, 672), (4480, 224), (672, 0)],
}


@pytest.fixture
def cohort(small, tmp_path) -> Cohort:
    """CASE-02 has two slides; the features of each patch are its slide, x and y."""
    slides = [slide for slide in small["slides"] if slide.case_id != "CASE-02"]
    for number, (slide_id, places) in enumerate(PLACES.items()):
        features = np.zeros((len(places), 16), np.float16)
        features[:, 0] = number
        features[:, 1:3] = np.array(places) / 448
        corners = np.array(places, np.int32)
        slides.append(Slide(slide_id, "CASE-02", features, corners, 224 * (2 - number), 20.0 * (2 - number), "uni"))
    write_cohort(tmp_path, "C", **{**small, "slides": slides})
    return Cohort.load(tmp_path, "C")


@pytest.fixture
def fold(cohort) -> FittedFold:
    config = TrainConfig("survq", {"width": 8, "histology_queries": 3, "genomic_queries": 2}, intervals=2)
    ids = tuple(cohort.cases.index)
    return FoldLearner(config, cohort, Fold(0, 0, ids[3:], ids[:3]), torch.device("cpu")).fitted


def test_each_weight_is_at_the_place_that_its_patch_names(cohort, fold):
    bag = cohort.bags()["CASE-02"]
    found = maps_of(fold, cohort, bag, "CASE-02")
    table = attention_table(found.positions, {"Q0": found.histology[0], "gradient": found.patch_gradient})
    assert len(table) == 2 * 7 and set(table["slide_id"]) == set(PLACES)
    model = fold.model
    with torch.no_grad():
        scores = {}
        for number, (slide_id, places) in enumerate(PLACES.items()):
            for x, y in places:
                named = torch.zeros(16)
                named[:3] = torch.tensor([number, x / 448, y / 448])
                key = model.read_patches.key(model.encode_patches(named))
                query = model.read_patches.query(model.Q_h[0])
                scores[slide_id, x, y] = float((query @ key / 8**0.5).exp())
    total = sum(scores.values())
    of_query = table[table["query"] == "Q0"].set_index(["slide_id", "x", "y"])["weight"]
    assert len(of_query) == len(scores) and np.ptp(list(scores.values())) > 1e-3
    for place, score in scores.items():
        assert of_query[place] == pytest.approx(score / total, rel=1e-3)


def test_geojson_has_the_squares_and_their_values(cohort, fold):
    found = maps_of(fold, cohort, cohort.bags()["CASE-02"], "CASE-02")
    maps = {'Q"0"\n': found.histology[0]}
    for (slide_id, places), side in zip(PLACES.items(), (448, 224), strict=True):
        read = json.loads(geojson(found.positions, maps, slide_id))
        assert read["type"] == "FeatureCollection" and len(read["features"]) == len(places)
        rows = found.positions.index[found.positions["slide_id"] == slide_id]
        for feature, (x, y), row in zip(read["features"], places, rows, strict=True):
            assert feature["type"] == "Feature" and feature["geometry"]["type"] == "Polygon"
            (ring,) = feature["geometry"]["coordinates"]
            assert ring[0] == ring[-1] == [x, y] and ring[2] == [x + side, y + side] and len(ring) == 5
            area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2
            assert area == side**2
            expected = found.histology[0][row] / found.histology[0].mean()
            assert feature["properties"] == {
                "objectType": "detection",
                "measurements": {'Q"0"\n': pytest.approx(expected)},
            }


def test_patches_without_a_place_or_a_value_are_left_out():
    positions = pd.DataFrame({"slide_id": ["S"] * 3, "x": [0, None, 20], "y": [0, None, 0], "patch_size": [None] * 3})
    positions = positions.astype({"x": "Int64", "y": "Int64", "patch_size": "Int64"})
    read = json.loads(geojson(positions, {"map": np.zeros(3)}, "S"))
    assert [feature["geometry"]["coordinates"][0][2] for feature in read["features"]] == [[20, 20], [40, 20]]
    assert [feature["properties"]["measurements"] for feature in read["features"]] == [{}, {}]


def test_regions_are_squares_of_one_slide():
    places = [(x, y) for y in range(0, 8) for x in range(0, 8)]
    of_slide = pd.DataFrame(places, columns=["x", "y"]) * 10
    positions = pd.concat([of_slide.assign(slide_id=name, patch_size=10) for name in "AB"], ignore_index=True)
    assert len(set(patch_regions(positions, 128))) == 128
    region = patch_regions(positions, 32)
    assert np.bincount(region).tolist() == [4] * 32
    for number in range(32):
        rows = positions[region == number]
        assert rows["slide_id"].nunique() == 1 and np.ptp(rows["x"]) == np.ptp(rows["y"]) == 10
    unknown = positions.assign(x=None, y=None, patch_size=None)
    assert len(set(patch_regions(unknown, 32))) == 2
