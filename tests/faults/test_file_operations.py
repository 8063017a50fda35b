"""Every open, write, fsync, rename, unlink of store, books, checkpoints and results fails once, in Python and C++."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ALWAYS = [(command, errno.ENOSPC) for command in ("store", "results", "labels")]
OTHERS = [
    *(("checkpoints", error) for error in (errno.ENOSPC, errno.EIO)),
    *((command, errno.ENOSPC) for command in ("labels anew", "expression", "splits", "pathways")),
    *((command, errno.ENOSPC) for command in ("survpath", "survpath anew")),
    *((command, errno.EIO) for command in ("store", "results", "labels", "expression", "splits", "pathways")),
    *((command, errno.EIO) for command in ("survpath", "survpath anew")),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    if not sys.platform.startswith("linux"):
        pytest.skip("LD_PRELOAD is of Linux")
    library = tmp_path_factory.mktemp("library") / "failing_files.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "failing_files.c", "-ldl"], check=True)
    return library


@pytest.mark.parametrize(
    ("command", "error"),
    [*ALWAYS, *(pytest.param(*other, marks=pytest.mark.faults) for other in OTHERS)],
    ids=lambda value: errno.errorcode.get(value, value),
)
def test_no_failing_operation_leaves_anything_half_written(library, small_survpath, tmp_path, command, error):
    """And the same command mends it."""
    (folder := tmp_path / "swept").mkdir()
    done = subprocess.run(
        [sys.executable, str(HERE / "sweep.py"), command, str(error), str(folder), str(small_survpath)],
        env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    print(command, outcome)
    assert outcome["operations"] > 10 and {"open", "write", "fsync", "rename"} <= set(outcome["failed"])
    assert outcome["codes"].get("74", 0) > 5
