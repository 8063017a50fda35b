"""cluster/slurm.sh under a real Slurm on two hosts."""

import time
import warnings

import pytest
from cluster_studies import FLAGS, SCRIPT, reports, same
from slurm import Slurm, missing


@pytest.fixture(scope="module")
def slurm(hosts) -> Slurm:
    if reason := missing():
        warnings.warn(pytest.PytestWarning(f"SKIPPED, so cluster/slurm.sh is not tried: {reason}"), stacklevel=1)
        pytest.skip(reason)
    return Slurm(hosts)


def results(slurm, name):
    return slurm.home / "survq" / name


def test_one_node_is_as_without_slurm(slurm, alone):
    job = slurm.submit(f"{SCRIPT} {FLAGS} --results one")
    assert slurm.ended(job) == "COMPLETED 0:0", slurm.log(job)
    assert "ray on this machine: 1 CPUs" in slurm.log(job), "it has one CPU of the node's two"
    assert same(results(slurm, "one"), alone) == 5
    assert slurm.left_behind(job) == []


def test_two_nodes_of_which_the_first_is_called_127_0_1_1(slurm, alone):
    slurm.hosts.name_hosts(1, own="127.0.1.1")
    job = slurm.submit(f"{SCRIPT} {FLAGS} --results two", "--nodes=2")
    assert slurm.ended(job) == "COMPLETED 0:0", slurm.log(job)
    slurm.hosts.name_hosts(1)
    assert "ray on 2 nodes: 2 CPUs" in slurm.log(job)
    assert same(results(slurm, "two"), alone) == 5
    assert slurm.left_behind(job) == []


def test_two_jobs_on_the_same_nodes_at_once(slurm, alone):
    jobs = {name: slurm.submit(f"{SCRIPT} {FLAGS} --results {name}", "--nodes=2") for name in ("left", "right")}
    assert len({slurm.state(job).split()[0] for job in jobs.values()} & {"PENDING", "RUNNING"}) >= 1
    for name, job in jobs.items():
        assert slurm.ended(job) == "COMPLETED 0:0", slurm.log(job)
        assert same(results(slurm, name), alone) == 5


def test_the_exit_code_is_the_study_s(slurm):
    job = slurm.submit(f"{SCRIPT} --data /shared/data --cohorts BRCA --results bad")
    assert slurm.ended(job) == "FAILED 65:0", slurm.log(job)
    assert "no cohort 'BRCA'" in slurm.log(job)


@pytest.mark.parametrize("nodes", [1, 2])
def test_at_the_time_limit_a_job_is_queued_again_and_continues(slurm, alone, nodes):
    name = f"limit-{nodes}"
    job = slurm.submit(f"{SCRIPT} {FLAGS} --results {name}", f"--nodes={nodes}")
    slurm.until(job, "1 of 5 done")
    slurm.run(f"scancel --batch --signal=USR1 {job}")  # as Slurm sends it five minutes before the limit
    slurm.until(job, "goes back into the queue")
    before = reports(results(slurm, name))
    slurm.hosts.wait_for(lambda: slurm.state(job).startswith("PENDING"), 90, "the job to be queued")
    slurm.run(f"scontrol update JobId={job} StartTime=now")  # a job that was queued again waits for two minutes
    assert slurm.ended(job) == "COMPLETED 0:0", slurm.log(job)
    assert "stored" in slurm.log(job) and before and before.items() <= reports(results(slurm, name)).items()
    assert same(results(slurm, name), alone) == 5


@pytest.mark.parametrize("nodes", [1, 2])
def test_scancel_ends_a_job_for_good(slurm, nodes):
    job = slurm.submit(f"{SCRIPT} {FLAGS} --results cancelled-{nodes}", f"--nodes={nodes}")
    slurm.until(job, "ray on")
    slurm.run(f"scancel {job}")
    assert slurm.ended(job).startswith("CANCELLED"), slurm.log(job)
    slurm.hosts.wait_for(lambda: not slurm.left_behind(job), 60, f"files to go: {slurm.left_behind(job)}")
    time.sleep(3)
    assert slurm.state(job).startswith("CANCELLED"), "queued again"


FAILS_ONCE = """#!/bin/sh
mkdir "$RAY_TMPDIR/failed" 2>/dev/null && echo "no answer from the node" && exit 1
PATH=${PATH#*:} exec ray "$@"
"""


def test_ray_that_does_not_start_is_started_again(slurm):
    """On both nodes it fails once. Without Ray on both, the study would not be started."""
    folder = slurm.home / "fails-once"
    folder.mkdir()
    (folder / "ray").write_text(FAILS_ONCE)
    (folder / "ray").chmod(0o755)
    job = slurm.submit("-c 'print(1 + 1)'", "--nodes=2 --export=ALL,PATH=$HOME/fails-once:$PATH")
    assert slurm.ended(job) == "COMPLETED 0:0", slurm.log(job)
    for host in ("host1", "host2"):
        assert f"survq: Ray has ended on {host}; the end of its log:\nno answer" in slurm.log(job)
    assert "\n2\n" in slurm.log(job)


def test_a_signal_before_the_study_starts_is_not_lost(slurm):
    job = slurm.submit(f"{SCRIPT} {FLAGS} --results early", "--nodes=2")
    slurm.hosts.wait_for(lambda: slurm.state(job).startswith("RUNNING"), 60, "the job to start")
    slurm.run(f"scancel --batch --signal=USR1 {job}")
    slurm.until(job, "goes back into the queue", 90)
    slurm.run(f"scancel {job}")
    assert slurm.ended(job).startswith("CANCELLED"), slurm.log(job)
