"""Two hosts and a launcher, the cluster of cluster/local.yaml on them, and a study that ran undisturbed."""

import re
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from cluster_studies import FLAGS, SCRIPT, both_up, up
from hosts import Hosts, copy_repository, missing

sys.path.append(str(Path(__file__).parents[1] / "training"))  # for small_cohort


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="module")
def hosts():
    """A launcher and two hosts, with the repository at ~/checkout. All see a simulated cohort in /shared/data."""
    if reason := missing():
        warnings.warn(pytest.PytestWarning(f"SKIPPED, so nothing of cluster/ is tried: {reason}"), stacklevel=1)
        pytest.skip(reason)
    hosts = Hosts(2)
    try:
        for host in hosts.numbers:
            copy_repository(hosts.state / str(host) / "home" / "checkout")
        done = hosts.run(0, "pip install -q --no-deps -e ~/checkout && survq simulate /shared/data --cases 60")
        assert done.returncode == 0, done.stdout
        yield hosts
    finally:
        hosts.close()


@pytest.fixture
def given_machines(local_cluster) -> Hosts:
    """`local_cluster`, with both hosts in it whatever the test before has left."""
    hosts = local_cluster
    for host in (1, 2):
        hosts.name_hosts(host)
        hosts.cable(host, plugged=True)
        if not hosts.is_on(host):
            hosts.boot(host)
    if not both_up(hosts):
        up(hosts)
    return hosts


@pytest.fixture(scope="module")
def local_cluster(hosts) -> Hosts:
    """Hosts 1 and 2 under cluster/local.yaml with its blanks filled in; one CPU each, as there are few."""
    file = hosts.state / "0" / "home" / "checkout" / "cluster" / "local.yaml"
    # of Ray, the hosts have the version of these tests only
    config = yaml.safe_load(file.read_text().replace("ray==2.60.0", f"ray=={version('ray')}"))
    blanks = re.findall(r"^ *(\w+): \[?(?:FILL-IN|.*# FILL-IN)", file.read_text(), re.MULTILINE)
    assert blanks == ["max_workers", "head_ip", "worker_ips", "ssh_user", "ssh_private_key"]
    config["provider"] |= {"head_ip": hosts.address(1), "worker_ips": [hosts.address(2)]}
    config["auth"] |= {"ssh_user": "root", "ssh_private_key": "~/.ssh/id"}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = "ray start --num-cpus=1 --object-store-memory=300000000 "
        config[commands][-1] = config[commands][-1].replace("ray start ", start)
    file.write_text(yaml.safe_dump(config))
    done = hosts.run(0, "ray get-auth-token --generate > /dev/null && chmod -R go= ~/.ray")
    assert done.returncode == 0, done.stdout
    up(hosts)
    return hosts


@pytest.fixture(scope="module")
def alone(hosts) -> Path:
    """The results of the study on one host, under a private Ray."""
    command = f"cd ~/checkout && PYTHONPATH=. python {SCRIPT} {FLAGS} --cpus 2 --results /shared/alone"
    done = hosts.run(1, command, timeout=500)
    assert done.returncode == 0 and "ray on this machine: 2 CPUs" in done.stdout, done.stdout
    return hosts.state / "shared" / "alone"
