"""Import survival labels from a clinical table: time and event of every case. From here on, censoring is `not event`.

    rows       one or more per case, also per sample or slide; all rows of a case must agree
    columns    time, event, and where the table has them: age, sex, stage, grade (see clinical.py), site, cancer type
    samples    only those of the given types, by default 01 (primary tumour), by characters 14-15 of the barcode, or by
               a column of sample types
    time       months; days are divided by 30, exactly, as in SurvPath, years multiplied by 12; of two columns, the
               first counts for events, the second for censored cases
    excluded   redacted patients, and cases without event status or with a time that is missing or not above 0;
               each is listed with its reason

See outcomes.py for the columns of known tables.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from survq.data.barcodes import PRIMARY, case_of, sample_type, sample_type_named, site_of
from survq.data.cohort_files import cohort_folder, update_cohort
from survq.data.hints import outcome_hints
from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any
from survq.data.tables import cases_problems, usable_id
from survq.importing.clinical import read_covariates
from survq.importing.decompress import sha256
from survq.importing.id_columns import OF_TYPES, plain
from survq.importing.missing import MISSING, Missing
from survq.importing.outcomes import ENDPOINTS, Columns, Endpoint, columns_of
from survq.importing.text_table import by_row, header_notes, numbers, read_text_table
from survq.text import preview

MONTHS = {"months": 1, "days": 1 / 30, "years": 12}
STATED = {"months": "unchanged", "days": "days / 30", "years": "years * 12"}
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
    missing: Missing = MISSING,
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
        missing=missing,
    )
    raise_if_any(cases_problems(labels.cases.reset_index(names="case_id"), str(file)))
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
    missing: Missing = MISSING,
) -> Labels:
    """Read the outcomes in a clinical table by the rules above; its layout is detected by its columns, unless given.

    `types` are the cancer types to keep, if the table has a column of them; with `require_types` it must have one.
    Raises DataError with every invalid cell, and every case whose rows contradict each other.
    """
    file = Path(file)
    stated = [columns.case, *columns.times, columns.status] if columns else []
    # the site NA is a site; + and - may be stated event values
    table = read_text_table(file, needed=stated, missing=missing, verbatim={*TEXT, *stated[-1:]})
    columns = columns or columns_of(list(table), endpoint, file)
    all_rows = len(table)
    table, notes = _of_types(table, columns, types, require_types, file), header_notes(file)
    if len(table) < all_rows:
        notes.append(f"{all_rows - len(table)} of {all_rows} rows have other cancer types than {preview(types)}")
    kinds = _sample_types(table, columns.case)
    other_samples = table.loc[kinds.notna() & ~kinds.isin(sample_types), columns.case].map(case_of)
    table = table.drop(index=other_samples.index)
    if not len(table):
        found = sorted(set(kinds.dropna()))
        raise DataError(
            [
                f"{file}: none of its {len(kinds)} rows is a sample of type {' '.join(sorted(sample_types))}; they are "
                f"of {' '.join(found)}. Fix: --sample-types {' '.join(found)}."
            ]
        )

    table = table.assign(case_id=table[columns.case].map(case_of))
    unusable = {line: f"case id {case[:60]!r}" for line, case in table["case_id"].items() if not usable_id(case)}
    fix = "correct it"
    problems = by_row(file, unusable, len(table), "; expected printable text that starts with a letter or digit", fix)
    text = [name for name in TEXT if name in table]
    clinical, unknown = read_covariates(table, missing)
    notes += unknown
    event, unreadable = _events(table[columns.status], columns, missing, file)
    problems += unreadable
    time, unreadable = _times(table, columns, event, missing, file)
    problems += unreadable
    for column in text:
        table[column] = table[column].map(lambda cell: None if cell in missing and cell != "NA" else cell)
    table = table.drop(columns=clinical.columns, errors="ignore").join(clinical)
    table = table.assign(**{columns.times[0]: time, columns.status: event})
    needed = [columns.times[0], columns.status, *(["site"] if "site" in table else [])]
    problems += _contradictions(table, needed, str(file))
    raise_if_any(problems)

    by_case = table.groupby("case_id", sort=True)
    cases = table.drop_duplicates("case_id").set_index("case_id").sort_index()
    for column in [*(name for name in text if name != "site"), *clinical]:
        differing = by_case[column].nunique() > 1
        cases[column] = by_case[column].first().mask(differing, None)
        if differing.any():
            notes.append(
                f"{column} differs between rows of a case, read as unknown: {preview(differing[differing].index)}"
            )
    time, event = cases[columns.times[0]], cases[columns.status]
    reason = pd.Series(pd.NA, index=cases.index, dtype=object)
    reason[time == 0] = "time is 0"
    reason[time < 0] = "time is below 0"
    reason[time.isna()] = "no time"
    reason[event.isna()] = "no event status"
    if columns.redaction:
        reason[by_case[columns.redaction].max() != ""] = "redacted"  # in any of its rows
    other_only = sorted(set(other_samples) - set(cases.index))
    no_sample = f"no sample of type {' '.join(sorted(sample_types))}"
    dropped = reason.dropna().to_dict() | dict.fromkeys(other_only, no_sample)
    cases = cases[[*text, *clinical]].assign(time=time * MONTHS[columns.unit], event=event)
    if columns.unit == "days":
        cases["time"] = time / 30  # exactly as in SurvPath
    if "site" not in cases and (sites := cases.index.map(site_of)).notna().all():
        cases["site"] = sites
    cases = cases.loc[reason.isna(), ["time", "event", *cases.columns.drop(["time", "event"])]].astype({"event": bool})
    if not len(cases):
        raise DataError([_nothing_left(file, endpoint, all_rows, dropped)])
    source = {
        "file": file.name,
        "sha256": sha256(file),
        "outcome": endpoint,
        "columns": asdict(columns),
        "months": STATED[columns.unit],
        "types": list(types) if columns.types else None,
        "sample_types": sorted(sample_types),
    }
    return Labels(cases, dropped, source, (*notes, *outcome_hints(cases)))


def _nothing_left(file: Path, endpoint: Endpoint, rows: int, dropped: Mapping[str, str]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(dropped.values()).most_common())
    return (
        f"{file}: no case has {ENDPOINTS[endpoint]} among its {rows} rows: {reasons}. "
        f"Fix: use another table, or another endpoint with --outcome."
    )


def _sample_types(table: pd.DataFrame, case_column: str) -> pd.Series:
    """The sample type of each row by its barcode, else by columns of samples and of sample types; or None."""
    kinds = table[case_column].map(sample_type)
    for column in table:
        if plain(column).startswith(("sampleid", "samplebarcode", "samplesubmitterid", "bcrsamplebarcode")):
            kinds = kinds.where(kinds.notna(), table[column].map(sample_type))
    for column in table:
        if plain(column) in OF_TYPES:
            kinds = kinds.where(kinds.notna(), table[column].map(sample_type_named))
    return kinds


def _times(
    table: pd.DataFrame, columns: Columns, event: pd.Series, missing: Missing, file: Path
) -> tuple[pd.Series, list[str]]:
    """The time of each row: of two columns, the first for events and the second for others."""
    read = [numbers(table[column], file, missing) for column in columns.times]
    time = read[0][0] if len(read) == 1 else read[0][0].where(event.eq(True), read[1][0])
    return time, [problem for _, problems in read for problem in problems]


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


def _events(cells: pd.Series, columns: Columns, missing: Missing, file: Path) -> tuple[pd.Series, list[str]]:
    """True, False, or None if missing; and a problem for every other cell."""
    meaning = {_code(value): True for value in columns.event} | {_code(value): False for value in columns.censored}
    codes = cells.map(_code)
    wrong = {
        line: f"{cells.name} {cells[line][:60]!r}"
        for line, code in codes.items()
        if code not in meaning and code not in missing
    }
    present = sum(code in meaning or code not in missing for code in codes)
    tail = f"; expected {preview(columns.event)} for an event, {preview(columns.censored)} for a censored case"
    problems = by_row(
        file, wrong, present, tail, "correct it, or state the coding with --event-values and --censored-values"
    )
    return codes.map(lambda code: meaning.get(code)).astype(object).rename(cells.name), problems


def _code(cell: str) -> str:
    """The code in a cell: 1, 1.0 and cBioPortal's `1:DECEASED` are the same."""
    if match := re.fullmatch(r"([01]):.*|(-?\d+)\.0*", cell):
        return match[1] or match[2]
    return cell.lower()


def _contradictions(table: pd.DataFrame, columns: Sequence[str], file: str) -> list[str]:
    """A problem for each case whose rows differ in a column, or one for all if those of all cases do."""
    problems = []
    by_case = table[table["case_id"].duplicated(keep=False)].groupby("case_id")
    for column in columns:
        differing = by_case[column].nunique(dropna=False)
        differing = differing[differing > 1]
        found = []
        for case in differing.index:
            given = by_case.get_group(case)[column].drop_duplicates()
            cells = ", ".join(f"{cell!r} in line {line}" for line, cell in given.head(3).items())
            found.append(f"{file}: case {case!r}: {column} is {cells}. Fix: make its rows agree.")
            if len(differing) == by_case.ngroups > 2:
                found = [f"{found[0][:-25]}; so it is for all {by_case.ngroups} cases. Fix: keep one row per case."]
                break
        problems += found
    return problems
