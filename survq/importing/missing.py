"""What is missing in a table: one list for labels, expression, gene sets, splits and tables of names.

A cell is missing if it is blank, one of WORDS in any letter case, text in brackets such as TCGA's [Discrepancy], or
nothing but signs, such as GDC's '--. A row of missing cells only is no row: spreadsheets leave many at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

WORDS = frozenset(
    {
        *("", "na", "n/a", "n.a.", "n.a", "nan", "<na>", "none", "null", "missing", "unknown", "unspecified"),
        *("not available", "not applicable", "not reported", "not evaluated", "not provided", "not specified"),
        *("not allowed to collect", "not_available", "not_reported", "not_applicable"),
        *("#n/a", "#na", "#value!", "#ref!", "#div/0!", "#num!", "#null!", "#name?"),
    }
)
_SIGNS = re.compile(r"""['"\-–—.?*/\\]+|\[.*\]""")


@dataclass(frozen=True)
class Missing:
    """The rule above; `cell in missing` asks it. `words` are further spellings that a user states."""

    words: frozenset[str] = frozenset()

    @classmethod
    def and_also(cls, words: Iterable[str]) -> Missing:
        return cls(frozenset(word.strip().lower() for word in words))

    def __contains__(self, cell: str) -> bool:
        cell = cell.strip().lower()
        return cell in WORDS or cell in self.words or _SIGNS.fullmatch(cell) is not None

    def all(self, row: Iterable[str]) -> bool:
        """Whether a row is empty."""
        return all(cell in self for cell in row)

    @property
    def spellings(self) -> list[str]:
        """The words as tables commonly spell them; a cell may be missing without being in this list."""
        words = WORDS | self.words
        common = {spelling for word in words for spelling in (word, word.upper(), word.capitalize(), word.title())}
        return sorted(common | {"NaN", "'--", "--", "-", "."})


MISSING = Missing()
