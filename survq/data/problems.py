"""How survq says that its input is wrong: everything at once, each with its place and its mend."""

from survq.exits import DATA, Mendable

SHOWN = 20


class DataError(Mendable, ValueError):
    """The input cannot be used. Carries every problem found in one pass, as sentences."""

    exit_code = DATA

    def __init__(self, problems: list[str]):
        self.problems = list(problems)
        shown = "\n".join(f"  - {problem}" for problem in self.problems[:SHOWN])
        more = f"\n  ... and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
        super().__init__(f"{len(self.problems)} problem(s) in the data:\n{shown}{more}")

    def __reduce__(self):
        return type(self), (self.problems,)


def raise_if_any(problems: list[str]) -> None:
    if problems:
        raise DataError(problems)


def some(names, limit: int = 3) -> str:
    """The first few of many names, escaped: ids come from users' files and may hold anything."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
