"""Cohorts in the object stores: the features of one enter when its first run starts, and leave after its last."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

import torch

from survq.data.cohort import Cohort
from survq.data.shared_bags import SharedBags, share_bags
from survq.ray_session import ON_CLUSTER, on_node, ray, smallest_store
from survq.text import clock

Dtypes = Mapping[str, frozenset[torch.dtype]]
"""cohort -> the dtypes in which runs read its features."""


class SharedCohorts:
    """The features of the cohorts in training. This process owns them, and trials ask `board` for them."""

    def __init__(self, cohorts: Mapping[str, Cohort], dtypes: Dtypes | None = None):
        self.cohorts, self.dtypes = cohorts, dtypes or {name: frozenset({torch.float16}) for name in cohorts}
        self.board = Board()
        self._shared: dict[str, SharedBags] = {}

    def enter(self, name: str) -> None:
        """Read the features of a cohort, unless they are shared. Raises DataError with the problems of all slides."""
        shared = self._shared.get(name)
        if shared is not None and self.dtypes[name] <= set(shared.dtypes):
            return
        start, cohort = time.monotonic(), self.cohorts[name]
        bags = share_bags(cohort, self.dtypes[name])
        self._shared[name] = bags
        self.board.post(name, bags)
        if len(bags):
            self._say(cohort, bags, time.monotonic() - start)

    def leave(self, staying: Collection[str]) -> None:
        """Free the memory of all cohorts but these."""
        for name in self._shared.keys() - set(staying):
            del self._shared[name]
            self.board.remove(name)

    def __contains__(self, name: str) -> bool:
        return name in self._shared

    def _say(self, cohort: Cohort, bags: SharedBags, seconds: float) -> None:
        size = _size(cohort, bags)
        kinds = " and ".join(str(dtype).removeprefix("torch.") for dtype in bags.dtypes)
        took = clock(seconds)
        print(f"  {cohort.name}: features in shared memory as {kinds}, {size / 1e6:,.0f} MB in {took}", flush=True)
        store, all_of_it = smallest_store(), sum(_size(self.cohorts[n], shared) for n, shared in self._shared.items())
        if all_of_it > store > 0:
            cure = "start Ray with a larger --object-store-memory" if ON_CLUSTER else "use a machine with more memory"
            print(
                f"  the features ({all_of_it / 1e6:,.0f} MB) exceed the object store of a node ({store / 1e6:,.0f} MB),"
                f" and the rest is read again in every epoch. To be faster, {cure}.",
                flush=True,
            )


class Board:
    """Hands references from the process that owns them to trials, by cohort. It may be sent to other processes."""

    def __init__(self) -> None:
        here = on_node(ray.get_runtime_context().get_node_id())
        self._actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()

    def post(self, name: str, bags: SharedBags) -> None:
        ray.get(self._actor.post.remote(name, [ray.put(bags)]))

    def remove(self, name: str) -> None:
        ray.get(self._actor.remove.remote(name))

    def __getitem__(self, name: str) -> SharedBags:
        (posted,) = ray.get(self._actor.find.remote(name))
        return ray.get(posted)


class _Board:
    """Within lists, Ray passes references and does not fetch what they refer to."""

    def __init__(self) -> None:
        self._posted: dict[str, list[ray.ObjectRef]] = {}

    def post(self, name: str, bags: list[ray.ObjectRef]) -> None:
        self._posted[name] = bags

    def remove(self, name: str) -> None:
        del self._posted[name]

    def find(self, name: str) -> list[ray.ObjectRef]:
        return self._posted[name]


def _size(cohort: Cohort, bags: SharedBags) -> int:
    """Bytes of the features of a cohort in shared memory."""
    return 2 * len(bags.dtypes) * int((cohort.slides["patches"] * cohort.slides["width"]).sum())
