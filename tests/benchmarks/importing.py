"""`survq import features` against copying what it writes with plain pyarrow, and whether its memory grows with slides.

The source is 200 files of half floats that lie in one piece, as `torch.save` and HDF5 without chunks leave them: 64 to
30,000 patches x 1024, each length as likely as its double. Files that are chunked by single patches (TRIDENT's) or of
single floats (CLAM's) take longer by nature; what they reach stands beside, without a bar.

pyarrow reads and writes again what the import wrote, once as it comes and once told not to look for statistics, which
takes most of its time; the bar is for the first. It does not wait for the disk, as the import does.

Speed is by the clock, for both: tasks are many processes. Ray is up before, and disks are idle when a turn begins.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import torch

from survq.data.write import write_cohort
from survq.importing.patch_features import import_features
from survq.ray_session import connect

from .measure import Row, at_least, at_most, exponent, in_a_fresh_process

FEATURES = 1024


def speed(quick: bool) -> list[Row]:
    found = in_a_fresh_process("importing", "speed", 40 if quick else 200, 1 if quick else 3)
    rows = []
    for kind, ours in found["ours"].items():
        ratios = [one["clock"] / other["clock"] for one, other in zip(ours, found["theirs"], strict=True)]
        middle = statistics.median(turn["clock"] for turn in ours)
        cpu = statistics.median(turn["cpu"] for turn in ours)
        note = (
            f"{middle:.0f} MB/s, {cpu:.0f} MB a CPU second; {len(ratios)} pairs, {min(ratios):.2g} to {max(ratios):.2g}"
        )
        value, unit = statistics.median(ratios), "x plain pyarrow"
        if kind == "tensor":
            for name, turns in (("pyarrow", found["theirs"]), ("without statistics and dictionary", found["tuned"])):
                clock, their_cpu = (statistics.median(turn[what] for turn in turns) for what in ("clock", "cpu"))
                note += f"; {name} {clock:.0f} MB/s, {their_cpu:.0f} MB a CPU second"
            note += f"; {found['gigabytes']:.2f} GB"
            rows.append(at_least("import_speed", value, 0.5, unit, note))
        else:
            rows.append(Row(f"import_{kind}", value, unit, note=note))
    return rows


def memory(quick: bool) -> list[Row]:
    sizes = (25, 100) if quick else (25, 50, 100, 200)
    peaks = in_a_fresh_process("importing", "memory", *sizes)["peaks"]
    note = "; ".join(f"{size} slides: {peak:.0f} MB" for size, peak in zip(sizes, peaks, strict=True))
    return [at_most("import_memory", exponent(sizes, peaks), 0.15, "exponent of peak memory over slides", note)]


def _bag(patches: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((patches, FEATURES), np.float32).astype(np.float16)


def _tensor(file: Path, features: np.ndarray) -> None:
    torch.save(torch.from_numpy(features), file.with_suffix(".pt"))


def _trident(file: Path, features: np.ndarray) -> None:
    with h5py.File(file.with_suffix(".h5"), "w") as store:
        store.create_dataset("features", data=features, chunks=(1, FEATURES), maxshape=(None, FEATURES))
        places = np.arange(2 * len(features)).reshape(-1, 2)
        store.create_dataset("coords", data=places, chunks=(1, 2)).attrs["patch_size_level0"] = 448


def _clam(file: Path, features: np.ndarray) -> None:
    with h5py.File(file.with_suffix(".h5"), "w") as store:
        chunks = (min(32, len(features)), FEATURES)
        store.create_dataset("features", data=features.astype(np.float32), chunks=chunks, maxshape=(None, FEATURES))
        store["coords"] = np.arange(2 * len(features), dtype=np.int32).reshape(-1, 2)


KINDS: dict[str, Callable[[Path, np.ndarray], None]] = {"tensor": _tensor, "trident": _trident, "clam": _clam}


def _source(folder: Path, write: Callable[[Path, np.ndarray], None], lengths: list[int]) -> Path:
    folder.mkdir(parents=True)
    for number, patches in enumerate(lengths):
        write(folder / f"TCGA-AA-{number:04d}-01Z-00-DX1.X", _bag(patches, number))
    return folder


def _data(folder: Path, count: int) -> Path:
    ids = pd.Index([f"TCGA-AA-{number:04d}" for number in range(count)], name="case_id")
    write_cohort(folder, "X", cases=pd.DataFrame({"time": 9.0, "event": True}, index=ids))
    return folder


def _import(source: Path, data: Path) -> Path:
    imported = import_features(source, data, "X", encoder="uni")
    assert {result.state for result in imported.results} == {"written"}
    return data / "X/features"


def _copy(store: Path, to: Path, **options: object) -> None:
    to.mkdir()
    for file in store.glob("*.parquet"):
        pq.write_table(pq.read_table(file), to / file.name, **options)


TUNED = {"compression": "none", "use_dictionary": False, "write_statistics": False}
"""What makes pyarrow fast: by itself it looks for the smallest and largest of values of megabytes."""


def _turn(do: Callable[[], object], megabytes: float) -> dict[str, float]:
    """MB a second, and a CPU second of all processes."""
    os.sync()
    cpu, start = _cpu(), time.perf_counter()
    do()
    return {"clock": megabytes / (time.perf_counter() - start), "cpu": megabytes / (_cpu() - cpu)}


def _family() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def _cpu() -> float:
    seconds = 0.0
    for process in _family():
        with suppress(psutil.Error):
            seconds += sum(process.cpu_times()[:2])
    return seconds


def _measure_speed(folder: Path, count: int, rounds: int) -> dict:
    lengths = [int(length) for length in np.geomspace(64, 30_000, count)]
    megabytes = sum(lengths) * FEATURES * 2 / 1e6
    connect()
    _import(_source(folder / "warm", _tensor, [64] * 8), _data(folder / "warm-data", 8))
    found: dict = {"ours": {}, "theirs": [], "tuned": [], "gigabytes": megabytes / 1e3}
    for kind, write in KINDS.items():
        source = _source(folder / kind, write, lengths)
        for turn in range(rounds):
            data = _data(folder / f"{kind}-{turn}", count)
            store = data / "X/features"
            ours = _turn(partial(_import, source, data), megabytes)
            found["ours"].setdefault(kind, []).append(ours)
            if kind == "tensor":
                for name, options in (("theirs", {}), ("tuned", TUNED)):
                    copy = partial(_copy, store, folder / "copy", **options)
                    found[name].append(_turn(copy, megabytes))
                    shutil.rmtree(folder / "copy")
            shutil.rmtree(data)
        shutil.rmtree(source)
    return found


def _measure_memory(folder: Path, sizes: list[int], patches: int = 4000) -> dict:
    connect()
    _import(_source(folder / "warm", _tensor, [patches] * 8), _data(folder / "warm-data", 8))
    peaks = []
    for size in sizes:
        source, data = _source(folder / f"{size}", _tensor, [patches] * size), _data(folder / f"{size}-data", size)
        peaks.append(_peak(partial(_import, source, data)))
        shutil.rmtree(source)
        shutil.rmtree(data)
    return {"peaks": peaks}


def _peak(do: Callable[[], object]) -> float:
    """The most memory, in MB, that this process and those that do its tasks had for themselves at one time."""
    over, most = threading.Event(), [0.0]

    def watch() -> None:
        while not over.wait(0.05):
            total = 0.0
            for process in _family():
                with suppress(psutil.Error):
                    if process.pid == os.getpid() or process.name().startswith("ray::"):
                        total += process.memory_full_info().uss
            most[0] = max(most[0], total / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        do()
    finally:
        over.set()
        watcher.join()
    return most[0]


if __name__ == "__main__":
    what, *numbers = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        if what == "speed":
            found = _measure_speed(Path(folder), *map(int, numbers))
        else:
            found = _measure_memory(Path(folder), [int(number) for number in numbers])
    print(json.dumps(found))
