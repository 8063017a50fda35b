"""The ten security checks of the reliability design, where no other test has them. Each was seen to fail on a plant.

A: tests/distributed/test_ray_session.py   B: tests/distributed/test_token.py   C: tests/test_cluster.py
D: tests/test_architecture.py, tests/importing/test_malformed_features.py, tests/training/test_ensemble.py
E: also tests/data/test_feature_store.py   F: tests/reporting/test_report.py   H: tests/distributed/test_studies.py
I: tests/test_lock_file.py   J: tests/faults/test_resource_bombs.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
from desk import copied, run
from inputs import IDS, bags, half, slides_table, split

from survq.data.location import Location, csv_bytes
from survq.training.results import Results

FORMULAS = ["=1+1", "+1+1", "-1+cmd", "@SUM(A1)", "\t=1", "\r=1", "a\r=1"]
"""What a spreadsheet runs when somebody opens the table."""


# G: CSV formulas


def starts_a_formula(cell: str) -> bool:
    if cell[:1] not in tuple("=+-@\t\r") or cell == "-":
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def formulas(folder: Path) -> list[str]:
    """The cells of all CSV files in which a spreadsheet sees a formula."""
    found = []
    for file in folder.rglob("*.csv"):
        with file.open(newline="") as stream:
            found += [f"{file.name}: {cell!r}" for row in csv.reader(stream) for cell in row if starts_a_formula(cell)]
    return found


def test_names_from_users_files_are_never_formulas_in_a_table(template, tmp_path, capsys):
    """Ids without a label, names of gene sets and of files end in tables that people open."""
    desk = copied(template, tmp_path / "desk")
    splits = split(IDS[:12], IDS[12:], training=[*IDS, *FORMULAS[:4]])
    assert run(desk.splits(*splits), capsys)[0] == 0
    assert run(desk.pathways("".join(f"{name}\t\tA\tB\n" for name in FORMULAS[:4])), capsys)[0] == 0
    bags(desk, half((3, 8)))
    for name in FORMULAS[:4]:
        desk.write(f"features/{name}.pt", "not a tensor")
    table = desk.write("slides.csv", slides_table())
    (desk.folder / "features" / f"{IDS[0]}-01Z-00-DX1.h5").unlink()  # so that no slide is left, and Ray does not start
    assert run(desk.features("--cases", table), capsys)[0] == 65
    listed = {file.name for file in Path(desk.data).rglob("*.csv")}
    assert listed == {"dropped.csv", "skipped.csv", "coverage.csv"}
    for name in ("dropped.csv", "skipped.csv"):
        (file,) = Path(desk.data).rglob(name)
        assert "'=1+1" in file.read_text(), "the test shows nothing"
    assert formulas(Path(desk.data)) == []
    before = {file: file.read_bytes() for file in Path(desk.data).rglob("*.csv")}
    assert run(desk.splits(*splits), capsys)[0] == 0  # names are the same again when they are read
    assert run(desk.features("--cases", table), capsys)[0] == 65
    assert before == {file: file.read_bytes() for file in Path(desk.data).rglob("*.csv")}


def test_text_is_guarded_and_numbers_are_not(tmp_path):
    cells = [*FORMULAS, "-", "-3.5", "+2e3", "plain", "'quoted", None]
    table = pd.DataFrame({"=name": cells, "number": np.linspace(-1, 1, len(cells))})
    (tmp_path / "t.csv").write_bytes(csv_bytes(table))
    assert formulas(tmp_path) == []
    assert "-3.5," in (tmp_path / "t.csv").read_text() and "-1.0" in (tmp_path / "t.csv").read_text()
    (tmp_path / "u.csv").write_bytes(csv_bytes(table[["=name"]].rename(columns={"=name": "name"}).dropna()))
    assert Location.at(tmp_path / "u.csv").read_csv(["name"])["name"].tolist() == [
        cell.replace("\r", "\\r") for cell in cells[:-1]
    ]


# E: links that lead out of the results


def test_links_in_a_results_folder_do_not_lead_out_of_it(tmp_path, tree):
    from writers import CONFIG, PATH, save

    outside = tmp_path / "outside"
    for name in ("BLCA", "abc/000001"):
        (outside / name).mkdir(parents=True)
        (outside / name / "file").write_text("kept")
    before = tree(outside)
    results = Results(tmp_path / "study")
    (results.runs / "BLCA").mkdir(parents=True)
    (results.folder / "checkpoints").mkdir()
    (results.runs / ".x.unfinished").symlink_to(outside)
    (results.folder / ".y.unfinished").symlink_to(outside / "BLCA/file")
    (results.folder / "checkpoints" / PATH).parent.mkdir(parents=True)
    (results.folder / "checkpoints" / PATH).symlink_to(outside)
    (results.runs / "BLCA/outer-0-0").mkdir()
    (results.runs / PATH).symlink_to(outside / "BLCA")
    with results.lock():
        assert results.find(PATH, CONFIG, notify=lambda line: None) is None  # a link is no record: it is set aside
        save(results)
        results.remove_checkpoints(PATH)
    assert not (results.runs / PATH).is_symlink()
    assert tree(outside) == before
