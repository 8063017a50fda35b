"""Collections of gene sets, in GMT files.

A data folder has any number of collections: `pathways` is the file pathways.gmt, any other NAME is gene_sets/NAME.gmt.
A cohort uses the sets of a collection of which it measures enough genes, see `COVERAGE`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any

PATHWAYS = "pathways"
"""The name of the collection in pathways.gmt."""

COVERAGE = {PATHWAYS: 0.9}
"""Collection -> share of a set's genes that must have been measured: 0.9 for pathways (section 4.1 of the paper).

In other collections one measured gene suffices: they are a few large groups, all of which a model reads (in one of the
usual six groups, 53 of 82 genes are measured).
"""

FOLDER = "gene_sets"
"""The subfolder of a data folder with all other collections."""


@dataclass(frozen=True)
class GeneSets:
    """A collection of gene sets in a fixed order. Names of sets are free text: never use one as a file name."""

    names: tuple[str, ...] = ()
    genes: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_gmt(cls, file: str | Path | Location) -> GeneSets:
        """Read a GMT file: one set per line, tab separated: name, description, genes.

        Raises DataError naming every line that is not such a set, and every repeated name.
        """
        file = Location.at(file)
        lines = enumerate(file.read_text().splitlines(), start=1)
        fields = [(number, line.split("\t")) for number, line in lines if line.strip()]
        if not fields:
            raise DataError([f"{file}: holds no gene sets."])
        return cls.from_rows(((number, name.strip(), rest[1:]) for number, (name, *rest) in fields), file)

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[int, str, Sequence[str]]], file: Path | Location) -> GeneSets:
        """The sets of the rows of a file: line, name and genes, of which some may be blank.

        Raises DataError naming every row that is not a set, and every repeated name.
        """
        sets: dict[str, tuple[str, ...]] = {}
        problems = []
        for line, name, members in rows:
            genes = tuple(dict.fromkeys(gene for member in members if (gene := member.strip())))
            if not name or not name.isprintable():
                problems.append(f"{file}:{line}: gene set name {name[:60]!r}; expected printable text first.")
            elif not genes:
                problems.append(
                    f"{file}:{line}: no genes in gene set {name[:60]!r}; expected name, description and genes with "
                    f"tabs between them. Fix: replace blanks by tabs, or drop the line."
                )
            elif name in sets:
                problems.append(f"{file}:{line}: gene set {name!r} is already above. Fix: rename or drop it.")
            else:
                sets[name] = genes
        raise_if_any(problems)
        return cls(tuple(sets), tuple(sets.values()))

    def to_gmt(self) -> str:
        lines = ("\t".join((name, "", *genes)) for name, genes in zip(self.names, self.genes, strict=True))
        return "".join(line + "\n" for line in lines)

    def coverage(self, genes: Collection[str]) -> list[float]:
        """The share of each set's genes that were measured."""
        measured = set(genes)
        return [len(measured.intersection(members)) / len(members) for members in self.genes]

    def covered_by(self, genes: Collection[str], share: float) -> GeneSets:
        """The sets with at least this share of measured genes, and at least one; without their other genes."""
        measured = set(genes)
        kept = [
            (name, tuple(gene for gene in members if gene in measured))
            for name, members, covered in zip(self.names, self.genes, self.coverage(measured), strict=True)
            if covered >= share and covered > 0
        ]
        return GeneSets(tuple(name for name, _ in kept), tuple(members for _, members in kept))


def least_coverage(collection: str) -> float:
    """The share of a set's genes that must have been measured; 0 means a single gene. See `COVERAGE`."""
    return COVERAGE.get(collection, 0.0)


def collection_path(collection: str) -> str:
    """The path of a collection's GMT file, relative to the data folder. Raises DataError for an invalid name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", collection):
        raise DataError(
            [
                f"{collection[:60]!r} cannot be the name of a collection of gene sets. "
                f"Fix: use letters, digits, underscores and hyphens, with a letter or digit first."
            ]
        )
    return "pathways.gmt" if collection == PATHWAYS else f"{FOLDER}/{collection}.gmt"


def read_collections(root: Location) -> tuple[dict[str, GeneSets], list[str]]:
    """The readable collections of a data folder, by name, pathways first; and the problems of the others."""
    others = [name.removesuffix(".gmt") for name in (root / FOLDER).names() if name.endswith(".gmt")]
    collections: dict[str, GeneSets] = {}
    problems = []
    if PATHWAYS in others:
        problems.append(f"{root / FOLDER}/pathways.gmt: pathways belong in {root}/pathways.gmt. Fix: move it.")
    for name in dict.fromkeys([PATHWAYS, *others]):
        try:
            file = root / collection_path(name)
            if file.is_file():
                collections[name] = GeneSets.from_gmt(file)
        except DataError as error:
            problems += error.problems
    return collections, problems
