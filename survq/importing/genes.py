"""Gene names: from Ensembl ids to symbols, and between several symbols of one gene.

survq ships no such tables. Both come from files of the user.
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
    """Ensembl ids to symbols, from a probemap of Xena: the columns id and gene."""

    symbols: Mapping[str, str]  # by id, both with and without its version

    @classmethod
    def read(cls, file: Path) -> GeneMap:
        """Raises DataError if the file lacks the columns id and gene, or Ensembl ids."""
        table = read_text_table(file, needed=["id", "gene"])
        symbols = {name: gene for name, gene in zip(table["id"], table["gene"], strict=True) if gene}
        if not are_ensembl(symbols):
            raise DataError(
                [f"{file}: its ids are {preview(symbols)}; expected Ensembl ids such as ENSG00000141510.16."]
            )
        return cls({**{_without_version(name): gene for name, gene in symbols.items()}, **symbols})

    def symbol(self, name: str) -> str | None:
        """The symbol of an id, ignoring its version if necessary. A copy on chromosome Y (_PAR_Y) is the same gene."""
        return self.symbols.get(name) or self.symbols.get(_without_version(name))


@dataclass(frozen=True)
class Aliases:
    """The names that belong to one gene."""

    others: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, gene_map: GeneMap | None = None) -> Aliases:
        """Read a table with the columns alias and symbol, HGNC's complete set, or a second probemap.

        HGNC's set has symbol, prev_symbol and alias_symbol, with several names separated by `|`. A probemap of another
        release than `gene_map` has other symbols for some of the same Ensembl ids. Raises DataError for other tables.
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
        """New names for measured genes that are wanted under another name, and the wanted genes with several aliases.

        A gene is renamed only if this is unambiguous: a wanted gene that was not measured has one measured alias,
        which is not itself wanted, and which is an alias of no other such gene.
        """
        measured, wanted = set(measured), set(wanted)
        candidates_of = {
            name: candidates
            for name in sorted(wanted - measured)
            if (candidates := (self.others.get(name, frozenset()) & measured) - wanted)
        }
        claims = [other for candidates in candidates_of.values() for other in candidates]
        unambiguous = {
            next(iter(candidates)): name
            for name, candidates in candidates_of.items()
            if len(candidates) == 1 and claims.count(next(iter(candidates))) == 1
        }
        return unambiguous, [name for name in candidates_of if name not in unambiguous.values()]


def _without_version(name: str) -> str:
    match = ENSEMBL.fullmatch(name)
    return match[1] if match else name
