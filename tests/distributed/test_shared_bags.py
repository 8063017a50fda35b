"""Features shared through Ray Data."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from slide_store import SlideStore

from survq.data import case_blocks, shared_bags
from survq.data.problems import BucketUnavailable, DataError
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


def test_all_damaged_features_are_reported_at_once(ray_session, cohort):
    slides = cohort.slides.copy()
    damaged = [slides.index[3], slides.index[40]]
    slides.loc[damaged, "sha256"] = "0" * 64
    with pytest.raises(DataError) as raised:
        share_bags(replace(cohort, slides=slides))
    assert len(raised.value.problems) == 2
    for slide, problem in zip(sorted(damaged), sorted(raised.value.problems), strict=True):
        assert f"{slide}" in problem and "sha256 differs" in problem and "Fix: " in problem


def test_bags_that_this_process_reads_are_the_same(ray_session, cohort, bags, monkeypatch):
    """As where other nodes do not see the folder; on two hosts: tests/cluster."""
    monkeypatch.setattr(shared_bags, "seen_by_all_nodes", lambda cohort: False)
    shared = share_bags(cohort, (torch.float16, torch.bfloat16))
    assert shared.dtypes == (torch.float16, torch.bfloat16) and set(shared) == set(bags)
    for case, bag in bags.items():
        assert torch.equal(shared[case], bag), case


def test_a_node_is_asked_for_all_files(cohort):
    files = {Path(file).name for file in cohort.slides["file"]}
    folder = cohort.features.local
    assert case_blocks.sees(folder, files)
    assert not case_blocks.sees(folder, files | {"not-copied.parquet"})
    assert not case_blocks.sees(folder / "elsewhere", files)


def test_a_bucket_that_did_not_answer_is_no_problem_of_the_data(monkeypatch, cohort):
    """As a row of a task, which may not raise: the program ends with 74 and not with 65."""

    def silent(*_):
        raise BucketUnavailable("s3://bucket: the bucket does not answer")

    monkeypatch.setattr(case_blocks, "read_case", silent)
    table = case_blocks.read_block(pa.table({"case_id": ["A"]}), cohort.features, ["float16"])
    with pytest.raises(BucketUnavailable, match="the bucket does not answer") as raised:
        shared_bags._answered(json.loads(table[case_blocks.PROBLEMS][0].as_py()))
    assert raised.value.exit_code == 74
