"""Clinical covariates of known tables, in one form for all tables:

    age      years, from 0 to 130
    sex      female or male
    stage    0 to 4: "Stage IIIA", "IIIb" and "3" are 3; other text, such as "Stage X", is unknown
    grade    as in the table, such as G2 or High Grade

Columns are recognised by their names, in capitals or not. Cells that are missing or unclear, such as the age `>89`, are
unknown: no case is lost for a covariate.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

from survq.data.clinical import RANGES
from survq.importing.missing import MISSING, Missing
from survq.importing.table_format import is_number
from survq.text import preview

# of SurvPath and PORPOISE; TCGA-CDR, Xena and MMP; cBioPortal's pages. The first that a table has counts
COLUMNS = {
    "age": ("age", "age_at_initial_pathologic_diagnosis", "diagnosis age"),
    "sex": ("sex", "gender", "is_female"),
    "stage": (
        *("stage", "ajcc_pathologic_tumor_stage", "ajcc_pathologic_stage"),
        "neoplasm disease stage american joint committee on cancer code",
    ),
    "grade": ("grade", "histological_grade", "neoplasm histologic grade"),
}
SEX = {"female": "female", "f": "female", "male": "male", "m": "male"}
IS_FEMALE = {"1": "female", "1.0": "female", "0": "male", "0.0": "male"}
STAGE = re.compile(r"(?:stage\s*)?(?:(iv|i{1,3})[abc]?\d?|([0-4])(?:\.0)?)", re.IGNORECASE)
ROMAN = ("0", "i", "ii", "iii", "iv")


def read_covariates(table: pd.DataFrame, missing: Missing = MISSING) -> tuple[pd.DataFrame, list[str]]:
    """The covariates that a table of text has columns for, by its index, the line; and notes for people."""
    names = {name.casefold(): name for name in reversed(list(table))}
    found: dict[str, pd.Series] = {}
    notes = []
    for covariate, columns in COLUMNS.items():
        column = next((names[name] for name in columns if name in names), None)
        if column is None:
            continue
        cells = table[column].map(lambda cell: None if cell in missing else cell)
        found[covariate] = cells.map(_reader(covariate, column), na_action="ignore")
        if unread := sorted(set(cells[cells.notna() & found[covariate].isna()])):
            notes.append(f"{column}: read as unknown: {preview(unread)}")
        if covariate in RANGES:
            found[covariate] = found[covariate].astype(float)
    return pd.DataFrame(found, index=table.index), notes


def age_of(cell: str) -> float | None:
    """Years; None for anything else, such as >89, and for what cannot be an age, such as -999."""
    low, high = RANGES["age"]
    return float(cell) if is_number(cell) and low <= float(cell) <= high else None


def stage_of(cell: str) -> float | None:
    """0 to 4; None for anything else."""
    match = STAGE.fullmatch(cell)
    return float(match[2] or ROMAN.index(match[1].lower())) if match else None


def _reader(covariate: str, column: str) -> Callable[[str], object]:
    if covariate == "age":
        return age_of
    if covariate == "stage":
        return stage_of
    if covariate == "sex":
        codes = IS_FEMALE if column.casefold() == "is_female" else SEX
        return lambda cell: codes.get(cell.lower())
    return str
