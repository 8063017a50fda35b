"""Faults of the nodes of a cluster, on one or two nodes of Ray on this machine: F5, F6, F18, F23, F28.

    pytest -m faults tests/faults/test_nodes.py        # a quarter of an hour; one Ray at a time on a machine

Each study has to end with the tables of an undisturbed one, which one process trained without Ray.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from history import ROOT, History, check_same
from test_machine_faults import disk

from survq.data.gene_sets import GeneSets
from survq.data.write import Slide, write_cohort
from survq.ray_session import ray  # noqa: F401  (sets Ray's environment variables before importing it)

# isort: split
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]
FAST = ("--models", "abmil", "--epochs", "1", "--folds", "2")  # of compare_models: on large features
STORE = 80 * 2**20  # bytes: the least that Ray accepts
SECRETS = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")}


def flags(data: Path, results: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--results", str(results), "--epochs", "2", "--folds", "3", *more]


def study(cluster: Cluster, data: Path, results: Path, *more: str, name: str = "query_counts") -> History:
    """A study that joins the cluster, with a checkpoint after each epoch."""
    results.mkdir()
    arguments = [sys.executable, str(ROOT / f"studies/{name}.py"), *flags(data, results, *more)]
    told = SECRETS | {"RAY_ADDRESS": cluster.address}
    return History([*arguments, "--checkpoint-minutes", "0"], results, **told)


@pytest.fixture
def start(tmp_path):
    """start(nodes, **options): a cluster of so many nodes. They end with the test."""
    clusters = []

    def start(nodes: int = 2, **options) -> Cluster:
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 4 * STORE, **options}
        clusters.append(Cluster(initialize_head=True, head_node_args=head))
        for _ in range(nodes - 1):
            clusters[-1].add_node(num_cpus=1, object_store_memory=4 * STORE)
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.shutdown()


@pytest.fixture(scope="module")
def tables(tiny_folder, tmp_path_factory) -> dict[str, pd.DataFrame]:
    return without_ray(tiny_folder, tmp_path_factory.mktemp("undisturbed"))


def without_ray(data: Path, results: Path, *more: str, name: str = "query_counts") -> dict[str, pd.DataFrame]:
    driver = str(Path(__file__).with_name("driver.py"))
    history = History([sys.executable, driver, name, *flags(data, results, *more)], results)
    assert history.run() == 0, history.said
    return history.tables()


def test_a_lost_node_costs_time_only(start, tiny_folder, tables, tmp_path):
    """F5: without a word, with all that it held."""
    cluster = start()
    (lost,) = cluster.worker_nodes
    history = study(cluster, tiny_folder, tmp_path / "results")
    assert history.run(act=lambda _: cluster.remove_node(lost, allow_graceful=False)) == 0, history.said
    assert "its process or machine was lost; it is started again" in history.said
    check_same(history.tables(), tables)


def test_a_lost_head_is_continued_by_the_same_command_on_a_new_cluster(start, tiny_folder, tables, tmp_path):
    """F6."""
    cluster = start(nodes=1)
    history = study(cluster, tiny_folder, tmp_path / "results")
    head = cluster.head_node
    assert history.run(act=lambda pid: head.kill_all_processes(check_alive=False, allow_graceful=False)) != 0
    before = dict(history.seen)
    history.variables["RAY_ADDRESS"] = start(nodes=1).address
    assert history.run() == 0, history.said
    assert before and before.items() <= history.seen.items()
    check_same(history.tables(), tables)


def test_a_drained_node_costs_time_only(start, tiny_folder, tables, tmp_path):
    """F18: as the provider of a spot machine announces its end."""
    cluster = start()
    (drained,) = cluster.worker_nodes

    def drain(_: int) -> None:
        command = ["drain-node", "--address", cluster.address, "--node-id", drained.node_id]
        why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        ray_program = str(Path(sys.executable).with_name("ray"))
        done = subprocess.run([ray_program, *command, *why, "--deadline-remaining-seconds", "10"], capture_output=True)
        assert done.returncode == 0, done.stderr
        time.sleep(10)
        cluster.remove_node(drained, allow_graceful=False)

    history = study(cluster, tiny_folder, tmp_path / "results")
    assert history.run(act=drain) == 0, history.said
    check_same(history.tables(), tables)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A data folder with features of twice the size of an object store."""
    folder, random = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    ids = [f"CASE-{number:02d}" for number in range(40)]
    cases = pd.DataFrame(
        {"time": random.exponential(30, 40) + 1, "event": np.arange(40) % 2 == 0}, index=pd.Index(ids, name="case_id")
    )
    expression = pd.DataFrame(
        random.normal(5, 1, (40, 6)).astype(np.float32), index=cases.index, columns=list("ABCDEF")
    )
    slides = (
        Slide(f"{case}-DX1", case, random.normal(size=(2000, 1024)).astype(np.float16), encoder="uni") for case in ids
    )
    sets = {"pathways": GeneSets(("first", "second"), (("A", "B", "C"), ("D", "E", "F")))}
    write_cohort(folder, "C", cases=cases, expression=expression, slides=slides, gene_sets=sets)
    return folder


@pytest.fixture(scope="module")
def large_tables(large, tmp_path_factory) -> dict[str, pd.DataFrame]:
    return without_ray(large, tmp_path_factory.mktemp("undisturbed-large"), *FAST, name="compare_models")


def test_features_that_exceed_the_object_store_cost_time_only(start, large, large_tables, tmp_path):
    """F23."""
    cluster = start(nodes=1, object_store_memory=STORE)
    history = study(cluster, large, tmp_path / "results", *FAST, name="compare_models")
    assert history.run() == 0, history.said
    assert "exceed the object store of a node" in history.said
    check_same(history.tables(), large_tables)


def test_a_full_disk_below_a_full_object_store_is_named(start, large, large_tables, tmp_path):
    """F23: the same command continues once there is as much room as it asks for."""
    with disk(tmp_path / "disk", 20_000) as remount:
        cluster = start(nodes=1, object_store_memory=STORE, object_spilling_directory=str(tmp_path / "disk"))
        history = study(cluster, large, tmp_path / "results", *FAST, name="compare_models")
        assert history.run() == 74, history.said
        (said,) = (line for line in history.said.splitlines() if line.startswith("survq: "))  # Ray says more around it
        assert said.startswith(f"survq: C: its features exceed the object store, and {tmp_path}/disk of "), said
        asked = re.search(r"Fix: free (\d+) MB there, or start Ray there with --object-spilling-directory on", said)
        left_by_ray = shutil.disk_usage(tmp_path / "disk").used  # pieces that it failed to write
        remount(f"size={left_by_ray + int(asked[1]) * 10**6}")
        assert history.run() == 0, history.said
        check_same(history.tables(), large_tables)
        cluster.shutdown()


def test_a_node_with_another_survq_is_refused(start, tiny_folder, tmp_path):
    """F28: a line of its code differs."""
    shutil.copytree(ROOT / "survq", tmp_path / "old/survq", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "old/survq/models/losses.py").open("a") as file:
        file.write("ANOTHER = 1\n")
    cluster = start(nodes=1)
    cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path / "old")})
    history = study(cluster, tiny_folder, tmp_path / "results")
    assert history.run() == 69
    assert "has survq 0.1.0 with code" in history.said and "in place of 0.1.0 with code" in history.said
    assert "Fix: install the same on all nodes" in history.said and "Traceback" not in history.said
    assert not list((tmp_path / "results").rglob("report.json"))
