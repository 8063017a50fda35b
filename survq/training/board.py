"""The process from which trials fetch their runs, and references to the features of their cohorts.

This module does not import PyTorch, directly or indirectly: that process would need two to four seconds of CPU for it.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING

from survq.ray_session import ON_CLUSTER, on_node, ray, this_node
from survq.ray_start import RayUnavailable, differences, versions

if TYPE_CHECKING:
    from survq.data.shared_bags import SharedBags
    from survq.training.run import Run


class Board:
    """Hands runs to their trials, and references to features, by cohort, from the process that owns them.

    It may be sent to other processes.
    """

    def __init__(self) -> None:
        self._versions = versions() if ON_CLUSTER else None  # of the process that owns it
        here = on_node(this_node())
        self._actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()

    def post(self, name: str, by_node: Mapping[str, SharedBags]) -> None:
        ray.get(self._actor.post.remote(name, {node: ray.put(bags) for node, bags in by_node.items()}))

    def remove(self, name: str) -> None:
        ray.get(self._actor.remove.remote(name))

    def __getitem__(self, name: str) -> SharedBags:
        """The bags of a cohort for the node of this process.

        Raises RayUnavailable if that node, which may have joined since the study began, would compute otherwise.
        """
        if self._versions and (other := differences(self._versions, versions())):
            raise RayUnavailable(f"{platform.node()} has {other}. Fix: install the same, and start Ray there again.")
        (posted,) = ray.get(self._actor.find.remote(name, this_node()))
        return ray.get(posted)

    def give(self, trial: str, run: Run) -> None:
        ray.get(self._actor.give.remote(trial, [ray.put(run)]))

    def take_back(self, trial: str) -> None:
        self._actor.take_back.remote(trial)

    def run(self, trial: str) -> Run:
        (given,) = ray.get(self._actor.run.remote(trial))
        return ray.get(given)


class _Board:
    """Inside of containers, Ray passes references and does not fetch what they refer to."""

    def __init__(self) -> None:
        self._posted: dict[str, dict[str, ray.ObjectRef]] = {}
        self._runs: dict[str, list[ray.ObjectRef]] = {}

    def give(self, trial: str, run: list[ray.ObjectRef]) -> None:
        self._runs[trial] = run

    def take_back(self, trial: str) -> None:
        self._runs.pop(trial, None)

    def run(self, trial: str) -> list[ray.ObjectRef]:
        return self._runs[trial]

    def post(self, name: str, by_node: dict[str, ray.ObjectRef]) -> None:
        self._posted[name] = by_node

    def remove(self, name: str) -> None:
        del self._posted[name]

    def find(self, name: str, node: str) -> list[ray.ObjectRef]:
        by_node = self._posted[name]
        # a node that has come later has no copy
        return [by_node[node] if node in by_node else next(iter(by_node.values()))]
