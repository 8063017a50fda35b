"""Fixtures for all tests: the real tables (where they lie beside the repository), a small cohort, a small SurvPath."""

import hashlib
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import jaxtyping
import numpy as np
import pandas as pd
import pytest
from csv_files import write_csv

from survq.data.gene_sets import GeneSets
from survq.data.write import Slide

RAY = "tests/distributed/"
WHOLE_TRAININGS = tuple(
    f"tests/{part}" for part in ("training/", "tuning/", "science/", "test_compare_models.py", "test_paper_studies.py")
)
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per process: tests run side by side, and models are small


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start Ray: they take longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(RAY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """With `pytest -n`, a process runs all tests of a file, and one runs all tests that start Ray, so that there is
    one cluster at a time.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return RAY if nodeid.startswith(RAY) else nodeid.partition("::")[0]

    return ByFile(config, log)


@pytest.fixture(scope="module", autouse=True)
def shapes_unchecked_in_whole_trainings(request):
    """Tests of whole trainings call the same functions thousands of times, and checks of shapes would take a quarter of
    their time. The tests of models, layers and metrics check them.
    """
    whole = request.node.nodeid.startswith(WHOLE_TRAININGS)
    jaxtyping.config.update("jaxtyping_disable", whole)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real tables for development. They are not part of the repository."""
    if not (REAL / "survpath").is_dir():
        pytest.skip(f"no real data in {REAL}")
    return REAL


@pytest.fixture(scope="session")
def real_folder(real_data, tmp_path_factory) -> Path:
    """BLCA and COADREAD as a data folder."""
    from survq.importing.survpath import import_survpath

    folder = tmp_path_factory.mktemp("real")
    import_survpath(real_data / "survpath", folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A data folder with a simulated cohort TINY, of 60 cases."""
    from survq.simulation.data_folder import write_simulated

    folder = tmp_path_factory.mktemp("tiny")
    write_simulated(folder, "demo", cases=60, name="TINY")
    return folder


@pytest.fixture
def small() -> dict:
    """What write_cohort needs for 24 cases, two of them without slides and one without expression."""
    random = np.random.default_rng(0)
    ids = [f"CASE-{number:02d}" for number in range(24)]
    index = pd.Index(ids, name="case_id")
    cases = pd.DataFrame(
        {
            "time": random.exponential(30, 24) + 0.5,
            "event": np.arange(24) % 2 == 0,
            "site": [f"S{number % 6}" for number in range(24)],
        },
        index=index,
    )
    genes = list("ABCDEFGH")
    expression = pd.DataFrame(random.normal(5, 2, (24, 8)).astype(np.float32), index=index, columns=genes)
    slides = [
        Slide(
            slide_id=f"{case}-DX{slide}",
            case_id=case,
            features=random.normal(size=(3 + number % 4, 16)).astype(np.float16),
            coordinates=random.integers(0, 9999, (3 + number % 4, 2)).astype(np.int32),
            patch_size=448,
            magnification=40.0,
            encoder="uni",
        )
        for number, case in enumerate(ids[2:])
        for slide in range(1 + number % 2)
    ]
    splits = pd.DataFrame(
        [
            (0, fold, case, "validation" if number % 3 == fold else "training")
            for fold in range(3)
            for number, case in enumerate(ids)
        ],
        columns=["repeat", "fold", "case_id", "role"],
    )
    return {
        "cases": cases,
        "expression": expression.drop(index="CASE-23"),
        "slides": slides,
        "splits": splits,
        "dropped": pd.DataFrame({"case_id": ["CASE-99"], "reason": ["no time"]}),
        "gene_sets": {
            "pathways": GeneSets(("first/part", "second", "unmeasured"), (("A", "B", "C"), ("D",), ("X", "Y"))),
            "groups": GeneSets(("half", "unmeasured"), (("B", "H", "X", "Y"), ("Z",))),
        },
    }


@pytest.fixture
def small_survpath(tmp_path) -> Path:
    """A SurvPath folder with a cohort of 12 cases; every third has two slides."""
    source = tmp_path / "SurvPath"
    cases = [f"TCGA-{site}-{number:04d}" for number, site in enumerate(["AA", "BB", "NA"] * 4)]
    labels = [["", "case_id", "slide_id", "age", "site", "survival_months_dss", "censorship_dss", "is_female"]]
    for number, case in enumerate(cases):
        for slide in range(1 + (number % 3 == 0)):
            row = [f"{case}-01Z-00-DX{slide}.svs", 50 + number, case[5:7], 1.5 + number, number % 2, 1]
            labels.append([len(labels) - 1, case, *row])
    write_csv(source / "datasets_csv/metadata/tcga_blca.csv", labels)
    expression = [["", "G1", "G2", "HLA-A"], *([case, number, 0.5, -number] for number, case in enumerate(cases))]
    write_csv(source / "datasets_csv/raw_rna_data/xena/blca/rna_clean.csv", expression)
    write_csv(source / "datasets_csv/metadata/combine_signatures.csv", [["p/1", "p 2"], ["G1", "HLA-A"], ["G2", ""]])
    for fold in range(3):
        held_out = [case for number, case in enumerate(cases) if number // 2 % 3 == fold]
        training = [case for case in cases if case not in held_out]
        padded = held_out + [""] * (len(training) - len(held_out))
        rows = [[number, *row] for number, row in enumerate(zip(training, padded, strict=True))]
        write_csv(source / f"splits/5foldcv/tcga_blca/splits_{fold}.csv", [["", "train", "val"], *rows])
    return source


@pytest.fixture
def tree():
    """tree(folder): every path below it with a hash of its content, to see that nothing was written."""

    def tree(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            for path in sorted(folder.rglob("*"))
        }

    return tree


@pytest.fixture
def sigint():
    """SIGINT as in the foreground, here and in child processes: a suite started with `&` inherits it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def run_here():
    """run_here(queue, bags): what the queue hands out is done in this process, one run after another, without Ray."""
    from survq.training.loop import train_folds

    class Stopped(Exception):
        pass

    def run_here(queue, bags: dict) -> None:
        while (run := queue.take()) is not None:

            def on_epoch(epoch, run=run):
                if queue.epoch(run, epoch):
                    raise Stopped

            with suppress(Stopped):
                cohort, keep = queue.cohorts[run.cohort], run.keep_weights
                queue.end(run, train_folds(run, cohort, bags[run.cohort], on_epoch=on_epoch, keep_weights=keep))

    return run_here


@pytest.fixture(scope="session")
def pathway_sizes() -> list[int]:
    """Numbers of genes of the 331 pathways that the paper and its kin use."""
    return json.loads((Path(__file__).parent / "goldens" / "pathway_sizes.json").read_text())
