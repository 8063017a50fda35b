"""Any table that pandas' and R's writers write comes back value by value, or is refused: never another row's value."""

import csv
import io
import itertools
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from survq.data.problems import DataError
from survq.importing.expression import read_expression
from survq.importing.gene_set_files import read_file
from survq.importing.labels import read_labels
from survq.importing.outcomes import Columns
from survq.importing.splits import read_splits

DEEP = int(os.environ.get("SURVQ_EXAMPLES", 0))
"""Examples to draw anew, to search for longer than a suite may take."""

quick = settings(
    max_examples=DEEP or 60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=not DEEP
)

GENES = ["TP53", "BRCA1", "HLA-A", "NKX2-1", "KRAS", "C1orf112"]
PLAIN = st.from_regex(r"P[0-9]{1,3}|CASE-[A-Z][0-9]|TCGA-[A-Z0-9]{2}-[0-9]{4}", fullmatch=True)
NUMBER = st.integers(0, 12).map(str)
ODD = st.text(st.sampled_from("aZ0 ,;|'\"\t#é.-_"), min_size=1, max_size=8).map(lambda text: f"x{text}".strip())
IDS = st.one_of(*(st.lists(ids, min_size=2, max_size=6, unique=True) for ids in (PLAIN, NUMBER, ODD)))

SEPARATORS, LINE_ENDS = [",", "\t", ";", "|", " "], ["\n", "\r\n", "\r"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "latin-1"]
QUOTES = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_NONE]


@st.composite
def by_pandas(draw, frame: pd.DataFrame) -> tuple[bytes, bool]:
    """A table as pandas writes it, and whether it may not be refused. The index of `frame` holds the ids."""
    separator, encoding = draw(st.sampled_from(SEPARATORS)), draw(st.sampled_from(ENCODINGS))
    quoting, decimal = draw(st.sampled_from(QUOTES)), draw(st.sampled_from([".", ".", ","]))
    if draw(st.booleans()):
        frame = frame.reset_index(names=draw(st.sampled_from(["case_id", "patient", "sample"])))
        options = {"index": draw(st.booleans())}  # of numbers
    else:
        options = {"index": True, "index_label": draw(st.sampled_from(["case_id", "sample", "", "x"]))}
    assume(decimal != separator)
    try:
        text = frame.to_csv(
            sep=separator,
            lineterminator=draw(st.sampled_from(LINE_ENDS)),
            quoting=quoting,
            decimal=decimal,
            float_format=draw(st.sampled_from([None, "%.3f", "%.6e"])),
            **options,
        )
        content = text.encode(encoding)
    except (csv.Error, UnicodeEncodeError):
        assume(False)
    named = options.get("index_label", "case_id") in ("case_id", "sample")
    return content, decimal == "." and named and separator != " " and encoding != "latin-1"


@st.composite
def by_r(draw, frame: pd.DataFrame) -> tuple[bytes, bool]:
    """A table as R's write.table, write.csv and write.csv2 write it."""
    separator = draw(st.sampled_from([" ", "\t", ",", ";"]))
    decimal = draw(st.sampled_from([".", ","])) if separator == ";" else "."
    quoted, doubled = draw(st.booleans()), draw(st.booleans())

    def cell(value: object) -> str:
        if isinstance(value, float | int | np.number):
            return f"{value:.15g}".replace(".", decimal)
        text = str(value).replace('"', '""' if doubled else '\\"')
        return f'"{text}"' if quoted else str(value)

    row_names = draw(st.sampled_from(["ids", "numbers", "none"]))
    header = [cell(name) for name in frame.columns]
    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False)]
    if row_names != "ids":
        header = [cell(draw(st.sampled_from(["case_id", "patient"]))), *header]
        rows = [[cell(name), *row] for name, row in zip(frame.index, rows, strict=True)]
    if row_names != "none":
        names = frame.index if row_names == "ids" else map(str, range(1, len(rows) + 1))
        rows = [[cell(name), *row] for name, row in zip(names, rows, strict=True)]
        if draw(st.booleans()):  # col.names = NA, and write.csv
            header = [cell(""), *header]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = "".join(separator.join(row) + end for row in [header, *rows])
    return text.encode(draw(st.sampled_from(["utf-8", "utf-16"]))), False


def written(frame: pd.DataFrame) -> st.SearchStrategy:
    return st.one_of(by_pandas(frame), by_r(frame))


def plain(ids) -> bool:
    return all(name.isascii() and name.replace("-", "").isalnum() and not name.isdigit() for name in ids)


def in_file(content: bytes, name: str = "t.csv") -> Path:
    folder = Path(tempfile.mkdtemp(dir=FOLDER))
    (folder / name).write_bytes(content)
    return folder / name


FOLDER = tempfile.mkdtemp()


def floats(draw, shape) -> np.ndarray:
    values = draw(st.lists(st.integers(-9999, 9999), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(values).reshape(shape) / 1000


@quick
@given(st.data())
def test_expression(data):
    ids = data.draw(IDS)
    genes = data.draw(st.permutations(GENES))[: data.draw(st.integers(1, 5))]
    frame = pd.DataFrame(floats(data.draw, (len(ids), len(genes))), index=ids, columns=genes)
    cohort = data.draw(st.permutations([*ids, "P9999", "0"]))[: len(ids) + 1]
    if data.draw(st.booleans()):  # a number that may look like an id
        frame.insert(0, "AGE", data.draw(st.lists(st.integers(0, 12), min_size=len(ids), max_size=len(ids))))
    transposed = data.draw(st.booleans())
    content, readable = data.draw(written(frame.drop(columns="AGE", errors="ignore").T if transposed else frame))
    try:
        read = read_expression(in_file(content), cohort, wanted=set(genes)).values
    except DataError:
        assert not (readable and plain(ids) and set(cohort) & set(ids))
        return
    assert set(read.index) == {name for name in cohort if name in ids}
    assert set(read.columns) == set(genes)
    expected = frame.loc[read.index, read.columns].to_numpy(np.float64)
    np.testing.assert_allclose(read.to_numpy(), expected, atol=2e-3, rtol=1e-5)


@quick
@given(st.data())
def test_labels(data):
    ids = data.draw(IDS)
    times = data.draw(st.lists(st.integers(1, 9999), min_size=len(ids), max_size=len(ids)))
    frame = pd.DataFrame({"months": np.array(times) / 100, "dead": [n % 2 for n in range(len(ids))]}, index=ids)
    content, readable = data.draw(written(frame))
    cases = None
    for column in ("case_id", "patient", "sample", "x", ""):  # the one that holds the ids: "" may hold row numbers
        columns = Columns("stated", column, ("months",), "dead", "months", event=("1",), censored=("0",))
        try:
            cases = read_labels(in_file(content), columns=columns).cases
            break
        except DataError:
            continue
    if cases is None:
        assert not (readable and plain(ids))
        return
    if column == "" and set(cases.index) <= {str(n) for n in range(len(ids) + 1)}:
        return  # row numbers were stated to be the ids
    assert set(cases.index) == set(ids)
    np.testing.assert_allclose(cases["time"], frame.loc[cases.index, "months"], atol=2e-3)
    assert (cases["event"] == (frame.loc[cases.index, "dead"] == 1)).all()


@quick
@given(st.data())
def test_splits(data):
    ids = data.draw(st.lists(PLAIN, min_size=3, max_size=6, unique=True))
    cut = data.draw(st.integers(1, len(ids) - 1))
    columns = {"train": pd.Series(ids[:cut]), "val": pd.Series(ids[cut:])}
    blank = data.draw(st.sampled_from(["", "NA", "nan", "'--"]))
    text = io.StringIO()
    pd.DataFrame(columns).to_csv(
        text,
        sep=data.draw(st.sampled_from(SEPARATORS[:4])),
        na_rep=blank,
        index=data.draw(st.booleans()),
        lineterminator=data.draw(st.sampled_from(LINE_ENDS)),
        quoting=data.draw(st.sampled_from(QUOTES[:3])),
    )
    file = in_file(text.getvalue().encode(data.draw(st.sampled_from(ENCODINGS))), "splits_0.csv")
    table = read_splits(file.parent).table
    assert set(table.loc[table["role"] == "training", "case_id"]) == set(ids[:cut])
    assert set(table.loc[table["role"] == "validation", "case_id"]) == set(ids[cut:])


NAMES = ["HALLMARK_A", "Cell cycle", "R-HSA-1", "Signaling by WNT", "DNA repair (1)", "p53 pathway", "WNT", "EMT"]


@quick
@given(st.data())
def test_gene_sets(data):
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    members = [data.draw(st.lists(st.sampled_from(GENES), min_size=1, max_size=5, unique=True)) for _ in names]
    shape = data.draw(st.sampled_from(["columns", "rows", "pairs", "gmt", "matrix"]))
    frames = {
        "columns": pd.DataFrame(dict(zip(names, map(pd.Series, members), strict=True))),
        "rows": pd.DataFrame([[name, *genes] for name, genes in zip(names, members, strict=True)]),
        "gmt": pd.DataFrame([[name, "http://x", *genes] for name, genes in zip(names, members, strict=True)]),
        "pairs": pd.DataFrame(
            [(name, gene) for name, genes in zip(names, members, strict=True) for gene in genes],
            columns=["Pathway", "Gene"],
        ),
        "matrix": pd.DataFrame(
            [[gene, *(int(gene in genes) for genes in members)] for gene in sorted(set(itertools.chain(*members)))],
            columns=["gene", *names],
        ),
    }
    text = frames[shape].to_csv(
        sep="\t" if shape == "gmt" else data.draw(st.sampled_from(SEPARATORS[:3])),
        na_rep=data.draw(st.sampled_from(["", "NA", "nan"])),
        index=shape != "gmt" and data.draw(st.booleans()),
        header=shape not in ("gmt", "rows"),
        lineterminator=data.draw(st.sampled_from(LINE_ENDS)),
        quoting=data.draw(st.sampled_from(QUOTES[:3])),
    )
    file = in_file(text.encode(), "t.gmt" if shape == "gmt" else "t.csv")
    try:
        sets = read_file(file, known=GENES if data.draw(st.booleans()) else ())
    except DataError:
        assert shape not in ("gmt", "pairs")
        return
    read = {name: set(genes) for name, genes in zip(sets.names, sets.genes, strict=True)}
    assert read == {name: set(genes) for name, genes in zip(names, members, strict=True)}


CELLS = [
    *["case_id", "m", "d", "TP53", "KRAS", "P1", "P2", "1", "2", "0", "1.5", "NA", "", "#", "train", "val", "sample"],
    *[
        "TCGA-A1-0001",
        "TCGA-A1-0001-11",
        "gene",
        "SET_A",
        '"',
        "é",
        "inf",
        "-",
        "1e999",
        "x y",
        "sample_type",
        "CDE_ID:1",
    ],
]
STATED = Columns("stated", "case_id", ("m",), "d", "months", event=("1",), censored=("0",))
READERS = [
    lambda file: read_labels(file, columns=STATED),
    lambda file: read_expression(file, ["P1", "P2", "1", "2", "TCGA-A1-0001"]),
    read_file,
    lambda file: read_splits(file.parent),
]


@quick
@given(
    st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=4), max_size=5),
    st.sampled_from(SEPARATORS),
    st.sampled_from(LINE_ENDS),
    st.sampled_from(ENCODINGS),
    st.sampled_from(READERS),
)
def test_nothing_but_a_sentence_comes_of_any_cells(rows, separator, end, encoding, read):
    text = "".join(separator.join(row) + end for row in rows)
    try:
        read(in_file(text.encode(encoding), "splits_0.csv"))
    except DataError as error:
        assert all(len(problem) < 600 for problem in error.problems)
