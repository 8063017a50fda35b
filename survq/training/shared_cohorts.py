"""Cohorts in the object stores: the features of one enter when its first run starts, and leave after its last.

A cohort that fits is shared: a node fetches a bag when it first needs it. Of a cohort that does not fit, every node
keeps a copy, in its store as far as possible and the rest on its disk, and runs read it ahead of use.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import nullcontext

import psutil
import torch

from survq.data.cohort import Cohort
from survq.data.problems import DiskFull
from survq.data.shared_bags import FULL, READERS, SharedBags, copy_bags, share_bags
from survq.ray_session import ON_CLUSTER, ending_new_actors, on_node, ray, smallest_store
from survq.text import clock
from survq.training.board import Board

USABLE = 0.8  # of a store: Ray writes to disk what exceeds it
AHEAD = 0.25  # of a store, for bags that are read ahead by all processes of a node
MOST_AHEAD = 64  # bags, per process
ANY = "any node"


class SharedCohorts:
    """The features of the cohorts in training. This process owns them, and trials ask `board` for them."""

    def __init__(self, cohorts: Mapping[str, Cohort]):
        self.cohorts = cohorts
        self.dtypes = {name: frozenset({torch.float16}) for name in cohorts}  # in which runs read them
        self.processes = 1  # that train at the same time, on all nodes
        self.board = Board()
        self._shared: dict[str, dict[str, SharedBags]] = {}

    def enter(self, name: str) -> None:
        """Read the features of a cohort, unless they are shared.

        Raises DataError with the problems of all slides, and DiskFull if a node has no room for them.
        """
        cohort, dtypes, start = self.cohorts[name], self.dtypes[name], time.monotonic()
        if name in self and dtypes <= set(_any(self._shared[name]).dtypes):
            return
        store, size = smallest_store(), _size(cohort, dtypes)
        others = sum(_size(self.cohorts[n], _any(bags).dtypes) for n, bags in self._shared.items() if n != name)
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        try:
            if size + others <= USABLE * store or not store or not size:
                # with several cohorts, each reading would start Ray Data's actors again, which takes seconds
                with ending_new_actors() if len(self.cohorts) == 1 else nullcontext():
                    by_node = {ANY: share_bags(cohort, dtypes)}
            else:
                bag = size / max(1, len(cohort.slides_by_case))
                room = AHEAD * store / bag  # bags
                ahead = max(2, min(MOST_AHEAD, int(room * len(nodes) / self.processes)))
                at_once = max(1, min(READERS, int(room / 2)))  # each bag as it comes and as it is kept
                by_node = copy_bags(cohort, nodes, ahead, at_once, dtypes)
                _say_that_it_exceeds(name, size, others, store)
        except FULL as error:
            raise _no_room(name, size, nodes) from error
        self._shared[name] = by_node
        self.board.post(name, by_node)
        if bags := _any(by_node):
            kinds = " and ".join(str(dtype).removeprefix("torch.") for dtype in bags.dtypes)
            took = clock(time.monotonic() - start)
            print(f"  {name}: features in shared memory as {kinds}, {size / 1e6:,.0f} MB in {took}", flush=True)

    def leave(self, staying: Collection[str]) -> None:
        """Free the memory of all cohorts but these."""
        for name in self._shared.keys() - set(staying):
            del self._shared[name]
            self.board.remove(name)

    def __contains__(self, name: str) -> bool:
        return name in self._shared


def _any(by_node: Mapping[str, SharedBags]) -> SharedBags:
    return next(iter(by_node.values()))


def _size(cohort: Cohort, dtypes: Collection[torch.dtype]) -> int:
    """Bytes of the features of a cohort in shared memory."""
    return 2 * len(dtypes) * int((cohort.slides["patches"] * cohort.slides["width"]).sum())


def _say_that_it_exceeds(name: str, size: int, others: int, store: int) -> None:
    beside = f", beside {others / 1e6:,.0f} MB of other cohorts," if others else ""
    cure = "start Ray with a larger --object-store-memory" if ON_CLUSTER else "use a machine with more memory"
    print(
        f"  {name}: its features ({size / 1e6:,.0f} MB){beside} exceed the object store of a node ({store / 1e6:,.0f} "
        f"MB). Each node reads what exceeds it from its disk, twice in every epoch. To be faster, {cure}.",
        flush=True,
    )


def _no_room(name: str, size: int, nodes: Collection[str]) -> DiskFull:
    """What to say when the store of one of these nodes and the disk below it are full."""
    asked = [ray.remote(num_cpus=0, scheduling_strategy=on_node(node))(_disk_below).remote() for node in nodes]
    free, host, folder = min(ray.get(asked))
    where, other = folder, "set RAY_TMPDIR to a folder with a short name on a larger disk"
    if ON_CLUSTER:
        where, other = f"{folder} of {host}", "start Ray there with --object-spilling-directory on a larger disk"
    needed = 1.25 * size  # with a margin: Ray leaves pieces that it failed to write
    return DiskFull(
        f"{name}: its features exceed the object store, and {where}, where Ray writes the rest, is full "
        f"({free / 1e6:,.0f} MB are free). Fix: free {needed / 1e6:,.0f} MB there, or {other}; then run the same "
        f"command again."
    )


def _disk_below() -> tuple[int, str, str]:
    """Where the Ray of this node writes what exceeds its object store: the bytes free, the node's name, the folder."""
    flags = dict(flag.partition("=")[::2] for flag in psutil.Process(os.getppid()).cmdline())
    folder = flags["--fallback_directory"]
    return shutil.disk_usage(folder).free, platform.node(), folder
