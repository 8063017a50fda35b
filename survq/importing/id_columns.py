"""Which column of a table with one row per sample names the case, and which the sample: by rule, never by counting.

1. A stated column counts. Otherwise those columns are candidates that hold at least one case of the cohort.
2. A column of numbers is a candidate only if its name says that it holds ids: ages and row numbers look like ids, too.
3. Candidates whose names say so go before others. All of them must name the same case in every row.
4. The sample type of a row is that of the candidate which states one, by barcode, or of a column of sample types.

Anything else is refused with all candidates, because a wrong column gives patients the values of others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from survq.data.barcodes import case_of, is_barcode, sample_type, sample_type_named
from survq.data.problems import DataError
from survq.importing.missing import MISSING
from survq.text import preview

OF_CASES = {
    *("case", "caseid", "casesubmitterid", "submitterid", "patient", "patientid", "patientbarcode", "pid"),
    *("bcrpatientbarcode", "subject", "subjectid", "participant", "participantid", "individual", "individualid"),
}
OF_SAMPLES = {
    *("sample", "sampleid", "samplename", "samplebarcode", "samplesubmitterid", "bcrsamplebarcode", "barcode", "id"),
    *("tumorsamplebarcode", "tumorsampleid", "tcgabarcode", "aliquot", "aliquotbarcode", "slide", "slideid"),
}
_CODE = re.compile(r"(\d{2}[A-Z]?)?")  # the sample's part of a barcode in a column of its own
OF_TYPES = {"sampletype", "sampletypeid", "sampletypecode", "tissuetype", "tumornormal"}


@dataclass(frozen=True)
class Sample:
    """One row or column of a table. `place` is its position, `name` what the table calls it, "" without an id."""

    place: int
    case: str
    kind: str | None
    name: str


def plain(name: str) -> str:
    """A column's name without signs and letter case; of GDC's `cases.submitter_id` the last part."""
    return re.sub(r"[^a-z0-9]", "", name.lower().rpartition(".")[2])


def candidate_columns(names: Sequence[str], first: int, stated: Collection[str | None]) -> list[int]:
    """The columns to look at: the first ones, and others whose names say that they hold ids or sample types."""
    known = OF_CASES | OF_SAMPLES | OF_TYPES
    return [
        column
        for column, name in enumerate(names)
        if column < first or name in stated or (plain(name) in known and names.count(name) == 1)
    ]


def samples_of_rows(
    names: Sequence[str],
    columns: Mapping[int, Sequence[str]],
    cases: Collection[str],
    file: object,
    *,
    case_column: str | None = None,
    sample_column: str | None = None,
    in_header: bool = False,
) -> tuple[list[Sample], int, set[int]] | None:
    """The sample of each row, the column of the case, and all columns of ids; None if no column holds a case.

    `columns` are the cells of the candidates; `in_header` tells that the header holds cases, so that mere numbers in a
    column are none. Raises DataError if the rule does not tell.
    """
    case = _stated(names, case_column, "--case-column", file)
    sample = _stated(names, sample_column, "--sample-column", file)
    wanted = set(cases)
    hits = {column: {cell for cell in cells if case_of(cell) in wanted} for column, cells in columns.items()}
    candidates = [column for column, found in hits.items() if found]
    named = [column for column in candidates if plain(names[column]) in OF_CASES | OF_SAMPLES]
    sure = [column for column in candidates if column in named or not all(cell.isdigit() for cell in hits[column])]
    if case is None:
        pool = named or sure if sample is None or sample not in candidates else [sample]
        if not pool and (in_header or not candidates):
            return None
        case = _agreed(pool, names, columns, candidates, file)
    elif not hits[case]:
        raise DataError(
            [
                f"{file}: its column {names[case]!r} has {preview(columns[case])}; none is a case of this cohort, such "
                f"as {preview(sorted(wanted), 1)}. Fix: name another column with --case-column."
            ]
        )
    agreeing = [column for column in sure if _difference(columns[case], columns[column]) is None and column != case]
    kinds = _kinds(case, sample, agreeing, names, columns, file)
    named_by = sample if sample is not None else _naming(case, agreeing, names, columns)
    samples = [
        Sample(row, case_of(cell), kind, columns[named_by][row] or cell)
        for row, (cell, kind) in enumerate(zip(columns[case], kinds, strict=True))
    ]
    of_types = {column for column in columns if plain(names[column]) in OF_TYPES}
    others = {column for column in columns if plain(names[column]) in OF_CASES | OF_SAMPLES}
    return samples, case, {case, named_by, *agreeing, *of_types, *others}


def _naming(case: int, agreeing: Sequence[int], names: Sequence[str], columns: Mapping[int, Sequence[str]]) -> int:
    """The column that tells the samples of a case apart."""
    stating = [column for column in (case, *agreeing) if any(sample_type(cell) for cell in columns[column])]
    named = [column for column in columns if plain(names[column]) in OF_SAMPLES]
    return [*stating, *named, case][0]


def _stated(names: Sequence[str], column: str | None, option: str, file: object) -> int | None:
    if column is None:
        return None
    if names.count(column) != 1:
        how = "no" if column not in names else "several"
        raise DataError(
            [f"{file}: has {how} columns {column!r}; it has {preview(names, 9)}. Fix: name one of them with {option}."]
        )
    return names.index(column)


def _agreed(
    pool: Sequence[int],
    names: Sequence[str],
    columns: Mapping[int, Sequence[str]],
    candidates: Sequence[int],
    file: object,
) -> int:
    """The column of the case, if all columns of the pool name the same case in every row."""
    if not pool:
        held = preview([names[column] for column in candidates], 9)
        unnamed = ' (--case-column "" for the one without a name)' if any(not names[one] for one in candidates) else ""
        raise DataError(
            [
                f"{file}: some numbers in {held} are also ids of this cohort, but no name says which column holds the "
                f"cases. Fix: state it with --case-column{unnamed}, or name it case_id."
            ]
        )
    for column in pool[1:]:
        if (row := _difference(columns[pool[0]], columns[column])) is not None:
            raise DataError(
                [
                    f"{file}: both {names[pool[0]]!r} and {names[column]!r} hold ids of this cohort, and differ first "
                    f"in row {row + 1}. Fix: state the column of the cases with --case-column."
                ]
            )
    of_cases = [column for column in pool if plain(names[column]) in OF_CASES]
    return (of_cases or list(pool))[0]


def _difference(one: Sequence[str], other: Sequence[str]) -> int | None:
    """The first row in which two columns name different cases; None if there is none."""
    pairs = enumerate(zip(one, other, strict=True))
    return next((row for row, (this, that) in pairs if this and that and case_of(this) != case_of(that)), None)


def _kinds(
    case: int,
    sample: int | None,
    agreeing: Sequence[int],
    names: Sequence[str],
    columns: Mapping[int, Sequence[str]],
    file: object,
) -> list[str | None]:
    """The sample type of each row, or None."""
    in_tcga = any(is_barcode(cell) for cell in columns[case])
    stating = [column for column in ([sample] if sample is not None else [case, *agreeing]) if column is not None]
    named = [
        column
        for column, cells in columns.items()
        if plain(names[column]) in OF_TYPES
        or (plain(names[column]) in OF_SAMPLES and all(_CODE.fullmatch(cell) for cell in cells))
    ]
    found: list[dict[int, str]] = []
    for row in range(len(columns[case])):
        kinds = {column: kind for column in stating if (kind := sample_type(columns[column][row])) is not None}
        kinds = kinds or {
            column: kind
            for column in named
            if (kind := sample_type_named(columns[column][row])) is not None
            and (in_tcga or plain(names[column]) in OF_TYPES)
        }
        if len(set(kinds.values())) > 1:
            raise DataError(
                [
                    f"{file}: {preview([names[column] for column in kinds])} state the sample types "
                    f"{preview(kinds.values())} in row {row + 1}. Fix: state the column of the samples with "
                    f"--sample-column."
                ]
            )
        found.append(kinds)
    return [next(iter(kinds.values()), None) for kinds in found]


def samples_of_header(names: Sequence[str], cases: Collection[str]) -> tuple[list[Sample], list[int]]:
    """The samples in the header of a table with one row per gene, and the positions of its other columns.

    A column is a sample if its name is written like a case of the cohort: with letters, digits and signs in the same
    order. So `Entrez_Gene_Id` is none beside P-1 and P-2.
    """
    known = [name for name in names if case_of(name) in cases]
    shapes = {_shape(name) for name in known}
    is_sample = [bool(name not in MISSING and _shape(name) in shapes and plain(name) not in OF_GENES) for name in names]
    samples = [
        Sample(place, case_of(name), sample_type(name), name)
        for place, name in enumerate(names)
        if is_sample[place] or name in known
    ]
    return samples, [place for place in range(len(names)) if place not in {sample.place for sample in samples}]


OF_GENES = {
    *("gene", "genes", "geneid", "genename", "genesymbol", "genetype", "symbol", "hugosymbol", "hgncsymbol", "name"),
    *("entrezgeneid", "entrezid", "ensemblid", "ensemblgeneid", "description", "externalgenename", "cytoband"),
    *("chromosome", "chrom", "start", "end", "strand", "biotype", "genebiotype", "length"),
}


def _shape(name: str) -> str:
    if case_of(name) != name or sample_type(name) is not None or name.upper().startswith(("TCGA-", "TCGA.", "TCGA_")):
        return "TCGA"
    return re.sub(r"[A-Za-z]+", "a", re.sub(r"\d+", "0", name))
