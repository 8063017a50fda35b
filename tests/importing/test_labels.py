"""Clinical tables: outcomes by column name, never by position; censorship becomes event; no case is lost silently."""

import pandas as pd
import pytest

from survq.data.problems import DataError
from survq.importing.labels import read_labels
from survq.importing.outcomes import Columns

HEADER = "case_id,slide_id,site,age,months,censored"
COLUMNS = Columns("stated", "case_id", ("months",), "censored", "months", event=("0",), censored=("1",))
GOOD = "A,A-1,NA,60,12.5,0\nA,A-2,NA,60.0,12.50,0\nB,B-1,S2,,3,1\n"


def read(tmp_path, rows, header=HEADER, columns=COLUMNS, name="labels.csv", **options):
    file = tmp_path / name
    file.write_bytes(rows if isinstance(rows, bytes) else f"{header}\n{rows}".encode())
    return read_labels(file, columns=columns, **options)


def test_one_row_per_case_and_censorship_becomes_event(tmp_path):
    labels = read(tmp_path, GOOD)
    expected = pd.DataFrame(
        {"time": [12.5, 3.0], "event": [True, False], "site": ["NA", "S2"], "age": [60.0, float("nan")]},
        index=pd.Index(["A", "B"], name="case_id"),
    )
    pd.testing.assert_frame_equal(labels.cases, expected)
    assert not labels.dropped


def test_cases_without_an_outcome_are_excluded_with_a_reason(tmp_path):
    labels = read(
        tmp_path, GOOD + "C,C-1,S,5,0,1\nD,D-1,S,5,,1\nE,E-1,S,5,[Not Available],0\nF,F-1,S,5,2,NA\nG,G-1,S,5,-3,0\n"
    )
    assert list(labels.cases.index) == ["A", "B"]
    assert labels.dropped == {
        "C": "time is 0",
        "D": "no time",
        "E": "no time",
        "F": "no event status",
        "G": "time is below 0",
    }
    assert labels.case_ids == set("ABCDEFG")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("A,A-1,S,1,12 months,0", "labels.csv:2: months '12 months'; expected a number"),
        ('A,A-1,S,1,"1,204",0', "labels.csv:2: months '1,204'; expected a number"),
        ("A,A-1,S,1,inf,0", "labels.csv:2: months 'inf'; expected a number"),
        ("A,A-1,S,1,3,2", "labels.csv:2: censored '2'; expected '0' for an event, '1' for a censored case"),
        ("A,A-1,S,1,3,Dead", "labels.csv:2: censored 'Dead'; expected '0' for an event"),
        ("A,A-1,S,1,3,1\nA,A-2,S,1,4,1", "case 'A': months is 3.0 in line 2, 4.0 in line 3. Fix: make its rows agree"),
        ("A,A-1,S,1,3,1\nA,A-2,S,1,3,0", "case 'A': censored is False in line 2, True in line 3"),
        ("A,A-1,S,1,3,1\nA,A-2,T,1,3,1", "case 'A': site is 'S' in line 2, 'T' in line 3"),
        ("../../x,A-1,S,1,3,1", "labels.csv:2: case id '../../x'; expected printable text"),
        ("=1+1,A-1,S,1,3,1", "labels.csv:2: case id '=1+1'; expected printable text"),
        ('"A\nB",A-1,S,1,3,1', r"case id 'A\nB'; expected printable text"),
        (",A-1,S,1,3,1", "labels.csv:2: case id ''; expected printable text"),
        ("A,A-1,S,1,3", "labels.csv:2: 5 cells; the header has 6"),
        ("", "has a header but no rows"),
        (b"", "labels.csv: is empty"),
        ("caf\xe9,months\n".encode("latin-1"), "is not UTF-8 text"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"case_id,site,age,month,censored\nA,S,1,3,1\n", "lacks the columns 'months'"),
        (b"case_id,site,age,month,censored\nA,S,1,3,1\n", "Fix: rename 'month'"),
        (b"case_id,site,age,months,months,censored\n", "columns listed more than once: 'months'"),
    ],
)
def test_bad_tables_are_refused_with_place_and_fix(tmp_path, rows, message):
    with pytest.raises(DataError) as error:
        read(tmp_path, rows)
    assert message in str(error.value)


def test_all_problems_are_listed_at_once(tmp_path):
    with pytest.raises(DataError) as error:
        read(tmp_path, "A,A-1,S,1,y,-3\nB,B-1,S,1,x,0\nC,C-1,S,1,3,1\nC,C-2,S,1,4,1")
    assert len(error.value.problems) == 4, error.value.problems


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    rows = ("\ufeff" + HEADER + "\r\nA,A-1,S,1,3,0\r\n").encode()
    assert read(tmp_path, rows).cases.loc["A", "event"]


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_labels(tmp_path / "absent.csv")
