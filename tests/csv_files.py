"""Tables as files, for tests."""

import csv
from pathlib import Path


def write_csv(file: Path, rows: list[list]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
