"""Names of genes: from Ensembl ids to symbols, and from one symbol of a gene to another of the same gene.

survq ships no such table. Both come from files that the user has, can read and can edit.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from survq.data.problems import DataError
from survq.importing.text_table import read_text_table
from survq.text import preview

ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(\.\d+)?(_PAR_Y)?")


def are_ensembl(names: Collection[str]) -> bool:
    return sum(ENSEMBL.fullmatch(name) is not None for name in names) > len(names) / 2


@dataclass(frozen=True)
class GeneMap:
    """Ensembl ids to symbols, as a probemap of Xena has them: the columns id and gene."""

    symbols: Mapping[str, str]  # by id with its version, and by id without

    @classmethod
    def read(cls, file: Path) -> GeneMap:
        """Raises DataError where the file has no columns id and gene, or no Ensembl ids."""
        table = read_text_table(file, needed=["id", "gene"])
        symbols = {name: gene for name, gene in zip(table["id"], table["gene"], strict=True) if gene}
        if not are_ensembl(symbols):
            raise DataError(
                [f"{file}: its ids are {preview(symbols)}; expected Ensembl ids such as ENSG00000141510.16."]
            )
        return cls({**{_plain(name): gene for name, gene in symbols.items()}, **symbols})

    def symbol(self, name: str) -> str | None:
        """Of an id, also where only its version differs. The copy of a gene on chromosome Y is that gene."""
        return self.symbols.get(name) or self.symbols.get(_plain(name))


@dataclass(frozen=True)
class Aliases:
    """Which names belong to one gene."""

    others: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, gene_map: GeneMap | None = None) -> Aliases:
        """From a table with the columns alias and symbol; from HGNC's complete set; or from a second probemap.

        HGNC's has symbol, prev_symbol and alias_symbol, several names separated by `|`. A probemap of another release
        than `gene_map` names the same Ensembl ids, some by other symbols. Raises DataError where it is none of them.
        """
        table = read_text_table(file)
        pairs: list[tuple[str, str]] = []
        if {"alias", "symbol"} <= set(table):
            pairs += zip(table["alias"], table["symbol"], strict=True)
        elif {"symbol", "prev_symbol", "alias_symbol"} <= set(table):
            for column in ("prev_symbol", "alias_symbol"):
                for symbol, names in zip(table["symbol"], table[column], strict=True):
                    pairs += ((name, symbol) for name in names.strip('"').split("|"))
        elif {"id", "gene"} <= set(table) and gene_map is not None:
            pairs += (
                (gene_map.symbol(name) or "", gene) for name, gene in zip(table["id"], table["gene"], strict=True)
            )
        else:
            raise DataError(
                [
                    f"{file}: has the columns {preview(table, 9)}; expected alias and symbol, or HGNC's symbol, "
                    f"prev_symbol and alias_symbol, or, together with --gene-map, a probemap's id and gene."
                ]
            )
        return cls.of(pairs)

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Aliases:
        others: dict[str, set[str]] = defaultdict(set)
        for one, other in pairs:
            one, other = one.strip(), other.strip()
            if one and other and one != other:
                others[one].add(other)
                others[other].add(one)
        return cls({name: frozenset(names) for name, names in others.items()})

    def of_any(self, names: Iterable[str]) -> set[str]:
        """All other names of these genes."""
        return {other for name in names for other in self.others.get(name, ())}

    def renamed(self, measured: Collection[str], wanted: Collection[str]) -> tuple[dict[str, str], list[str]]:
        """Measured names to wanted ones, for genes that are wanted under a name that was not measured.

        Only where there is one reading: one measured gene of that name, which is itself not wanted, for one wanted
        gene. The wanted genes with several readings come second.
        """
        measured, wanted = set(measured), set(wanted)
        readings = {
            name: candidates
            for name in sorted(wanted - measured)
            if (candidates := (self.others.get(name, frozenset()) & measured) - wanted)
        }
        claims = [other for candidates in readings.values() for other in candidates]
        clear = {
            next(iter(candidates)): name
            for name, candidates in readings.items()
            if len(candidates) == 1 and claims.count(next(iter(candidates))) == 1
        }
        return clear, [name for name in readings if name not in clear.values()]


def _plain(name: str) -> str:
    match = ENSEMBL.fullmatch(name)
    return match[1] if match else name
