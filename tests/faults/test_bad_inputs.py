"""The 51 bad inputs of the reliability design: each is refused, or read with a note, as this table states.

A refused input leaves every file below the desk as it was: data folder and results are hashed before and after. Nothing
here starts Ray, because refusals come before it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from desk import SURVPATH, Desk, copied, run
from inputs import (
    GOOD,
    IDS,
    bags,
    cell,
    changed,
    damaged,
    few_times,
    first_slide,
    half,
    in_study,
    infinities,
    matrix,
    pickled,
    put,
    split,
    stored,
    tsv,
)

from survq.training.config import TrainConfig


@dataclass(frozen=True)
class Bad:
    number: int  # as in the design
    what: str
    given: Callable[[Desk], list[str]]
    code: int  # 0: read, with a note
    says: str  # a regular expression

    def __str__(self) -> str:
        return f"{self.number}-{self.what}"


CASE_ID = "expected printable text that starts with a letter or digit"

CLINICAL = [
    Bad(1, "no column of times", lambda d: d.labels("A,x,1\n", header="case_id,slide_id,censorship_dss\n"), 65, "Fix:"),
    Bad(
        1,
        "stated column, misspelt",
        lambda d: d.labels(
            "A,3,1\n",
            *("--case-column", "id", "--time-column", "months", "--time-unit", "months", "--event-column", "dead"),
            header="id,month,dead\n",
        ),
        65,
        r"lacks the columns 'months'; .*Fix: rename 'month'",
    ),
    Bad(
        1, "no case id in a stored table", lambda d: changed(d, "cases", lambda t: t.drop(columns="time")), 65, "lacks"
    ),
    Bad(2, "empty file", lambda d: d.labels(b""), 65, "labels.csv: is empty"),
    Bad(2, "header only", lambda d: d.labels(""), 65, "has a header but no rows"),
    Bad(3, "blank time", lambda d: d.labels(GOOD + "X,SX,,1\n"), 0, "excluded, no time: 1, 'X'"),
    Bad(3, "stored time NaN", lambda d: changed(d, "cases", put("time", np.nan)), 65, "'CASE-03': time nan; expected"),
    Bad(4, "negative time", lambda d: d.labels(GOOD + "X,SX,-3,1\n"), 0, "excluded, time is below 0: 1, 'X'"),
    Bad(4, "stored time negative", lambda d: changed(d, "cases", put("time", -1.0)), 65, "expected months above 0"),
    Bad(5, "time zero", lambda d: d.labels(GOOD + "X,SX,0,1\n"), 0, "excluded, time is 0: 1, 'X'"),
    Bad(6, "time with its unit", lambda d: d.labels("A,x,12 months,0\n"), 65, "labels.csv:2: .* '12 months'; expected"),
    Bad(6, "time with a comma", lambda d: d.labels('A,x,"1,204",0\n'), 65, "labels.csv:2: .* '1,204'; expected a num"),
    Bad(7, "days for months", lambda d: changed(d, "cases", lambda t: t.assign(time=t["time"] * 300)), 0, "in days?"),
    Bad(8, "blank event", lambda d: d.labels(GOOD + "X,SX,5,\n"), 0, "excluded, no event status: 1, 'X'"),
    Bad(8, "stored event NaN", lambda d: changed(d, "cases", put("event", None)), 65, "'CASE-03': no event status"),
    Bad(9, "event as words", lambda d: d.labels("A,x,3,Dead\n"), 65, "'Dead'; expected '0' .* state the coding"),
    Bad(9, "event as true", lambda d: d.labels("A,x,3,True\n"), 65, "'True'; expected '0' for an event"),
    Bad(10, "events 1 and 2", lambda d: d.labels("A,x,3,1\nB,x,4,2\n"), 65, "labels.csv:3: .* '2'; expected '0'"),
    Bad(11, "flipped events", lambda d: changed(d, "cases", lambda t: t.assign(event=True)), 0, "coding reversed?"),
    Bad(12, "all censored", lambda d: d.labels("A,x,3,1\nB,x,4,1\n"), 65, "no case has an event; .*coding is reversed"),
    Bad(
        13,
        "one event, at the last time",
        lambda d: in_study(d, lambda t: t.assign(event=t["time"] == t["time"].max()), "--folds", "2"),
        65,
        "2 folds of 24 cases with 1 events cannot be made",
    ),
    Bad(14, "equal rows of a case", lambda d: d.labels(GOOD + GOOD), 0, "NEW: 24 cases, 12 events"),
    Bad(
        14, "stored twice", lambda d: changed(d, "cases", lambda t: pd.concat([t, t[:1]])), 65, "listed more than once"
    ),
    Bad(15, "unequal rows of a case", lambda d: d.labels("A,x,3,0\nA,y,4,0\n"), 65, "3.0 in line 2, 4.0 in line 3"),
    Bad(16, "a case in two folds", lambda d: d.splits(*split(IDS[:12], IDS[11:])), 65, "'CASE-11' are held out in two"),
    Bad(
        17,
        "slides of a case in training and held out",
        lambda d: d.splits(",train,val\n0,TCGA-AA-0001-01Z,TCGA-AA-0001-02Z\n1,CASE-00,CASE-01\n"),
        65,
        "'TCGA-AA-0001' are (listed more than once|both training and held-out)",
    ),
    Bad(
        18,
        "two samples of one patient",
        lambda d: changed(d, "cases", lambda t: t.assign(case_id=["TCGA-AA-0001-01A", "TCGA-AA-0001-06A", *IDS[2:]])),
        65,
        "'TCGA-AA-0001-01A', 'TCGA-AA-0001-06A' are one patient",
    ),
    Bad(19, "fold without events", lambda d: d.splits(*split(IDS[0:22:2], IDS[1::2])), 65, "none of its 11 held-out"),
    Bad(20, "more folds than events", lambda d: d.study("--folds", "20"), 65, "20 folds of 24 cases with 12 events"),
    Bad(21, "too few times of death", lambda d: in_study(d, few_times, "--folds", "2"), 65, "too few for 4 time inter"),
    Bad(22, "UTF-16", lambda d: d.labels((SURVPATH + GOOD).encode("utf-16")), 0, "NEW: 24 cases, 12 events"),
    Bad(22, "not text", lambda d: d.labels(b"\xff\x00\xfe\x80\x81" * 99), 65, "labels.csv: .*Fix:"),
    Bad(22, "byte order mark", lambda d: d.labels(b"\xef\xbb\xbf" + (SURVPATH + GOOD).encode()), 0, "NEW: 24 cases"),
    Bad(
        23,
        "unknown separator",
        lambda d: d.labels((SURVPATH + GOOD).replace(",", "^").encode()),
        65,
        "has one column, .*Fix: save it as CSV",
    ),
    Bad(23, "semicolons", lambda d: d.labels((SURVPATH + GOOD).replace(",", ";").encode()), 0, "NEW: 24 cases, 12 ev"),
    Bad(
        24, "ids of other case", lambda d: d.expression(tsv(matrix().rename(str.lower))), 65, "none of its rows or col"
    ),
    Bad(24, "blanks behind ids", lambda d: d.labels(GOOD.replace(",S", "  ,S")), 0, "NEW: 24 cases, 12 events"),
    Bad(24, "ids as dates", lambda d: d.splits(",train,val\n0,1-Sep,2-Sep\n"), 65, "none of its 2 ids .*'1-Sep'"),
    Bad(25, "id with a path", lambda d: d.labels("../../etc/x,x,3,0\n"), 65, rf"'\.\./\.\./etc/x'; {CASE_ID}"),
    Bad(25, "id with a line break", lambda d: d.labels('"A\nB",x,3,0\n'), 65, rf"'A\\nB'; {CASE_ID}"),
    Bad(25, "id with NUL", lambda d: d.labels("A\0B,x,3,0\n"), 65, "labels.csv: is not text. Fix:"),
    Bad(25, "id of 300 letters", lambda d: d.labels("A" * 300 + ",x,3,0\n"), 65, CASE_ID),
    Bad(
        25, "cohort with a path", lambda d: [*d.labels(GOOD)[:-1], "../x"], 65, "'../x' cannot be the name of a cohort"
    ),
]

EXPRESSION = [
    Bad(
        26, "a gene twice", lambda d: d.expression(tsv(pd.concat([matrix().T, matrix().T[:1]]))), 0, "1 genes have sev"
    ),
    Bad(
        27, "a case twice", lambda d: d.expression(tsv(pd.concat([matrix(), matrix()[:1]]))), 0, "1 cases have several"
    ),
    Bad(28, "transposed", lambda d: d.expression(tsv(matrix().T)), 0, "C: expression of 24 cases, 6 of the"),
    Bad(29, "counts", lambda d: d.expression(tsv(matrix() * 1000)), 0, "not on a log scale, or outliers"),
    Bad(30, "blank value", lambda d: cell(d, None), 65, "expression.tsv: gene 'B': not a finite number for 'CASE-00'"),
    Bad(30, "only blanks", lambda d: d.expression(tsv(matrix() * np.nan)), 65, "no gene has a finite number for"),
    Bad(
        31, "both infinities", lambda d: d.expression(tsv(matrix(infinities))), 65, "gene 'B': not a finite number for"
    ),
    Bad(31, "infinite value", lambda d: cell(d, "inf"), 65, "'B'.*'CASE-00'|not a finite number"),
    Bad(31, "text for a value", lambda d: cell(d, "high"), 65, "'high'"),
    Bad(
        32,
        "constant gene",
        lambda d: d.expression(tsv(matrix(lambda t: t.__setitem__("B", 3)))),
        0,
        "same value in all",
    ),
    Bad(33, "gene as a date", lambda d: d.expression(tsv(matrix().rename(columns={"B": "1-Sep"}))), 0, "1 of the"),
    Bad(
        34,
        "Ensembl ids",
        lambda d: d.expression(tsv(matrix().set_axis([f"ENSG{n:011}" for n in range(6)], axis=1))),
        65,
        "--gene-map",
    ),
    Bad(34, "no gene in common", lambda d: d.expression(tsv(matrix().add_prefix("x"))), 65, "has none of the 6 genes"),
    Bad(35, "low coverage", lambda d: d.expression(tsv(matrix().drop(columns="B"))), 0, "covers 1 of 2 pathways"),
    Bad(
        36,
        "cases without expression",
        lambda d: d.expression(tsv(matrix()[:20])),
        0,
        "4 cases of the cohort are not in",
    ),
]

PATHWAYS = [
    Bad(37, "blanks for tabs", lambda d: d.pathways("first A B C\n"), 65, "sets.gmt:1: .*tabs between them"),
    Bad(
        38,
        "no gene measured",
        lambda d: (d.write("data/pathways.gmt", "x\t\tY\tZ\n"), d.check())[1],
        65,
        "has no gene of",
    ),
    Bad(39, "a name twice", lambda d: d.pathways("s\t\tA\nt\t\tB\ns\t\tC\n"), 65, "sets.gmt:3: .*'s' is already above"),
    Bad(40, "a gene twice", lambda d: d.pathways("s\t\tA\tA\tB\nt\t\tC\tD\tE\tF\n"), 0, "6 genes, 2 to 4 per set"),
    Bad(40, "no sets", lambda d: d.pathways("\n\n"), 65, "holds no gene sets"),
]

FEATURES = [
    Bad(
        41, "two widths", lambda d: bags(d, half((3, 8)), half((3, 6))), 65, "are of uni_v1, 6 wide; those of .* 8 wide"
    ),
    Bad(
        41, "two widths stored", lambda d: stored(d, features=half((3, 6))), 65, r"mixed feature widths: 8 \(24 slides"
    ),
    Bad(
        42,
        "two encoders",
        lambda d: bags(d, half((3, 8)), half((3, 8), 1), encoders=("uni_v1", "gigapath")),
        65,
        "are of gigapath, 8 wide; those of",
    ),
    Bad(42, "two encoders stored", lambda d: stored(d, encoder="gigapath"), 65, "mixed patch encoders: .*gigapath"),
    Bad(43, "whole numbers", lambda d: bags(d, np.ones((3, 8), np.int64)), 65, "type int64; expected one of float16"),
    Bad(44, "no patches", lambda d: bags(d, half((0, 8))), 65, "holds no patches: no tissue was found"),
    Bad(44, "no patches stored", lambda d: stored(d, features=half((0, 8))), 65, "slides without patches: 'new'"),
    Bad(
        45,
        "NaN stored",
        lambda d: stored(d, features=half((3, 8)) * np.float16(np.nan)),
        65,
        "slide 'new': features that are not fin",
    ),
    Bad(
        46,
        "fewer coordinates",
        lambda d: (d.h5(IDS[0], half((3, 8)), coords=np.zeros((2, 2), int)), bags(d))[1],
        65,
        r"\(2, 2\) for 3 patches",
    ),
    Bad(46, "fewer coordinates stored", lambda d: stored(d, coordinates=np.zeros((2, 2), np.int32)), 65, "coordinates"),
    Bad(
        47,
        "pickle",
        lambda d: pickled(d, f"{IDS[0]}-01Z-00-DX1.pkl"),
        65,
        "is a pickle, which survq never loads. Fix: save",
    ),
    Bad(
        47,
        "pickle as pt",
        lambda d: pickled(d, f"{IDS[0]}-01Z-00-DX1.pt"),
        65,
        "was not written by torch.save, or is tr",
    ),
    Bad(48, "truncated slide", lambda d: damaged(d, f"features/{first_slide(d)}"), 65, "features.*cannot be read"),
    Bad(48, "truncated table", lambda d: damaged(d, "expression.parquet"), 65, "expression.parquet: cannot be read"),
    Bad(48, "no folder of features", lambda d: d.features(), 66, "features: no such folder"),
    Bad(
        48, "other files only", lambda d: (d.write("features/notes.txt", "x"), d.features())[1], 65, "holds no features"
    ),
]


def settings(**given: object) -> Callable[[Desk], list[str]]:
    """Settings that no flag gives: a study of one's own."""

    def refused(desk: Desk) -> list[str]:
        with pytest.raises(ValueError) as error:
            TrainConfig(**given)
        assert error.value.exit_code == 64
        return ["say", str(error.value)]

    return refused


CONFIGURATION = [
    Bad(49, "unknown flag", lambda d: d.study("--epoch", "3"), 2, "--epochs"),
    Bad(
        49,
        "unknown model",
        lambda d: d.study("--model", "survk", name="search"),
        2,
        "'survk' is unknown; expected one of",
    ),
    Bad(
        49,
        "unknown hyperparameter",
        settings(hyperparameters={"widht": 3}),
        64,
        "no hyperparameter 'widht'; perhaps 'width'",
    ),
    Bad(50, "learning rate 0", settings(learning_rate=0.0), 64, "learning_rate is 0.0; expected above 0 and at most 1"),
    Bad(50, "learning rate 2", settings(learning_rate=2.0), 64, "learning_rate is 2.0; expected above 0 and at most 1"),
    Bad(50, "epochs 0", lambda d: d.study("--epochs", "0"), 2, "--epochs is 0; expected 1 or more"),
    Bad(50, "one interval", settings(intervals=1), 64, "intervals is 1; expected 2 or more"),
    Bad(50, "trials -1", lambda d: d.study("--trials", "-1", name="search"), 2, "--trials is -1; expected 1 or more"),
    Bad(
        51,
        "a file of settings",
        lambda d: d.study("--config", d.write("c.yaml", "a: &a [1]\nb: [*a, *a]\n")),
        2,
        "--config",
    ),
]

BAD = [*CLINICAL, *EXPRESSION, *PATHWAYS, *FEATURES, *CONFIGURATION]


@pytest.mark.filterwarnings("error")  # a warning of NumPy or pandas would be printed above the message
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_input_is_refused_or_noted(bad, template, tmp_path, tree, capsys):
    desk = copied(template, tmp_path / "desk")
    arguments = bad.given(desk)
    before = tree(desk.folder)
    code, printed = run(arguments, capsys) if arguments[0] != "say" else (64, arguments[1])
    assert code == bad.code, printed
    assert re.search(bad.says, printed), printed
    if code:
        assert tree(desk.folder) == before
        assert "Traceback" not in printed and len(printed) < 3000
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


def test_all_51_are_in_the_table():
    assert {bad.number for bad in BAD} == set(range(1, 52))
    assert len({str(bad) for bad in BAD}) == len(BAD)
