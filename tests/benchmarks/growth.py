"""How the cost of an epoch grows with each size, the others small and fixed; and whether memory grows with the cohort.

An exponent of 1 is linear, 0 is flat.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from survq.data.feature_store import read_slides, slide_index
from survq.data.location import Location
from survq.data.write import Slide, write_features
from survq.training.loop import train_folds
from survq.training.queue import Grid, RunQueue
from survq.training.results import Results
from survq.training.run import Run

from .measure import GIVE_BACK, Row, at_most, cpu_seconds, exponent, in_a_fresh_process, peak_growth
from .work import CPU, FEATURES, SIZES, Work, make_run, make_work

WHAT = ("patches", "cases", "queries", "pathways", "folds", "trials")
MOST = 1.1  # linear, and what measuring adds


def growth(quick: bool) -> list[Row]:
    """The sizes are measured in turn, and the whole of it again; of each the smallest cost is taken."""
    small = {"sizes": SIZES[::8]}
    tables = {
        "patches": _table((1500, 3000, 6000, 12_000), lambda n: _fold(make_work(2, n, **small, tiny=6))),
        "cases": _table((16, 32, 64), lambda n: _fold(make_work(n, 150, **small, tiny=2))),
        "queries": _table(
            (75, 150, 300, 600), lambda n: _fold(make_work(2, 3000, **small, tiny=6), histology_queries=n)
        ),
        "pathways": _table((83, 166, 331, 662), lambda n: _fold(make_work(8, 100, sizes=_pathways(n), tiny=2))),
        "folds": _table((1, 2, 4), _folds),
        "trials": _table((1, 2, 4, 8), _trials),
    }
    rows = []
    for name, costs in tables.items():
        found: dict[int, float] = {}
        for _ in range(1 if quick else 2):
            for size, cost in costs.items():
                found[size] = min(found.get(size, float("inf")), cost())
        note = "; ".join(f"{size:,} {name}: {seconds:.2f} s" for size, seconds in found.items())
        rows.append(at_most(f"growth_{name}", exponent(list(found), list(found.values())), MOST, "exponent", note))
    return rows


def memory(quick: bool) -> list[Row]:
    """Features are read from the store when they are needed, as where they do not fit; batches of 8."""
    sizes = (16, 48) if quick else (16, 48, 144)
    peaks = [in_a_fresh_process("growth", size, environment=GIVE_BACK)["growth"] / 2**20 for size in sizes]
    note = "; ".join(f"{size} cases: {peak:.0f} MiB" for size, peak in zip(sizes, peaks, strict=True))
    return [at_most("growth_memory", exponent(sizes, peaks), 0.1, "exponent of peak memory over cases", note)]


def _table(sizes: Sequence[int], prepare: Callable[[int], Callable[[], float]]) -> dict[int, Callable[[], float]]:
    return {size: prepare(size) for size in sizes}


def _pathways(count: int) -> list[int]:
    """As many gene counts, distributed as the 331 are."""
    return [(SIZES * 2)[at * len(SIZES) // count] if count <= len(SIZES) else (SIZES * 2)[at] for at in range(count)]


def _fold(work: Work, **hyperparameters) -> Callable[[], float]:
    run = make_run(work, work.one_fold(), epochs=2, **hyperparameters)
    return lambda: _epoch_seconds(run, work)


def _folds(k: int) -> Callable[[], float]:
    """Of which each trains on the same cases: what k folds share is read only once, and that is not what costs."""
    work = make_work(8, 300, sizes=SIZES[::8], tiny=2)
    (fold,) = work.one_fold()
    folds = [type(fold)(0, index, fold.training, fold.validation) for index in range(k)]
    run = make_run(work, folds, epochs=2)
    return lambda: _epoch_seconds(run, work)


def _epoch_seconds(run: Run, work: Work) -> float:
    """CPU seconds of an epoch after the first."""
    marks: list[float] = []
    train_folds(run, work.cohort, work.bags, device=CPU, on_epoch=lambda _: marks.append(time.process_time()))
    return marks[-1] - marks[-2]


def _trials(count: int) -> Callable[[], float]:
    """From the schedule to the records on disk."""
    work = make_work(8, 200, sizes=SIZES[::8], tiny=2)
    runs = [make_run(work, work.one_fold(), epochs=1, histology_queries=100 + trial) for trial in range(count)]

    def study(folder: str) -> None:
        queue = RunQueue(Grid(runs), Results(Path(folder)), {work.cohort.name: work.cohort})
        while (run := queue.take()) is not None:
            queue.end(run, train_folds(run, work.cohort, work.bags, device=CPU))

    def cost() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return cpu_seconds(lambda: study(folder))

    return cost


class Streamed(Mapping[str, Tensor]):
    """Bags that are read from the store whenever they are asked for."""

    def __init__(self, store: Location):
        self.store = store
        self.row = {row["case_id"]: row for row in slide_index(store).to_dict("records")}

    def __getitem__(self, case_id: str) -> Tensor:
        return torch.from_numpy(read_slides(self.store, [self.row[case_id]]).copy())

    def __iter__(self) -> Iterator[str]:
        return iter(self.row)

    def __len__(self) -> int:
        return len(self.row)


def _peak(cases: int, patches: int = 500) -> float:
    work = make_work(cases, patches, sizes=SIZES[::8])
    random = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        slides = (
            Slide(case, case, torch.randn(patches, FEATURES, generator=random).half().numpy()) for case in work.case_ids
        )
        write_features(Path(folder), slides)
        bags = Streamed(Location.at(folder))
        warm = make_work(8, 16, sizes=SIZES[::8])
        train_folds(make_run(warm, warm.one_fold(), epochs=1), warm.cohort, warm.bags, device=CPU)
        run = make_run(work, work.one_fold(held_out=8), epochs=2, batch_size=8)
        return peak_growth(lambda: train_folds(run, work.cohort, bags, device=CPU))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"growth": _peak(int(sys.argv[1]))}))
