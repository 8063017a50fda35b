"""Patch features in Ray's object store: read once for all runs of a cohort, through Ray Data."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from survq.data.batch import BagsByDtype
from survq.data.case_blocks import Problems, case_and_problems, keep_copy, read_and_check, read_block, sees
from survq.data.cohort import Cohort
from survq.data.feature_store import TO_READ
from survq.data.half_floats import as_tensor
from survq.data.problems import BucketUnavailable, raise_if_any
from survq.ray_session import node_ids, on_node, quiet_data_context, ray, resources, this_node

READERS = 4  # at a time, on a node: threads, or tasks
FULL = (ray.exceptions.OutOfDiskError, ray.exceptions.ObjectStoreFullError)  # an object store has no room, nor its disk


class SharedBags(BagsByDtype):
    """case id -> (patch, feature): read-only views of the node's shared memory, fetched on first access.

    A node holds one copy of a bag, in each of `dtypes`, for all its trials. `ahead` is the number of bags that a
    process should read ahead of use, because the others are on disk; 0 if all are in memory.
    """

    def __init__(self, blocks: dict[str, ray.ObjectRef], dtypes: tuple[torch.dtype, ...], ahead: int = 0):
        self.dtypes, self.ahead = dtypes, ahead
        self._blocks = blocks

    def of(self, dtype: torch.dtype) -> SharedBags:
        chosen = dtype if dtype in self.dtypes else torch.float16
        if chosen not in self.dtypes:
            raise KeyError(f"the features are shared as {self.dtypes}, and not as {dtype}")
        return SharedBags(self._blocks, (chosen,), self.ahead)

    def __getitem__(self, case_id: str) -> Tensor:
        block = ray.get(self._blocks[case_id])
        features = np.frombuffer(block[_name(self.dtypes[0])][0].as_buffer(), np.int16)
        return as_tensor(features.reshape(block["patches"][0].as_py(), -1), self.dtypes[0])

    def __contains__(self, case_id: object) -> bool:
        return case_id in self._blocks

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)


def share_bags(cohort: Cohort, dtypes: Collection[torch.dtype] = (torch.float16,)) -> SharedBags:
    """Read all slides of a cohort on all nodes; the bag of a case is the concatenation of its slides.

    Features are verified by the store's checksums, and converted from float16 to each of `dtypes`; without dtypes,
    nothing is read. Where some nodes do not see the files, this process reads them. Raises DataError with the problems
    of all slides, and BucketUnavailable as soon as one of them was waited for in vain.
    """
    kept, by_case, settings = _reading(cohort, dtypes)
    if not by_case or not kept:
        return SharedBags({}, kept)
    function = _read_on_all_nodes if seen_by_all_nodes(cohort) else _read_here
    with closing(function(by_case, settings)) as blocks:  # Ray Data waits for Ray in vain if it ends after it
        read = list(_with_cases_and_problems(blocks))  # block order is not guaranteed
    raise_if_any([problem for _, _, problems in read for problem in problems])
    return SharedBags({case: block for block, case, _ in read}, kept)


def copy_bags(
    cohort: Cohort,
    nodes: Sequence[str],
    ahead: int,
    at_once: int,
    dtypes: Collection[torch.dtype] = (torch.float16,),
) -> dict[str, SharedBags]:
    """By node: a copy of all bags of a cohort, in its object store as far as they fit, and the rest on its disk.

    Each node reads the files itself, `at_once` cases at a time. If some nodes do not see them, the node of this process
    does, and the others receive its bags. A node that is lost meanwhile is left out. Raises DataError with the problems
    of all slides, RayError if all nodes are lost, and an error of FULL if one has no room.
    """
    kept, by_case, settings = _reading(cohort, dtypes)
    reading = [(case, settings) for case in by_case]
    if seen_by_all_nodes(cohort):
        copies = _on_nodes(nodes, read_and_check, reading, at_once)
    else:
        copies = _on_nodes([this_node()], read_and_check, reading, at_once)
        (copied,) = copies.values()
        others = [node for node in nodes if node not in copies]
        if not isinstance(copied, Exception):
            copies |= _on_nodes(others, keep_copy, [(block,) for block, _ in copied], at_once)
    whole = {node: copied for node, copied in copies.items() if node in nodes and not isinstance(copied, Exception)}
    if not whole:
        raise next(copied for copied in copies.values() if isinstance(copied, Exception))
    raise_if_any(list(dict.fromkeys(problem for copied in whole.values() for _, found in copied for problem in found)))
    cases = [case["case_id"] for case in by_case]
    return {
        node: SharedBags({case: block for case, (block, _) in zip(cases, copied, strict=True)}, kept, ahead)
        for node, copied in whole.items()
    }


Copied = list[tuple[ray.ObjectRef, list[str]]] | Exception  # a block for each case and its problems; or why not


def _on_nodes(
    nodes: Sequence[str], function: Callable[..., tuple[pa.Table, Problems]], sources: list[tuple], at_once: int
) -> dict[str, Copied]:
    """The results of a function for all sources on each of the nodes, which keep them."""

    def copy(node: str) -> Copied:
        task = ray.remote(num_cpus=0, num_returns=2, scheduling_strategy=on_node(node))(function)
        copied = []
        try:
            for start in range(0, len(sources), at_once):
                blocks, problems = zip(
                    *(task.remote(*source) for source in sources[start : start + at_once]), strict=True
                )
                copied += list(zip(blocks, map(_answered, ray.get(list(problems))), strict=True))
        except FULL:
            raise
        except ray.exceptions.RayError as error:
            return error
        return copied

    with ThreadPoolExecutor(max(1, len(nodes))) as threads:
        return dict(zip(nodes, threads.map(copy, nodes), strict=True))


def _reading(cohort: Cohort, dtypes: Collection[torch.dtype]) -> tuple[tuple[torch.dtype, ...], list[dict], dict]:
    """The dtypes, float16 first; a row per case with slides; and what else `read_block` takes."""
    kept = tuple(sorted(dtypes, key=_name, reverse=True))
    by_case = [
        {"case_id": case, "slides": json.dumps([{name: row[name] for name in TO_READ} for row in rows])}
        for case, rows in cohort.slides_by_case.items()
    ]
    return kept, by_case, {"folder": cohort.features, "dtypes": [_name(dtype) for dtype in kept]}


def seen_by_all_nodes(cohort: Cohort) -> bool:
    """Whether every node of the cluster sees the feature files of a cohort. A bucket is seen by all."""
    folder, nodes = cohort.features.local, node_ids()
    if folder is None or len(nodes) < 2:
        return True
    files = {Path(file).name for file in cohort.slides["file"]}
    look = ray.remote(num_cpus=0, max_retries=0)(sees)
    answers = [look.options(scheduling_strategy=on_node(node)).remote(folder, files) for node in nodes]
    answered, _ = ray.wait(answers, num_returns=len(answers), timeout=60)
    try:
        return len(answered) == len(answers) and all(ray.get(answered))
    except ray.exceptions.RayError:  # such as of a node that has just gone
        return False


def _read_on_all_nodes(by_case: list[dict], settings: dict) -> Generator[ray.ObjectRef, None, None]:
    cpus = resources()[1]
    with quiet_data_context(target_max_block_size=1):  # one block per row, hence one object per case
        tasks = min(len(by_case), 4 * cpus)
        cases = ray.data.from_items(by_case, override_num_blocks=tasks)
        bundles = cases.map_batches(
            read_block,
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs=settings,
            num_cpus=0,  # trials of other cohorts may hold all of them
            compute=ray.data.TaskPoolStrategy(size=min(tasks, cpus)),
        ).iter_internal_ref_bundles()
    for bundle in bundles:
        yield from bundle.block_refs


def _read_here(by_case: list[dict], settings: dict) -> Generator[ray.ObjectRef, None, None]:
    def share(case: dict) -> ray.ObjectRef:
        return ray.put(read_block(pa.Table.from_pylist([case]), **settings))

    with ThreadPoolExecutor(READERS) as threads:
        yield from threads.map(share, by_case)


def _answered(problems: Problems) -> list[str]:
    """The problems of a case. Raises BucketUnavailable if its bucket did not answer."""
    if isinstance(problems, str):
        raise BucketUnavailable(problems)
    return problems


def _with_cases_and_problems(blocks: Iterator[ray.ObjectRef]) -> Iterator[tuple[ray.ObjectRef, str, list[str]]]:
    """Each block, its case and its problems, while others are read: a bucket that is silent is waited for only once."""
    task, at_once = ray.remote(num_cpus=0)(case_and_problems), resources()[1]
    # one group after the other: Ray starts a process for every waiting task that needs no CPU
    while group := list(islice(blocks, at_once)):
        for block, (case, problems) in zip(group, ray.get([task.remote(block) for block in group]), strict=True):
            yield block, case, _answered(problems)


def _name(dtype: torch.dtype) -> str:
    """Such as "float16"."""
    return str(dtype).removeprefix("torch.")
