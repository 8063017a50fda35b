"""Patch features in Ray's object store: read once per study through Ray Data, shared by all its trials."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from survq.data.cohort import Cohort
from survq.data.feature_store import case_of_row, read_case
from survq.ray_session import quiet_data_context, ray, resources


class SharedBags(Mapping[str, Tensor]):
    """case id -> (patch, feature), float16: read-only views of the node's shared memory, fetched on first access.

    A node holds one copy of a bag for all its trials.
    """

    def __init__(self, blocks: dict[str, ray.ObjectRef]):
        self._blocks = blocks

    def __getitem__(self, case_id: str) -> Tensor:
        block = ray.get(self._blocks[case_id])
        features = np.frombuffer(block["features"][0].as_buffer(), np.float16)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(features.reshape(block["patches"][0].as_py(), -1))

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)


def share_bags(cohort: Cohort) -> SharedBags:
    """Read all slides of a cohort on all nodes; the bag of a case is the concatenation of its slides.

    Features are verified by the store's checksums.
    """
    columns = ("file", "row_group", "slide_id", "patches", "width", "sha256")
    by_case = [
        {"case_id": case, "slides": json.dumps([{name: row[name] for name in columns} for row in rows])}
        for case, rows in cohort.slides_by_case.items()
    ]
    if not by_case:
        return SharedBags({})
    with quiet_data_context(target_max_block_size=1):  # one block per row, hence one object per case
        tasks = min(len(by_case), 4 * resources()[1])
        cases = ray.data.from_items(by_case, override_num_blocks=tasks)
        read = cases.map_batches(read_case, batch_size=1, batch_format="pyarrow", fn_kwargs={"folder": cohort.features})
        read = read.materialize()
    blocks = [block for bundle in read.iter_internal_ref_bundles() for block in bundle.block_refs]
    case_of = ray.remote(case_of_row)  # block order is not guaranteed
    names = ray.get([case_of.remote(block) for block in blocks])
    return SharedBags(dict(zip(names, blocks, strict=True)))
