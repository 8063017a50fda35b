"""Pathways: named sets of genes, from GMT files or signature tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from survq.data.location import Location
from survq.data.problems import raise_if_any

COVERAGE = 0.9  # share of a pathway's genes that must have been measured (section 4.1)


@dataclass(frozen=True)
class Pathways:
    """Gene sets in a fixed order. Names are free text: never use one as a file name."""

    names: tuple[str, ...] = ()
    genes: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_gmt(cls, file: str | Path | Location) -> Pathways:
        """Read a GMT file: a set a line, tab separated: name, description, genes.

        Raises DataError naming every line that is no such set, and every name that stands twice.
        """
        file = Location.at(file)
        sets: dict[str, tuple[str, ...]] = {}
        problems = []
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            if not line.strip():
                continue
            name, *rest = (field.strip() for field in line.split("\t"))
            genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
            if not genes:
                problems.append(
                    f"{file}:{number}: no genes in pathway {name[:60]!r}; expected name, description and genes "
                    f"with tabs between them. Fix: replace blanks by tabs, or drop the line."
                )
            elif name in sets:
                problems.append(f"{file}:{number}: pathway {name!r} stands here a second time. Fix: rename or drop it.")
            else:
                sets[name] = genes
        if not sets and not problems:
            problems.append(f"{file}: holds no pathway.")
        raise_if_any(problems)
        return cls(tuple(sets), tuple(sets.values()))

    @classmethod
    def from_signatures(cls, file: str | Path) -> Pathways:
        """Read a signature table: a CSV with a column a pathway, its name on top, genes below, short columns blank."""
        rows = list(csv.reader(io.StringIO(Location.at(file).read_text())))
        names = [name.strip() for name in rows[0]] if rows else []
        columns = [
            tuple(dict.fromkeys(row[j].strip() for row in rows[1:] if j < len(row) and row[j].strip()))
            for j in range(len(names))
        ]
        problems = []
        for j, (name, genes) in enumerate(zip(names, columns, strict=True)):
            if not name.isprintable() or (not name and genes):
                problems.append(f"{file}: column {j + 1}: pathway name {name!r}; expected printable text on top.")
            elif name and not genes:
                problems.append(f"{file}: column {j + 1}: no genes in pathway {name!r}. Fix: drop the column.")
            elif name and name in names[:j]:
                problems.append(f"{file}: column {j + 1}: pathway {name!r} stands here a second time. Fix: rename it.")
        sets = {name: genes for name, genes in zip(names, columns, strict=True) if name}
        if not sets and not problems:
            problems.append(f"{file}: no pathways; expected a CSV with a column a pathway and its genes below.")
        raise_if_any(problems)
        return cls(tuple(sets), tuple(sets.values()))

    def to_gmt(self) -> str:
        lines = ("\t".join((name, "", *genes)) for name, genes in zip(self.names, self.genes, strict=True))
        return "".join(line + "\n" for line in lines)

    def coverage(self, genes: Collection[str]) -> list[float]:
        """The share of each pathway's genes that were measured."""
        measured = set(genes)
        return [len(measured.intersection(members)) / len(members) for members in self.genes]

    def covered_by(self, genes: Collection[str]) -> Pathways:
        """The pathways of whose genes at least the share COVERAGE was measured, cut to these genes."""
        measured = set(genes)
        kept = [
            (name, tuple(gene for gene in members if gene in measured))
            for name, members, share in zip(self.names, self.genes, self.coverage(measured), strict=True)
            if share >= COVERAGE
        ]
        return Pathways(tuple(name for name, _ in kept), tuple(members for _, members in kept))
