"""Patch features in Ray's object store: read once per study through Ray Data, shared by all its trials."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import Tensor

from survq.data.batch import BagsByDtype
from survq.data.cohort import Cohort
from survq.data.feature_store import case_of_row, read_case
from survq.data.half_floats import as_tensor
from survq.ray_session import quiet_data_context, ray, resources


class SharedBags(BagsByDtype):
    """case id -> (patch, feature): read-only views of the node's shared memory, fetched on first access.

    A node holds one copy of a bag, in each of `dtypes`, for all its trials.
    """

    def __init__(self, blocks: dict[str, ray.ObjectRef], dtypes: tuple[torch.dtype, ...]):
        self.dtypes = dtypes
        self._blocks = blocks

    def of(self, dtype: torch.dtype) -> SharedBags:
        chosen = dtype if dtype in self.dtypes else torch.float16
        if chosen not in self.dtypes:
            raise KeyError(f"the features are shared as {self.dtypes}, and not as {dtype}")
        return SharedBags(self._blocks, (chosen,))

    def __getitem__(self, case_id: str) -> Tensor:
        block = ray.get(self._blocks[case_id])
        features = np.frombuffer(block[_name(self.dtypes[0])][0].as_buffer(), np.int16)
        return as_tensor(features.reshape(block["patches"][0].as_py(), -1), self.dtypes[0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)


def share_bags(cohort: Cohort, dtypes: Collection[torch.dtype] = (torch.float16,)) -> SharedBags:
    """Read all slides of a cohort on all nodes; the bag of a case is the concatenation of its slides.

    Features are verified by the store's checksums, and converted from float16 to each of `dtypes`.
    """
    kept = tuple(sorted(dtypes, key=_name, reverse=True))  # float16 first
    columns = ("file", "row_group", "slide_id", "patches", "width", "sha256")
    by_case = [
        {"case_id": case, "slides": json.dumps([{name: row[name] for name in columns} for row in rows])}
        for case, rows in cohort.slides_by_case.items()
    ]
    if not by_case:
        return SharedBags({}, kept)
    with quiet_data_context(target_max_block_size=1):  # one block per row, hence one object per case
        tasks = min(len(by_case), 4 * resources()[1])
        cases = ray.data.from_items(by_case, override_num_blocks=tasks)
        settings = {"folder": cohort.features, "dtypes": [_name(dtype) for dtype in kept]}
        read = cases.map_batches(read_case, batch_size=1, batch_format="pyarrow", fn_kwargs=settings).materialize()
    blocks = [block for bundle in read.iter_internal_ref_bundles() for block in bundle.block_refs]
    case_of = ray.remote(case_of_row)  # block order is not guaranteed
    names = ray.get([case_of.remote(block) for block in blocks])
    return SharedBags(dict(zip(names, blocks, strict=True)), kept)


def _name(dtype: torch.dtype) -> str:
    """Such as "float16"."""
    return str(dtype).removeprefix("torch.")
