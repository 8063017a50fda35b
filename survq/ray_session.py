"""The Ray session: a private one on this machine, or the cluster at RAY_ADDRESS. Import `ray` from here."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from survq.exits import keeping_signals
from survq.ray_start import (
    RayUnavailable,
    check_address,
    check_cluster,
    differences,
    job_memory,
    private_start,
    reason_of,
    usable_cpus,
    versions,
)

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml").expanduser()  # written to the head node by `ray up`
ON_CLUSTER = bool(os.environ.get("RAY_ADDRESS"))

# Ray reads these variables when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # `uv run` must not ship the project folder to workers
# processes without a GPU request still see all GPUs: see TrialResources.device
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # survq writes its own results and curves
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000000")  # Tune only schedules; survq keeps the state
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Tune's handler would end a study as if it were complete
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "1000")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# PyTorch in Ray's processes: huge pages for large tensors, as page faults cost more than filling the memory
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# in Ray's worker processes the session exists already, and its variables must not change
if not ON_CLUSTER and not ("ray" in sys.modules and sys.modules["ray"].is_initialized()):
    # Without this a local Ray listens on all network interfaces, whatever address it is given.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # A token of this process only; otherwise Ray writes one to the home folder, readable by all.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "150")

import ray  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

__all__ = [
    *("ON_CLUSTER", "await_machine", "await_nodes", "check_versions", "connect", "ending_new_actors", "node_ids"),
    *("on_loopback", "on_node", "quiet_data_context", "ray", "resources", "smallest_store"),
]


def connect(cpus: int | None = None, verbose: bool = False) -> None:
    """Start a private Ray on this machine, or join the cluster at RAY_ADDRESS; once per process.

    Meanwhile and from then on, signals end the program as Ctrl-C does. Raises RayUnavailable, within a minute.
    """
    if ray.is_initialized():
        return
    quiet = {} if verbose else {"logging_level": logging.ERROR, "log_to_driver": False}
    with warnings.catch_warnings(), keeping_signals():
        warnings.simplefilter("ignore")
        if ON_CLUSTER:
            address = os.environ["RAY_ADDRESS"]
            check_address(address)
            check_cluster(address)
            ray.init(address=address, **quiet)
        else:
            memory = job_memory()
            limits = {"object_store_memory": int(0.4 * memory)} if memory else {}
            with private_start():
                ray.init(address="local", num_cpus=cpus or usable_cpus(), include_dashboard=False, **limits, **quiet)
    if not verbose:
        _silence_loggers()


def on_loopback() -> bool:
    """Whether the session uses the loopback interface only, as a private one does. Works in every process."""
    return ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback


@contextmanager
def quiet_data_context(**settings: object) -> Iterator[ray.data.DataContext]:
    """Within the block, Ray Data uses a copy of its context with these settings, without log or progress bars."""
    context = ray.data.DataContext.get_current().copy()
    _silence_loggers()
    context.enable_progress_bars = False
    for name, value in settings.items():
        setattr(context, name, value)
    with ray.data.DataContext.current(context):
        yield context


def _silence_loggers() -> None:
    """Show errors only. Ray's libraries configure their loggers on first use, so repeat this after it."""
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        # Tune shows the loss of a process as a traceback; survq says it in a sentence
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "ray.tune" else logging.ERROR)


@contextmanager
def ending_new_actors(seconds: float = 5) -> Iterator[None]:
    """In a private session, end the actors with names that came within the block, and wait until they have ended.

    Ray Data leaves two behind, each of which uses a hundredth of a CPU. On a cluster, others may use them.
    """
    before = _named_actors()
    yield
    if ON_CLUSTER:
        return
    for name, namespace in _named_actors() - before:
        # an actor first does what it was asked to do earlier; with retries, Ray would report that this call has failed
        ray.get_actor(name, namespace).__ray_terminate__.options(max_task_retries=0).remote()
    deadline = time.monotonic() + seconds
    while _named_actors() - before and time.monotonic() < deadline:
        time.sleep(0.02)


def _named_actors() -> set[tuple[str, str]]:
    return {(actor["name"], actor["namespace"]) for actor in ray.util.list_named_actors(all_namespaces=True)}


def node_ids() -> list[str]:
    """The nodes that are up."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def this_node() -> str:
    """The id of the node of this process."""
    return ray.get_runtime_context().get_node_id()


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    """The scheduling strategy of a task that has to run on this node."""
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def smallest_store() -> int:
    """Bytes of the smallest object store of the nodes on which trials run."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    stores = [node.get("object_store_memory", 0) for node in nodes if node.get("CPU")]
    return int(min(stores, default=0))


def resources() -> tuple[int, int, int]:
    """The numbers of nodes, CPUs and GPUs; of CPUs and GPUs with those of machines that may still come."""
    total, limit = ray.cluster_resources(), _limit()
    cpus, gpus = (int(max(total.get(what, 0), limit.get(what, 0))) for what in ("CPU", "GPU"))
    return len(node_ids()), cpus or 1, gpus


def await_machine(minutes: float = 45) -> None:
    """On an autoscaling cluster without a free machine, request one and wait for it.

    Raises ConnectionError if none has started after `minutes`.
    """
    what = "GPU" if _limit().get("GPU") else "CPU"
    if not ON_CLUSTER or ray.cluster_resources().get(what, 0) >= 1:
        return
    from ray.autoscaler.sdk import request_resources

    print("ray: waiting for a machine, about ten minutes; `ray status` shows the progress", flush=True)
    deadline = time.monotonic() + 60 * minutes
    request_resources(bundles=[{what: 1}])
    try:
        while ray.cluster_resources().get(what, 0) < 1:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"no machine started within {minutes:g} minutes. Fix: run `ray status` on the head node for the "
                    f"reason, usually the account's quota or no capacity in the zone."
                )
            time.sleep(5)
    finally:
        request_resources(bundles=[])  # a standing request would keep the machine forever


def await_nodes(minutes: float = 10) -> None:
    """Wait for the machines that a cluster starts with: some may still be installing."""
    kinds = _cluster().get("available_node_types", {}).values()
    expected = 1 + sum(kind.get("min_workers", 0) for kind in kinds)
    deadline, said = time.monotonic() + 60 * minutes, False
    while (up := len(node_ids())) < expected and time.monotonic() < deadline:
        if not said:
            print(f"ray: waiting for {expected - up} of {expected} nodes, {minutes:g} minutes at most", flush=True)
        said = True
        time.sleep(2)
    if up < expected:
        print(f"ray: {expected - up} of {expected} nodes have not come; used as soon as they do", flush=True)


def check_versions(seconds: float = 60) -> None:
    """Raise RayUnavailable if a node of the cluster would compute with another survq, or another version of torch.

    A node that is too busy to answer in time, or that has just gone, is passed over. (Processes that train look at
    their own versions: see Board.)
    """
    if not ON_CLUSTER:
        return
    here, problems = versions(), []
    ask = ray.remote(num_cpus=0, max_retries=0)(versions)
    names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
    answers = {ask.options(scheduling_strategy=on_node(node)).remote(): names[node] for node in node_ids()}
    answered, _ = ray.wait(list(answers), num_returns=len(answers), timeout=seconds)
    for answer in answered:
        try:
            there = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            problems.append(f"{answers[answer]} cannot run survq ({reason_of(str(error))})")
            continue
        except ray.exceptions.RayError:
            continue
        if other := differences(here, there):
            problems.append(f"{answers[answer]} has {other}")
    if problems:
        raise RayUnavailable(
            f"nodes of the cluster would compute otherwise than this process: {'; '.join(problems)}. "
            f"Fix: install the same on all nodes, and start Ray there again."
        )


def _cluster() -> dict:
    """The configuration of the cluster to which this head node belongs; empty if it was not started by `ray up`."""
    if not (ON_CLUSTER and BOOTSTRAP.is_file()) or "SLURM_JOB_ID" in os.environ:  # it may be of another cluster
        return {}
    return yaml.safe_load(BOOTSTRAP.read_text())


def _limit() -> dict[str, float]:
    """The resources that a cluster of `ray up` may grow to; empty without such a cluster.

    The configuration does not state those of machines that are given, not launched: taken to be as the largest.
    """
    config = _cluster()
    if not config:
        return {}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = {what: max(node.get(what, 0) for node in nodes) for what in ("CPU", "GPU")}
    limit: dict[str, float] = {}
    for name, kind in config["available_node_types"].items():
        count = min(kind["max_workers"], config["max_workers"]) + (name == config["head_node_type"])
        for what, amount in (kind["resources"] or largest).items():
            limit[what] = limit.get(what, 0) + count * amount
    return limit
