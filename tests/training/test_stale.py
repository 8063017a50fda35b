"""After a change of a data folder, the finished runs that read the change are stale; the others are found."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from survq.data.cohort import Cohort
from survq.data.folds import given_folds, make_folds
from survq.data.write import Slide, write_cohort
from survq.evaluation.epochs import Epoch
from survq.models import MODELS, SurvivalModel
from survq.training.config import TrainConfig
from survq.training.loop import RunOutcome
from survq.training.queue import Grid, RunQueue
from survq.training.results import Results
from survq.training.run import Run


class Genes(SurvivalModel):
    reads = frozenset({"genomics"})
    gene_sets = ("pathways",)


class Patches(SurvivalModel):
    reads = frozenset({"histology"})


READERS = {"genes": Genes, "patches": Patches, "survq": MODELS["survq"]}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name, kind in READERS.items():
        monkeypatch.setitem(MODELS, name, kind)


@pytest.fixture
def study(small, tmp_path):
    """study(change) -> the messages of a queue about finished runs of each model, after a change of the data folder."""

    def queue(model: str) -> RunQueue:
        cohort = Cohort.load(tmp_path / "data", "X")
        folds = tuple(given_folds(cohort.splits, list(cohort.cases.index)))
        return RunQueue(
            Grid([Run("X", TrainConfig(model), folds)]), Results(tmp_path / model), {"X": cohort}, [messages]
        )

    messages = Messages()
    write_cohort(tmp_path / "data", "X", **small)
    for model in READERS:
        work = queue(model)
        work.end(work.take(), outcome_of(work.cohorts["X"]))

    def study(change: Callable[[dict, Path], None]) -> dict[str, str | None]:
        """Per model: None if its run is found, else the changed part."""
        change(small, tmp_path / "data")
        found = {}
        for model in READERS:
            messages.lines.clear()
            work = queue(model)
            found[model] = (
                messages.lines[0].split("was trained with different ")[1].split(";")[0] if work.has_work() else None
            )
        return found

    return study


class Messages:
    """A monitor that keeps messages."""

    def __init__(self):
        self.lines: list[str] = []

    def notify(self, text: str) -> None:
        self.lines.append(text)

    def __getattr__(self, name):
        return lambda *_, **__: None


def outcome_of(cohort: Cohort) -> RunOutcome:
    """The RunOutcome of a run that was not trained: only its record matters here."""
    tables = [
        cohort.cases.loc[list(fold.validation), ["time", "event"]].assign(repeat=0, fold=fold.index)
        for fold in given_folds(cohort.splits, list(cohort.cases.index))
    ]
    predictions = pd.concat(tables).reset_index()
    predictions["risk"] = np.random.default_rng(0).normal(size=len(predictions))
    return RunOutcome("finished", [Epoch(1, [1.0], [1.0], [0.5])], predictions)


def rewrite(part: str, change: Callable) -> Callable[[dict, Path], None]:
    def write(small: dict, folder: Path) -> None:
        write_cohort(folder, "X", **(small | {part: change(small[part])}))

    return write


def a_gene_set(small: dict, folder: Path) -> None:
    (folder / "gene_sets").mkdir(exist_ok=True)
    (folder / "gene_sets/unread.gmt").write_text("first\t\tA\tB\n")


def another_pathway(small: dict, folder: Path) -> None:
    file = folder / "pathways.gmt"
    file.write_text(file.read_text() + "third\t\tE\tF\n")


def a_slide(slides: list[Slide]) -> list[Slide]:
    return [*slides, replace(slides[0], slide_id=f"{slides[0].case_id}-DX9")]


def another_value(expression: pd.DataFrame) -> pd.DataFrame:
    return expression.assign(A=expression["A"].where(np.arange(len(expression)) != 3, 9.5))


def moved(splits: pd.DataFrame) -> pd.DataFrame:
    splits = splits.copy()
    one = (
        (splits["case_id"] == "CASE-03") & (splits["fold"] == 0),
        (splits["case_id"] == "CASE-03") & (splits["fold"] == 1),
    )
    for rows, role in zip(one, ("training", "validation"), strict=True):
        splits.loc[rows, "role"] = role
    return splits


CHANGES = {
    "nothing": (lambda small, folder: None, {}),
    "an unused gene set": (a_gene_set, {}),
    "a column of labels": (rewrite("cases", lambda cases: cases.assign(age=60.0)), {}),
    "a site": (rewrite("cases", lambda cases: cases.assign(site="S")), {}),
    "another order of cases": (rewrite("cases", lambda cases: cases.iloc[::-1]), {}),
    "another slide": (rewrite("slides", a_slide), {"patches": "features", "survq": "features"}),
    "a value of expression": (rewrite("expression", another_value), {"genes": "expression", "survq": "expression"}),
    "another pathway": (another_pathway, {"genes": "gene set pathways", "survq": "gene set pathways"}),
    "a case moved to another fold": (rewrite("splits", moved), dict.fromkeys(READERS, "folds")),
    "a survival time": (rewrite("cases", lambda c: c.assign(time=c["time"] + 1)), dict.fromkeys(READERS, "cases")),
}


@pytest.mark.parametrize(("change", "stale"), CHANGES.values(), ids=CHANGES)
def test_only_runs_that_read_a_change_are_stale_and_the_message_names_it(study, change, stale):
    assert study(change) == dict.fromkeys(READERS) | stale


def test_changed_code_is_reported_by_its_module(study, monkeypatch):
    from survq.training import run as module

    def edited(model: str) -> dict[str, str]:
        return original(model) | ({"survq.layers.attention": "edited"} if model == "survq" else {})

    original = module.code_of
    monkeypatch.setattr(module, "code_of", edited)
    assert study(lambda small, folder: None) == dict.fromkeys(READERS) | {"survq": "code of survq.layers.attention"}


def test_requested_folds_change_the_description_of_a_run(small, tmp_path):
    write_cohort(tmp_path, "X", **small)
    cohort = Cohort.load(tmp_path, "X")
    one, other = (Run("X", TrainConfig(), tuple(make_folds(cohort.cases, k))) for k in (2, 3))
    assert one.path == other.path and one.describe(cohort.parts) != other.describe(cohort.parts)
