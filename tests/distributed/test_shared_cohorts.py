"""The features of a cohort are in memory from its first run to its last."""

import gc
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_ray_runs import run_all

from survq.data.problems import DataError
from survq.ray_session import ray
from survq.ray_start import RayUnavailable, versions
from survq.training.loop import RunOutcome, train_folds
from survq.training.queue import Grid, RunQueue
from survq.training.ray_runs import _Searcher
from survq.training.results import Results
from survq.training.shared_cohorts import SharedCohorts

FAILED = RunOutcome("failed", [], details={"reason": "not trained in this test"})


def bytes_used() -> int:
    """Of the object store of this machine."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats.object_store_bytes_used


def settled_bytes() -> int:
    """`bytes_used`, once it no longer changes: what earlier tests shared is freed after a while."""
    gc.collect()
    used, deadline = -1, time.monotonic() + 20
    while used != bytes_used() and time.monotonic() < deadline:
        used = bytes_used()
        time.sleep(2)
    return used


@pytest.fixture
def cohorts(cohort):
    return {name: replace(cohort, name=name) for name in ("A", "B")}


def test_a_cohort_enters_with_its_first_run_and_leaves_after_its_last(tmp_path, ray_session, cohorts, make_run, capfd):
    """The schedule and the calls are those of Tune; the runs end without training."""
    runs = [replace(make_run(seed=seed), cohort=name) for seed, name in enumerate("ABA")]
    queue, shared = RunQueue(Grid(runs), Results(tmp_path), cohorts), SharedCohorts(cohorts)
    searcher, before = _Searcher(queue, shared, {}), settled_bytes()
    size = 2 * int((cohorts["A"].slides["patches"] * cohorts["A"].slides["width"]).sum())
    seen = []

    def start(trial):
        searcher.suggest(trial)
        run = shared.board.run(trial)
        seen.append((run.cohort, *(name for name in cohorts if name in shared)))

    def end(trial):
        queue.end(searcher._runs[trial], FAILED)
        searcher.on_trial_complete(trial)
        seen.append(("ended", *(name for name in cohorts if name in shared)))

    start("1"), start("2")
    assert size < bytes_used() - before < 1.5 * size
    end("1"), start("3"), end("2"), end("3")
    assert seen == [
        *(("A", "A"), ("A", "A"), ("ended", "A")),
        *(("B", "A", "B"), ("ended", "B")),  # the last run of A has ended
        ("ended", "B"),  # no other cohort needs the memory, and another schedule may follow
    ]
    deadline = time.monotonic() + 20
    while bytes_used() - before > 1.5 * size and time.monotonic() < deadline:
        time.sleep(0.1)
    assert size < bytes_used() - before < 1.5 * size
    assert capfd.readouterr().out.count("features in shared memory as float16") == 2


def test_reading_the_only_cohort_leaves_no_actor_of_ray_data_behind(ray_session, cohort):
    """Idle, each would use a hundredth of a CPU for the rest of the study. It can be read again all the same."""
    before = ray_session.util.list_named_actors(all_namespaces=True)
    for _ in range(2):
        shared = SharedCohorts({cohort.name: cohort})
        shared.enter(cohort.name)
        assert len(shared.board[cohort.name]) == len(cohort.slides_by_case)
        assert ray_session.util.list_named_actors(all_namespaces=True) == before


def test_features_that_no_run_reads_are_not_shared(ray_session, cohorts, capfd):
    shared = SharedCohorts(cohorts)
    shared.dtypes["A"] = frozenset()
    shared.enter("A")
    assert "A" in shared and len(shared.board["A"]) == 0
    assert "features" not in capfd.readouterr().out
    shared.dtypes["A"] = frozenset({torch.float16})  # another schedule of the study reads them
    shared.enter("A")
    assert set(shared.board["A"]) == set(cohorts["A"].slides_by_case)


def test_a_cohort_without_features_to_read_enters_beside_one_that_exceeds_a_store(ray_session, cohorts, monkeypatch):
    monkeypatch.setattr("survq.training.shared_cohorts.smallest_store", lambda: 100_000)
    shared = SharedCohorts(cohorts)
    shared.dtypes["B"] = frozenset()
    shared.enter("A"), shared.enter("B")
    assert len(shared.board["A"]) and not len(shared.board["B"])


def test_trials_find_the_features_of_their_cohort_on_the_board(ray_session, cohorts, bags):
    shared = SharedCohorts(cohorts)
    shared.dtypes["A"] = frozenset({torch.bfloat16, torch.float16})
    shared.enter("A")
    read = ray.remote(num_cpus=0)(lambda board, case: (board["A"].dtypes, board["A"][case].float().numpy()))
    for case, bag in list(bags.items())[:3]:
        dtypes, found = ray.get(read.remote(shared.board, case))
        assert dtypes == (torch.float16, torch.bfloat16) and np.array_equal(found, bag.float())


def test_a_node_that_joins_with_other_versions_gets_no_features(ray_session, cohorts, monkeypatch):
    """It would train with another survq than the one whose code a run's record names."""
    monkeypatch.setattr("survq.training.board.ON_CLUSTER", True)
    shared = SharedCohorts(cohorts)
    shared.enter("A")
    assert len(shared.board["A"])
    older = versions() | {"torch": "1.13.1"}
    monkeypatch.setattr("survq.training.board.versions", lambda: older)
    with pytest.raises(RayUnavailable, match=r"has torch 1\.13\.1 in place of .*Fix: install the same"):
        shared.board["A"]


@pytest.mark.parametrize("seen", [True, False])
def test_a_cohort_that_exceeds_a_store_is_read_ahead_with_the_same_result(
    tmp_path, ray_session, cohort, bags, make_run, monkeypatch, capfd, seen
):
    """Also where this process has to read the files."""
    monkeypatch.setattr("survq.training.shared_cohorts.smallest_store", lambda: 100_000)
    monkeypatch.setattr("survq.data.shared_bags.seen_by_all_nodes", lambda cohort: seen)
    shared, run = SharedCohorts({cohort.name: cohort}), make_run()
    record = run_all(Grid([run]), tmp_path, cohort, shared).records[run.path]
    here = train_folds(run, cohort, bags)
    assert list(record.report.weights_sha256) == here.details["weights_sha256"]
    assert np.array_equal(record.predictions["risk"], here.predictions["risk"])
    assert shared.board[cohort.name].ahead >= 2
    assert "exceed the object store of a node (0 MB)" in capfd.readouterr().out


def test_damaged_features_end_the_study_with_all_problems(tmp_path, ray_session, cohorts, make_run):
    slides = cohorts["B"].slides.copy()
    slides.loc[[slides.index[3], slides.index[40]], "sha256"] = "0" * 64
    cohorts["B"] = replace(cohorts["B"], slides=slides)
    queue = RunQueue(Grid([replace(make_run(), cohort="B")]), Results(tmp_path), cohorts)
    searcher = _Searcher(queue, SharedCohorts(cohorts), {})
    with pytest.raises(DataError):
        searcher.suggest("1")
    assert isinstance(searcher.error, DataError) and len(searcher.error.problems) == 2
