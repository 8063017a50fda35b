"""Read gene sets in the shapes that people have them in.

    GMT          a row per set: name, description, genes (MSigDB, Reactome, Enrichr)
    rows         a row per set: name, genes
    columns      a column per set: its name on top, its genes below (SurvPath)
    GMX          as columns, with a description below the name
    pairs        a row per set and gene, or per set with all its genes in a cell (msigdbr)
    membership   a column per set, a row per gene, and 1 where the gene is in the set

Only `.gmt` and `.gmx` state the shape. Otherwise it is found by where the genes are: known ones, of other gene sets and
of expression in the data folder, else by how symbols are written. What stays unclear is refused.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from survq.data.gene_sets import GeneSets
from survq.data.problems import DataError, raise_if_any
from survq.importing.decompress import is_workbook
from survq.importing.genes import are_ensembl
from survq.importing.id_columns import plain
from survq.importing.missing import MISSING, Missing
from survq.importing.table_format import decoded, text_lines
from survq.importing.text_table import read_sheet
from survq.text import preview

SYMBOL = re.compile(r"[A-Z][A-Z0-9]{1,11}(-[A-Z0-9]{1,8}){0,2}|C\d+orf\d+")
LIKE_GENES = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,19}")  # of mouse, or in small letters
WEIGHT = re.compile(r"(.+),-?\d+(\.\d+)?")  # of Enrichr's GMT: TP53,1.0
LIST = re.compile(r"[\s,;|/]+")
OF_SETS = {
    *("pathway", "pathways", "pathwayname", "geneset", "genesets", "genesetname", "set", "setname", "gsname", "term"),
    *("termname", "signature", "signaturename", "module", "group", "category", "family", "name"),
}
OF_GENES = {
    *("gene", "genes", "genesymbol", "genesymbols", "symbol", "symbols", "hgncsymbol", "humangenesymbol", "hugosymbol"),
    *("genename", "genelist", "members", "member"),
}
AS_GMT = "Fix: save it as GMT: a line per set with name, description and genes, and tabs between them"

Rows = list[tuple[int, list[str]]]
"""Lines of a file with their numbers, without blank cells on the right."""


@dataclass(frozen=True)
class Genes:
    """What is a gene: one of the known, or what is written like a symbol."""

    known: frozenset[str] = frozenset()
    written: re.Pattern[str] = SYMBOL

    def share(self, cells: Iterable[str]) -> float:
        """The share of these cells that are genes; 0 without cells."""
        cells = [cell for cell in cells if cell]
        found = sum(cell in self.known or self.written.fullmatch(cell) is not None for cell in cells)
        return found / len(cells) if cells else 0.0

    def share_of_known(self, cells: Sequence[str]) -> float:
        return sum(cell in self.known for cell in cells) / max(1, len(cells))

    @classmethod
    def of(cls, rows: Rows, known: Collection[str]) -> Genes:
        held = {cell for _, row in rows for cell in row}
        genes = cls(frozenset(held.intersection(known)))
        return genes if genes.share(held) > 0.2 else cls(genes.known, LIKE_GENES)


def read_file(file: Path, known: Collection[str] = (), missing: Missing = MISSING) -> GeneSets:
    """The gene sets of a file, plain or compressed, or of a workbook. `known` are genes of other tables.

    Raises FileNotFoundError; DataError with every set that is not valid, or with the shape that was seen.
    """
    file = Path(file)
    endings = {ending.lower() for ending in file.suffixes}
    rows = _rows(file, missing, named=".gmt" in endings)
    if not rows:
        raise DataError([f"{file}: holds no gene sets."])
    genes = Genes.of(rows, known)
    if ".gmt" in endings:
        sets = _gmt(rows, genes, file)
    elif ".gmx" in endings:
        sets = _columns([row for row in rows if row[0] != rows[0][0] + 1], file)
    else:
        sets = _of_any_shape(rows, genes, file)
    _refuse_other_ids(sets, file)
    return sets


def _of_any_shape(rows: Rows, genes: Genes, file: Path) -> GeneSets:
    rows = _without_index(rows)
    if not rows:
        raise DataError([f"{file}: holds no gene sets."])
    if (sets := _membership(rows, genes, file) or _pairs(rows, genes, file)) is not None:
        return sets
    top, left = rows[0][1][1:], [row[0] for _, row in rows[1:]]
    in_top, in_left = genes.share(top), genes.share(left)
    if in_top > 0.5 and in_left > 0.5:  # sets are named like genes
        in_top, in_left = (float(genes.share_of_known(cells) > 0.5) for cells in (top, left))
    one_column = max(len(row) for _, row in rows) == 1 and genes.share(rows[0][1]) == 1
    if (
        (in_top > 0.5 and in_left > 0.5)
        or one_column
        or (max(in_top, in_left) == 0 and genes.share([*top, *left]) == 1)
    ):
        names = preview([rows[0][1][0], *top], 2) + " or " + preview(left, 2)
        raise DataError([f"{file}: {names} may be names of sets or genes, so its shape is unclear. {AS_GMT}."])
    by_tabs = file.suffix.lower() != ".csv" and _has_tabs(file)
    in_rows = in_top > 0.5 if (in_top > 0.5) != (in_left > 0.5) else by_tabs
    body = [cell for _, row in rows[1:] for cell in row[1:]]
    if max(in_top, in_left) == 0 and genes.share(body) > 0.5 and len(rows[0][1]) > 1:  # `pathway, gene1, gene2` on top
        rows, in_rows = rows[1:], True
    if not in_rows:
        body = [cell for _, row in rows[2:] for cell in row]
        described = len(rows) > 2 and genes.share(rows[1][1]) == 0 and genes.share(body) > 0.5
        return _named_unlike_genes(_columns(rows[:1] + rows[2:] if described else rows, file), genes, file)
    second = [row[1] if len(row) > 1 else "" for _, row in rows]
    described = all(len(row) > 2 for _, row in rows) and genes.share(second) <= 0.5
    return _named_unlike_genes(_named(rows, file, 2 if described else 1), genes, file)


def _rows(file: Path, missing: Missing, named: bool) -> Rows:
    """The cells of a file, "" where missing; `named` tells that each line starts with a name, whatever it is."""
    if is_workbook(file):
        lines = read_sheet(file)
    else:
        with text_lines(file) as stream:
            text = [decoded(line, file).rstrip("\n") for line in stream]
        first = re.sub('"[^"]*"', "", next((line for line in text if line.strip() and not line.startswith("#")), ""))
        mark = next((mark for mark in "\t,;" if mark in first), ",")
        reader = csv.reader(text, delimiter=mark, strict=True)
        try:
            lines = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise DataError([f"{file}:{reader.line_num}: is not valid CSV ({error}). {AS_GMT}."]) from error
    rows: Rows = []
    for line, cells in lines:
        row = [cell.strip() if named and place == 0 else _cell(cell, missing) for place, cell in enumerate(cells)]
        while row and not row[-1]:
            row.pop()
        if row and not (row[0].startswith("#") and not rows):
            rows.append((line, row))
    return rows


def _cell(cell: str, missing: Missing) -> str:
    cell = cell.strip()
    match = WEIGHT.fullmatch(cell)
    cell = match[1] if match else cell
    return "" if cell in missing else cell


def _has_tabs(file: Path) -> bool:
    if is_workbook(file):
        return False
    with text_lines(file) as stream:
        return any(b"\t" in line for _, line in zip(range(3), stream, strict=False))


def _without_index(rows: Rows) -> Rows:
    """Without the row numbers that pandas and R write beside and above a table."""

    def counted(cells: Sequence[str]) -> bool:
        return bool(cells) and any(list(cells) == [str(n + start) for n in range(len(cells))] for start in (0, 1))

    if len(rows) > 1 and counted([row[0] for _, row in rows]):
        rows = [(line, row[1:]) for line, row in rows]
    elif len(rows) > 1 and counted([row[0] for _, row in rows[1:]]):
        header = rows[0][1]
        short = max(len(row) for _, row in rows[1:]) > len(header)  # R writes no name for its row names
        rows = [(rows[0][0], header if short else header[1:]), *((line, row[1:]) for line, row in rows[1:])]
    header = rows[0][1]
    if len(rows) > 1 and (counted(header) or (header[:1] == [""] and counted(header[1:]))):
        rows = rows[1:]
    return [(line, row) for line, row in rows if row]


def _gmt(rows: Rows, genes: Genes, file: Path) -> GeneSets:
    second = [row[1] for _, row in rows if len(row) > 2 and row[1]]
    stems = {re.sub(r"\d+", "", cell) for cell in second}
    if Genes(genes.known).share(second) > 0.5 and len(stems) > len(second) / 2:  # not ids such as WP1 and WP2
        raise DataError(
            [
                f"{file}: its second column holds genes, such as {preview(second, 2)}, where GMT has a description. "
                f"Fix: put an empty column behind the names."
            ]
        )
    return _named(rows, file, 2)


def _named(rows: Rows, file: Path, start: int) -> GeneSets:
    """A set per row, with its name first and its genes from the column `start` on."""
    return GeneSets.from_rows(((line, row[0], row[start:]) for line, row in rows), file)


def _columns(rows: Rows, file: Path) -> GeneSets:
    """A set per column, with its name on top."""
    names = rows[0][1]
    width = max(len(row) for _, row in rows)
    names = names + [""] * (width - len(names))
    sets: dict[str, tuple[str, ...]] = {}
    problems = []
    for place, name in enumerate(names):
        members = _distinct(row[place] for _, row in rows[1:] if place < len(row))
        where = f"{file}: column {place + 1}"
        if not name.isprintable() or (not name and members):
            problems.append(f"{where}: gene set name {name[:60]!r}; expected printable text on top.")
        elif name and not members:
            problems.append(f"{where}: no genes in gene set {name[:60]!r}. Fix: drop the column, or: {AS_GMT[5:]}.")
        elif name in sets:
            problems.append(f"{where}: gene set {name!r} is already to the left. Fix: rename it.")
        elif name:
            sets[name] = members
    raise_if_any(problems)
    return GeneSets(tuple(sets), tuple(sets.values()))


def _pairs(rows: Rows, genes: Genes, file: Path) -> GeneSets | None:
    """A set and a gene per row, or a set and all its genes; None if the table has another shape."""
    header = [plain(cell) for cell in rows[0][1]]
    of_sets = [place for place, name in enumerate(header) if name in OF_SETS]
    of_genes = [place for place, name in enumerate(header) if name in OF_GENES]
    if of_sets and of_genes and len(rows) > 1:
        return _grouped(rows[1:], of_sets[0], of_genes[0], file)
    if len(rows) < 3 or any(len(row) != 2 for _, row in rows):
        return None
    for sets, members in ((0, 1), (1, 0)):
        names = [row[sets] for _, row in rows[1:]]
        are_genes = genes.share(row[members] for _, row in rows[1:]) > 0.5
        if are_genes and genes.share(names) <= 0.5 and len(set(names)) < len(names):
            with_header = rows[0][1][sets] not in names and genes.share([rows[0][1][members]]) == 0
            return _grouped(rows[1:] if with_header else rows, sets, members, file)
    return None


def _grouped(rows: Rows, of_sets: int, of_genes: int, file: Path) -> GeneSets:
    sets: dict[str, dict[str, None]] = {}
    problems = []
    for line, row in rows:
        name, cell = (row[place] if place < len(row) else "" for place in (of_sets, of_genes))
        if not name or not cell or not name.isprintable():
            problems.append(
                f"{file}:{line}: set {name[:60]!r}, genes {cell[:60]!r}; expected both. Fix: drop the line."
            )
            continue
        sets.setdefault(name, {}).update(dict.fromkeys(filter(None, LIST.split(cell))))
    raise_if_any(problems)
    return GeneSets(tuple(sets), tuple(tuple(members) for members in sets.values()))


def _membership(rows: Rows, genes: Genes, file: Path) -> GeneSets | None:
    """A matrix of 0 and 1; None if the table has another shape."""
    cells = [cell.lower() for _, row in rows[1:] for cell in row[1:]]
    yes = {"1", "1.0", "true", "x"}
    if not any(cell in yes for cell in cells) or not all(cell in yes | {"0", "0.0", "false", ""} for cell in cells):
        return None
    names, left = rows[0][1][1:], [row[0] for _, row in rows[1:]]
    marked = [
        (row[0], name) for _, row in rows[1:] for name, cell in zip(names, row[1:], strict=False) if cell.lower() in yes
    ]
    sets: dict[str, list[str]] = {}
    for one, other in marked:
        gene, name = (one, other) if genes.share(left) >= genes.share(names) else (other, one)
        sets.setdefault(name, []).append(gene)
    return GeneSets(tuple(sets), tuple(tuple(members) for members in sets.values()))


def _distinct(cells: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cell for cell in cells if cell))


def _named_unlike_genes(sets: GeneSets, genes: Genes, file: Path) -> GeneSets:
    """Raises DataError if most sets are named like genes, or a set has none: the shape was found wrongly."""
    for name, members in zip(sets.names, sets.genes, strict=True):
        if not any(LIKE_GENES.fullmatch(gene) or gene in genes.known for gene in members):
            raise DataError(
                [f"{file}: read as a set {name[:60]!r} of {preview(members)}, which are no genes. {AS_GMT}."]
            )
    held = genes.known.union(*sets.genes)
    like = [name for name in sets.names if name in held]
    if len(like) > len(sets) / 2:
        raise DataError([f"{file}: read as sets named {preview(like)}, which are genes. {AS_GMT}."])
    return sets


def _refuse_other_ids(sets: GeneSets, file: Path) -> None:
    """Raises DataError if genes are no symbols."""
    members = [gene for of_set in sets.genes for gene in of_set]
    if not members:
        raise DataError([f"{file}: holds no gene sets."])
    symbols = "Fix: use the file with symbols, such as h.all.v2023.1.Hs.symbols.gmt."
    if sum(gene.isdigit() for gene in members) > len(members) / 2:
        raise DataError([f"{file}: its genes are Entrez ids, such as {preview(members)}; expected symbols. {symbols}"])
    if are_ensembl(members):
        raise DataError([f"{file}: its genes are Ensembl ids, such as {preview(members)}; expected symbols. {symbols}"])
