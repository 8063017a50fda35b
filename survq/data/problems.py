"""How survq says that its input is wrong: everything at once, each with its place and its mend."""

from __future__ import annotations

from collections.abc import Sequence

from survq.exits import DATA, Mendable

SHOWN = 20  # of many problems


class DataError(Mendable, ValueError):
    """The input cannot be used. Carries every problem found in one pass, as sentences."""

    exit_code = DATA

    def __init__(self, problems: list[str]):
        self.problems = list(problems)
        super().__init__("\n".join([f"{len(self.problems)} problem(s) in the data:", *itemised(self.problems)]))

    def __reduce__(self):
        return type(self), (self.problems,)


def raise_if_any(problems: list[str]) -> None:
    if problems:
        raise DataError(problems)


def itemised(sentences: Sequence[str]) -> list[str]:
    """The first of many sentences, a line each, and a line that says how many more there are."""
    more = len(sentences) - SHOWN
    return [f"  - {sentence}" for sentence in sentences[:SHOWN]] + ([f"  ... and {more} more"] if more > 0 else [])


def some(names, limit: int = 3) -> str:
    """The first few of many names, escaped: ids come from users' files and may hold anything."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
