"""Letters with marks have two spellings in Unicode; tables that spell an id differently are joined all the same."""

import unicodedata

import openpyxl
import pandas as pd
import pytest
from csv_files import write_csv

from survq.cli import main
from survq.data.cohort import Cohort

IDS = [f"Präparat-{number:02d}" for number in range(12)]


def spelt(form: str) -> list[str]:
    return [unicodedata.normalize(form, case) for case in IDS]


def labels(file, ids: list[str]) -> list[str]:
    rows = [["id", "days", "status"], *([case, 90 + 10 * n, n % 2] for n, case in enumerate(ids))]
    if file.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(file)
    else:
        write_csv(file, rows)
    columns = ["--case-column", "id", "--time-column", "days", "--time-unit", "days", "--event-column", "status"]
    return ["import", "labels", str(file), str(file.parent / "data"), "--cohort", "X", *columns]


@pytest.mark.parametrize("of_labels", ["NFC", "NFD"])
@pytest.mark.parametrize("of_expression", ["NFC", "NFD"])
@pytest.mark.parametrize("genes", ["rows", "columns"])
@pytest.mark.parametrize("ending", ["csv", "xlsx"])
def test_ids_in_either_spelling_are_joined(tmp_path, of_labels, of_expression, genes, ending):
    assert main(labels(tmp_path / f"labels.{ending}", spelt(of_labels))) == 0
    (tmp_path / "sets.gmt").write_text("ONE\tx\tTP53\tEGFR\nTWO\tx\tKRAS\tBRAF\n")
    assert main(["import", "pathways", str(tmp_path / "sets.gmt"), str(tmp_path / "data")]) == 0
    table = pd.DataFrame(
        [[number + 0.5 * gene for gene in range(4)] for number in range(12)],
        index=spelt(of_expression),
        columns=["TP53", "EGFR", "KRAS", "BRAF"],
    )
    (table.T if genes == "rows" else table).to_csv(tmp_path / "expression.csv")
    command = ["import", "expression", str(tmp_path / "expression.csv"), str(tmp_path / "data"), "--cohort", "X"]
    assert main(command) == 0
    cohort = Cohort.load(tmp_path / "data", "X")
    assert list(cohort.cases.index) == IDS and cohort.has_expression.all()
