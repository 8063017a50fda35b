"""Errors about the input data: all problems at once, each with its place and its fix."""

from __future__ import annotations

from survq.exits import DATA, STORAGE, UserError
from survq.text import itemised


class DataError(UserError, ValueError):
    """The input data cannot be used. `problems` holds a message for every problem found in one pass."""

    exit_code = DATA

    def __init__(self, problems: list[str]):
        self.problems = list(problems)
        super().__init__("\n".join([f"{len(self.problems)} problem(s) in the data:", *itemised(self.problems)]))

    def __reduce__(self):
        return type(self), (self.problems,)


class BucketUnavailable(UserError):
    """A bucket does not answer, which says nothing about the data in it."""

    exit_code = STORAGE


class DiskFull(UserError):
    """The disk is full to which Ray writes what exceeds an object store."""

    exit_code = STORAGE


def raise_if_any(problems: list[str]) -> None:
    if problems:
        raise DataError(problems)
