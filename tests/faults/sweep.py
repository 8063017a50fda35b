"""Run a command again and again, each time with another file operation that fails; started by test_file_operations.py.

    LD_PRELOAD=failing_files.so python sweep.py COMMAND ERRNO FOLDER

Prints the number of operations, and those that failed by name. Any other outcome than the promised one raises.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from survq.cli import main
from survq.data.write import Slide, write_features
from survq.exits import exit_on_user_error
from survq.training.results import Results

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE.parent / "training")]

from writers import CONFIG, PATH, save  # noqa: E402

LIBRARY = ctypes.CDLL(None)
LIBRARY.failed.restype = ctypes.c_char_p
PROMISED = (0, 65, 74)  # done all the same, an input that cannot be read, a file that cannot be written


def imports(source: Path) -> dict[str, list[str]]:
    labels = source / "datasets_csv/metadata/tcga_blca.csv"
    expression = source / "datasets_csv/raw_rna_data/xena/blca/rna_clean.csv"
    signatures = source / "datasets_csv/metadata/combine_signatures.csv"
    return {
        "survpath": ["survpath", str(source)],
        "labels": ["labels", str(labels), "--cohort", "BLCA"],
        "expression": ["expression", str(expression), "--cohort", "BLCA"],
        "splits": ["splits", str(source / "splits/5foldcv/tcga_blca"), "--cohort", "BLCA"],
        "pathways": ["pathways", str(signatures)],
    }


def slides(value: float) -> list[Slide]:
    features = np.full((5, 8), value, np.float16)
    return [Slide(f"S{number}", "TCGA-AA-0000", features, encoder="uni") for number in range(2)]


def as_program(act: Callable[[], object]) -> int:
    """The exit code of a program that does this."""
    try:
        with exit_on_user_error():
            act()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def study(folder: Path, seed: int) -> None:
    """A study with one finished run, of another configuration or of this one."""
    results = Results(folder / "study")
    config = CONFIG | {"model": f"survq-{seed}"}
    with results.lock():
        if results.find(PATH, config, notify=lambda line: None) is None:
            results.checkpoints(PATH, config)
            save(results, seed=seed, config=config, weights=b"w" * 9999)
            results.remove_checkpoints(PATH)


class Interrupted(Exception):
    pass


def train(folder: Path, epochs: int) -> None:
    """Train a run from its last checkpoint, with a checkpoint after each epoch, until it is interrupted."""
    from small_cohort import CPU, make_cohort, make_run

    from survq.training.checkpoints import Checkpoints
    from survq.training.loop import train_folds

    def on_epoch(epoch) -> None:
        if epoch.epoch > epochs:
            raise Interrupted

    cohort, bags = make_cohort()
    with contextlib.suppress(Interrupted):
        train_folds(
            make_run(cohort, k=2, epochs=3),
            cohort,
            bags,
            device=CPU,
            on_epoch=on_epoch,
            checkpoints=Checkpoints(folder, 0),
        )


def command(name: str, source: Path, data: Path) -> tuple[Callable[[], object], Callable[[], int]]:
    """What a folder held before, and a command that changes it and returns its exit code."""
    if name == "store":
        return lambda: write_features(data, slides(1)), lambda: as_program(lambda: write_features(data, slides(2)))
    if name == "results":
        return lambda: study(data, 1), lambda: as_program(lambda: study(data, 2))
    if name == "checkpoints":
        return lambda: train(data, 1), lambda: as_program(lambda: train(data, 2))
    if name == "simulate":
        return lambda: None, lambda: main(["simulate", str(data), "--cases", "30", "--name", "S"])
    what, *given = imports(source)[name.removesuffix(" anew")]
    arguments = ["import", what, *given[:1], str(data), *given[1:]]

    def before() -> None:
        if not name.endswith(" anew"):
            main(["import", "survpath", str(source), str(data)])
            for table in source.rglob("*.csv"):
                table.write_text(table.read_text().replace("10.5", "11.5").replace("G1,0.5", "G1,0.75"))

    return before, lambda: main(arguments)


def tree(folder: Path, hidden: bool = True) -> dict[str, str]:
    """Hashes of the visible files; with `hidden`, of all. Runs that were set aside are kept under hidden names."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (hidden or not any(part.startswith(".") for part in path.relative_to(folder).parts))
    }


def sweep(name: str, error: int, folder: Path, source: Path) -> dict:
    data, template = folder / "data", folder / "template"
    data.mkdir()
    before, run = command(name, source, data)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        before()
        shutil.copytree(data, template)
        old = tree(data, hidden=False)
        LIBRARY.fail_at(str(data).encode(), 0, error)
        assert run() == 0
        total = LIBRARY.operations()
        LIBRARY.fail_at(b"", 0, 0)
        new, failed, codes = tree(data), Counter(), Counter()
        visible = tree(data, hidden=False)
        for number in range(1, total + 1):
            shutil.rmtree(data)
            shutil.copytree(template, data)
            LIBRARY.fail_at(str(data).encode(), number, error)
            code = run()
            failed[LIBRARY.failed().decode()] += 1
            LIBRARY.fail_at(b"", 0, 0)
            where = f"{name}: operation {number} of {total}, {LIBRARY.failed().decode()}"
            assert code in PROMISED, f"{where}: exit code {code}"
            for path, content in tree(data, hidden=False).items():
                assert content in (old.get(path), visible.get(path)), f"{where}: {path} is half-written"
            # an older checkpoint that could not be removed is never used again
            same = dict.__eq__ if name != "checkpoints" else lambda now, then: then.items() <= now.items()
            assert code or same(tree(data, hidden=False), visible), f"{where}: exit code 0, and something is missing"
            assert run() == 0, f"{where}: the same command does not mend it"
            again = tree(data)
            assert same(again, new) or (name == "results" and tree(data, hidden=False) == visible), where
            codes[code] += 1
    assert "Traceback" not in said.getvalue()
    return {"operations": total, "failed": failed, "codes": codes}


if __name__ == "__main__":
    print(json.dumps(sweep(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))))
