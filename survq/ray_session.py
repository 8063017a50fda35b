"""The Ray session: a private one on this machine, or the cluster that RAY_ADDRESS names. Import `ray` from here."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import sys
import time
import warnings
from pathlib import Path

import yaml

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml").expanduser()  # `ray up` leaves it on the head
ON_CLUSTER = bool(os.environ.get("RAY_ADDRESS"))

# These are read when ray is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # `uv run` must not ship the project folder to workers
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # whoever has no GPU sees all: TrialResources.device
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # survq writes its own results and curves
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000000")  # Tune schedules, it does not remember
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # its own ends a study as if all of it were done
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "1000")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# of PyTorch in Ray's processes: large tensors in large pages, for fresh small ones cost more than what fills them
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# inside one of Ray's own processes the session is there, and what is said of it must not change
if not ON_CLUSTER and not ("ray" in sys.modules and sys.modules["ray"].is_initialized()):
    # Without this a local Ray listens on all network interfaces, whatever address it is given.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # A token of this process alone; Ray would otherwise leave one in the home folder, readable by all.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "150")

import ray  # noqa: E402

__all__ = ["ON_CLUSTER", "await_machine", "connect", "on_loopback", "ray", "resources", "silence"]


def connect(cpus: int | None = None, verbose: bool = False) -> None:
    """Start a private Ray on this machine, or join the cluster that RAY_ADDRESS names; once a process.

    Raises ConnectionError with the mend where the cluster cannot be joined.
    """
    if ray.is_initialized():
        return
    quiet = {} if verbose else {"logging_level": logging.ERROR, "log_to_driver": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ON_CLUSTER:
            try:
                ray.init(address="auto" if os.environ["RAY_ADDRESS"] == "auto" else None, **quiet)
            except ConnectionError as error:
                raise ConnectionError(
                    f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: the cluster cannot be joined ({error}). Fix: unset "
                    f"RAY_ADDRESS to run on this machine; on a cluster, check that it is up and that this process has "
                    f"its token (RAY_AUTH_MODE=token and ~/.ray/auth_token)."
                ) from error
        else:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    if not verbose:
        silence()


def on_loopback() -> bool:
    """Whether the session is on this machine's loopback interface only, as a private one is; known in every process."""
    return ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback


def silence() -> None:
    """Ray's parts set up their loggers when first used, so this is said again then."""
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def resources() -> tuple[int, int, int]:
    """How many nodes there are, and how many CPUs and GPUs there are or, where machines come when asked for, may be."""
    total, most = ray.cluster_resources(), _may_grow_to()
    cpus, gpus = (int(max(total.get(what, 0), most.get(what, 0))) for what in ("CPU", "GPU"))
    return sum(node["Alive"] for node in ray.nodes()), cpus or 1, gpus


def await_machine(minutes: float = 45) -> None:
    """On a cluster whose machines come when asked for, ask for one and wait until it is there.

    Raises ConnectionError with the mend.
    """
    what = "GPU" if _may_grow_to().get("GPU") else "CPU"
    if not ON_CLUSTER or ray.cluster_resources().get(what, 0) >= 1:
        return
    from ray.autoscaler.sdk import request_resources

    print("ray: waiting for a machine, about ten minutes; `ray status` says how it goes", flush=True)
    deadline = time.monotonic() + 60 * minutes
    request_resources(bundles=[{what: 1}])
    try:
        while ray.cluster_resources().get(what, 0) < 1:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"no machine came in {minutes:g} minutes. Fix: `ray status` on the head says why, mostly the "
                    f"account's quota or no room in the zone."
                )
            time.sleep(5)
    finally:
        request_resources(bundles=[])  # an ask that stands keeps the machine for ever


def _may_grow_to() -> dict[str, float]:
    """What the cluster's autoscaler may add up to; empty where none is at work."""
    if not (ON_CLUSTER and BOOTSTRAP.is_file()):
        return {}
    config = yaml.safe_load(BOOTSTRAP.read_text())
    most: dict[str, float] = {}
    for name, kind in config["available_node_types"].items():
        count = min(kind["max_workers"], config["max_workers"]) + (name == config["head_node_type"])
        for what, amount in kind["resources"].items():
            most[what] = most.get(what, 0) + count * amount
    return most
