"""Features shared through Ray Data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from slide_store import SlideStore

from survq.data.shared_bags import share_bags


def test_shared_bags_equal_the_store(ray_session, cohort, bags):
    shared = share_bags(cohort)
    assert set(shared) == set(bags)
    for case, bag in bags.items():
        assert shared[case].dtype == torch.float16
        assert torch.equal(shared[case], bag), case


def test_patch_positions_match_the_rows_of_shared_bags(ray_session, cohort):
    """A shared bag holds the features of the slides that `patch_positions` gives for its rows."""
    store = SlideStore(cohort.features)
    shared = share_bags(cohort)
    several = [case for case, rows in cohort.slides_by_case.items() if len(rows) > 1]
    assert len(several) > 10
    for case in several:
        positions = cohort.patch_positions(case)
        for slide, rows in positions.groupby("slide_id"):
            assert np.array_equal(shared[case][rows.index.to_numpy()].numpy(), store.read(slide))
            assert np.array_equal(rows[["x", "y"]].to_numpy(np.int32), store.coordinates(slide))
        assert positions["slide_id"].is_monotonic_increasing


def test_bags_do_not_depend_on_the_order_of_slides(ray_session, cohort, bags):
    order = np.random.default_rng(0).permutation(len(cohort.slides))
    shared = share_bags(replace(cohort, slides=cohort.slides.iloc[order]))
    one_slide = cohort.slides["case_id"].drop_duplicates(keep=False)
    assert len(one_slide) > 20
    for case in one_slide:
        assert torch.equal(shared[case], bags[case]), case


def test_damaged_features_are_reported(ray_session, cohort):
    slides = cohort.slides.copy()
    slides.loc[slides.index[3], "sha256"] = "0" * 64
    with pytest.raises(Exception, match=f"{slides.index[3]}.*sha256 differs"):
        share_bags(replace(cohort, slides=slides))
