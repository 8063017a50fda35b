"""Import survival labels from a clinical table: time and event of every case. From here on, censoring is `not event`.

    rows       one or more per case, also per sample or slide; all rows of a case must agree
    columns    time, event, and where the table has them: age, sex, stage, grade (see clinical.py), site, cancer type
    samples    only those of the given types, by default 01 (primary tumour), by characters 14-15 of the barcode
    time       months; days are divided by 30, exactly, as in SurvPath
    excluded   redacted patients, and cases without event status or with a time that is missing or not above 0;
               each is listed with its reason

See outcomes.py for the columns of known tables.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from survq.data.barcodes import PRIMARY, case_of, sample_type, site_of
from survq.data.cohort_files import cohort_folder, update_cohort
from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any
from survq.data.tables import usable_id
from survq.importing.clinical import read_covariates
from survq.importing.decompress import sha256
from survq.importing.outcomes import ENDPOINTS, Columns, Endpoint, columns_of
from survq.importing.text_table import MISSING, numbers, read_text_table
from survq.text import preview

DAYS_PER_MONTH = 30
TEXT = ("site", "oncotree_code", "type", "cancer type abbreviation")  # further columns, kept as text


@dataclass(frozen=True)
class Labels:
    """The outcome of every case of a clinical table, ordered by case id."""

    cases: pd.DataFrame  # indexed by case_id: time (months), event, further columns
    dropped: dict[str, str]  # case id -> reason of its exclusion
    source: dict  # file and rules, for source.json
    notes: tuple[str, ...] = ()  # for people

    @property
    def case_ids(self) -> set[str]:
        return {*self.cases.index, *self.dropped}


def import_labels(
    file: Path,
    root: Location,
    cohort: str,
    *,
    endpoint: Endpoint = "DSS",
    columns: Columns | None = None,
    types: Sequence[str] = (),
    sample_types: Collection[str] = PRIMARY,
) -> tuple[Labels, pd.DataFrame]:
    """Import the outcomes in a clinical table into a new or existing cohort, whose other tables are kept.

    Returns them, and the new dropped.csv. If it raises DataError, nothing has been written.
    """
    folder = cohort_folder(root, cohort)
    labels = read_labels(
        file,
        endpoint,
        columns=columns,
        types=types or (cohort,),
        sample_types=sample_types,
        require_types=bool(types),
    )
    dropped = update_cohort(folder, {"labels": labels.source}, cases=labels.cases, dropped=labels.dropped)
    return labels, dropped


def read_labels(
    file: str | Path,
    endpoint: Endpoint = "DSS",
    *,
    columns: Columns | None = None,
    types: Sequence[str] = (),
    sample_types: Collection[str] = PRIMARY,
    require_types: bool = False,
) -> Labels:
    """Read the outcomes in a clinical table by the rules above; its layout is detected by its columns, unless given.

    `types` are the cancer types to keep, if the table has a column of them; with `require_types` it must have one.
    Raises DataError with every invalid cell, and every case whose rows contradict each other.
    """
    file = Path(file)
    table = read_text_table(file, needed=[columns.case, columns.time, columns.status] if columns else ())
    columns = columns or columns_of(list(table), endpoint, file)
    all_rows = len(table)
    table, notes = _of_types(table, columns, types, require_types, file), []
    if len(table) < all_rows:
        notes.append(f"{all_rows - len(table)} of {all_rows} rows have other cancer types than {preview(types)}")
    table = table.assign(case_id=table[columns.case])
    kind = table["case_id"].map(sample_type)
    other_samples = table.loc[kind.notna() & ~kind.isin(sample_types), "case_id"].map(case_of)
    table = table.drop(index=other_samples.index).assign(case_id=lambda table: table["case_id"].map(case_of))

    problems = [
        f"{file}:{line}: case id {case[:60]!r}; expected printable text that starts with a letter or digit."
        for line, case in table["case_id"].items()
        if not usable_id(case)
    ]
    text = [name for name in TEXT if name in table]
    clinical, unreadable, unknown = read_covariates(table, file)
    problems += unreadable
    notes += unknown
    table[columns.time], unreadable = numbers(table[columns.time], file)
    problems += unreadable
    table[columns.status], unreadable = _events(table[columns.status], columns, file)
    problems += unreadable
    for column in text:
        table[column] = table[column].map(lambda cell: cell or None)  # NA is valid text: a TCGA site
    table = table.drop(columns=clinical.columns, errors="ignore").join(clinical)
    kept = [columns.time, columns.status, *text, *clinical]
    problems += _contradictions(table, kept, str(file))
    raise_if_any(problems)

    cases = table.drop_duplicates("case_id").set_index("case_id").sort_index()
    time, event = cases[columns.time], cases[columns.status]
    reason = pd.Series(pd.NA, index=cases.index, dtype=object)
    reason[time == 0] = "time is 0"
    reason[time < 0] = "time is below 0"
    reason[time.isna()] = "no time"
    reason[event.isna()] = "no event status"
    if columns.redaction:
        reason[~cases[columns.redaction].str.lower().isin(MISSING)] = "redacted"
    other_only = sorted(set(other_samples) - set(cases.index))
    no_sample = f"no sample of type {' '.join(sorted(sample_types))}"
    dropped = reason.dropna().to_dict() | dict.fromkeys(other_only, no_sample)
    cases = cases[[*text, *clinical]].assign(time=time / (DAYS_PER_MONTH if columns.unit == "days" else 1), event=event)
    if "site" not in cases and (sites := cases.index.map(site_of)).notna().all():
        cases["site"] = sites
    cases = cases.loc[reason.isna(), ["time", "event", *cases.columns.drop(["time", "event"])]].astype({"event": bool})
    if not len(cases):
        raise DataError(
            [f"{file}: no case has {ENDPOINTS[endpoint]} among its {all_rows} rows. Fix: use another table."]
        )
    source = {
        "file": file.name,
        "sha256": sha256(file),
        "outcome": endpoint,
        "columns": asdict(columns),
        "months": "days / 30" if columns.unit == "days" else "unchanged",
        "types": list(types) if columns.types else None,
        "sample_types": sorted(sample_types),
    }
    return Labels(cases, dropped, source, tuple(notes))


def _of_types(table: pd.DataFrame, columns: Columns, types: Sequence[str], require: bool, file: Path) -> pd.DataFrame:
    """The rows of these cancer types."""
    if columns.types is None:
        if require:
            raise DataError([f"{file}: has no column of cancer types. Fix: omit --types."])
        return table
    present = set(table[columns.types])
    if absent := [name for name in types if name not in present]:
        raise DataError(
            [
                f"{file}: its column {columns.types!r} has no {preview(absent)}; it has "
                f"{preview(sorted(present), 40)}. Fix: select some of them, such as --types COAD READ for COADREAD."
            ]
        )
    return table[table[columns.types].isin(types)] if types else table


def _events(cells: pd.Series, columns: Columns, file: Path) -> tuple[pd.Series, list[str]]:
    """True, False, or None if blank; and a problem for every other cell."""
    meaning = {_code(value): True for value in columns.event} | {_code(value): False for value in columns.censored}
    found, problems = [], []
    for line, cell in cells.items():
        code = _code(cell)
        found.append(meaning.get(code))
        if code not in meaning and code not in MISSING:
            problems.append(
                f"{file}:{line}: {cells.name} {cell[:60]!r}; expected {preview(columns.event)} for an event, "
                f"{preview(columns.censored)} for a censored case. Fix: correct it, or state the coding."
            )
    return pd.Series(found, index=cells.index, name=cells.name, dtype=object), problems


def _code(cell: str) -> str:
    """The code in a cell: 1, 1.0 and cBioPortal's `1:DECEASED` are the same."""
    if match := re.fullmatch(r"([01]):.*|(-?\d+)\.0*", cell):
        return match[1] or match[2]
    return cell.lower()


def _contradictions(table: pd.DataFrame, columns: Sequence[str], file: str) -> list[str]:
    problems = []
    repeated = table[table["case_id"].duplicated(keep=False)]
    for case, rows in repeated.groupby("case_id"):
        for column in columns:
            if rows[column].nunique(dropna=False) > 1:
                cells = ", ".join(f"{cell!r} in line {line}" for line, cell in rows[column].items())
                problems.append(f"{file}: case {case!r}: {column} is {cells}. Fix: make its rows agree.")
    return problems
