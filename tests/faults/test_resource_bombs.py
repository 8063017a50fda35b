"""Small files that expand without end are refused within ten seconds of CPU and a gigabyte of memory."""

from __future__ import annotations

import gzip
import io
import multiprocessing
import os
import resource
import sys
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from desk import SURVPATH, Desk, copied
from inputs import IDS

from survq.cli import main

MEMORY, SECONDS = 1 << 30, 10


def gzipped(first: str, again: bytes, times: int) -> bytes:
    """A gzip file of `first` and `again`, repeated: equal members behind each other are one file."""
    return gzip.compress(first.encode()) + gzip.compress(again) * times


def workbook(last_row: int) -> bytes:
    """A sheet of three rows, of which the last one has this number."""
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in (["case_id", "survival_months_dss", "censorship_dss"], ["A", 3, 0], ["B", 4, 1]):
        book.active.append(row)
    book.save(file)
    changed = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("sheet1.xml"):
                content = content.replace(b'"A1:C3"', b'"A1:XFD%d"' % last_row).replace(b'r="3"', b'r="%d"' % last_row)
                content = content.replace(b'"A3"', b'"A%d"' % last_row).replace(b'"B3"', b'"B%d"' % last_row)
            new.writestr(name, content.replace(b'"C3"', b'"C%d"' % last_row))
    return changed.getvalue()


def zipped(megabytes: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("t.csv", "w") as to:
        to.write(SURVPATH.encode())
        for _ in range(megabytes):
            to.write(b"A,x,3,0\n" * (1 << 17))
    return file.getvalue()


def parquet(desk: Desk, name: str) -> list[str]:
    """Rows that take no space in the file."""
    pq.write_table(pa.table({"case_id": pa.nulls(2 * 10**8), "time": pa.nulls(2 * 10**8)}), f"{desk.data}/C/{name}")
    return desk.check()


def npz(desk: Desk) -> list[str]:
    """Coordinates of slide2vec that state a trillion patches."""
    import feature_tools

    slide = "TCGA-AA-0001-01Z-00-DX1"
    ones = np.ones((3, 8), np.float32)
    feature_tools.slide2vec(desk.folder / "features", slide, ones, np.zeros((3, 2), int))
    (file,) = (desk.folder / "features/tiles").glob("*.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("x", "y"):
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(64))
    return desk.features("--cases", desk.write("slides.csv", f"slide_id,case_id\n{slide},{IDS[0]}\n"))


BOMBS = {
    "a gzip of one endless cell": lambda d: d.labels(gzipped(SURVPATH, b"A" * (1 << 24), 200)),
    "a zip of endless rows": lambda d: d.labels(zipped(400)),
    "a gzip with an endless header": lambda d: [
        *("import", "expression", d.write("e.tsv", gzipped("g", b"\tA" * (1 << 23), 400)), d.data, "--cohort", "C")
    ],
    "a workbook with row 1,000,000,000": lambda d: d.labels(workbook(10**9)),
    "a Parquet table of 200,000,000 rows": lambda d: parquet(d, "cases.parquet"),
    "a Parquet table of splits": lambda d: parquet(d, "splits.parquet"),
    "coordinates of a trillion patches": npz,
}


def limited(arguments: list[str], output: Path) -> None:
    """Run a command with limits, and end with its exit code."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    sys.stdout = sys.stderr = output.open("w")
    code = main(arguments)
    sys.stderr.flush()
    os._exit(code if sum(os.times()[:2]) < SECONDS else 99)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux only")
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_in_time_and_within_the_memory(bomb, template, tmp_path, tree):
    desk = copied(template, tmp_path / "desk")
    arguments = bomb(desk)
    before, output = tree(desk.folder), tmp_path / "output"
    process = multiprocessing.get_context("fork").Process(target=limited, args=(arguments, output))
    process.start()
    process.join(120)
    assert process.exitcode == 65, output.read_text()[-2000:]
    assert "Fix: " in output.read_text()
    assert tree(desk.folder) == before
