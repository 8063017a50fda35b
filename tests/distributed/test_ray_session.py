"""A private Ray session is private."""

import os
from pathlib import Path


def test_local_ray_listens_on_loopback_only(ray_session, listening):
    sockets = listening()
    assert sockets, "no listening socket found: the test is broken"
    assert {ip for _, ip in sockets} <= {"127.0.0.1", "::1"}, sockets


def test_token_is_required_and_not_written_to_the_home_folder(ray_session):
    assert os.environ["RAY_AUTH_MODE"] == "token"
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    file = Path.home() / ".ray" / "auth_token"
    assert not file.exists() or token not in file.read_text()


def test_resources_are_those_that_the_cluster_may_grow_to(ray_session, monkeypatch, tmp_path):
    from survq import ray_session as module

    current = module.resources()
    (tmp_path / "bootstrap.yaml").write_text(
        "{max_workers: 2, head_node_type: head, available_node_types: {"
        "head: {max_workers: 0, resources: {CPU: 0}}, gpu: {max_workers: 2, resources: {CPU: 96, GPU: 8}}}}"
    )
    monkeypatch.setattr(module, "BOOTSTRAP", tmp_path / "bootstrap.yaml")
    assert module.resources() == current, "a private Ray ignores the file of a cluster"
    monkeypatch.setattr(module, "ON_CLUSTER", True)
    assert module.resources() == (1, 192, 16)


def test_a_study_waits_for_given_machines_and_counts_them(ray_session, monkeypatch, tmp_path, capsys):
    """cluster/local.yaml as it lies on the head: it does not say how many CPUs its machines have."""
    from survq import ray_session as module

    (tmp_path / "bootstrap.yaml").write_text(
        "{max_workers: 1, head_node_type: local.cluster.node, available_node_types: {"
        "local.cluster.node: {min_workers: 1, max_workers: 1, resources: {}, node_config: {}}}}"
    )
    monkeypatch.setattr(module, "BOOTSTRAP", tmp_path / "bootstrap.yaml")
    _, cpus, _ = module.resources()
    module.await_nodes(minutes=0.01)
    assert capsys.readouterr().out == "", "a private Ray ignores the file of a cluster"
    monkeypatch.setattr(module, "ON_CLUSTER", True)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    module.await_nodes(minutes=0.01)
    waiting, going_on = capsys.readouterr().out.splitlines()
    assert waiting.startswith("ray: waiting for 1 of 2 nodes")
    assert going_on.startswith("ray: 1 of 2 nodes have not come")
    assert module.resources() == (1, 2 * cpus, 0), "the machine that may still come is taken to be like the first"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    module.await_nodes(minutes=0.01)
    assert capsys.readouterr().out == "" and module.resources() == (1, cpus, 0), "the file is of another cluster"
