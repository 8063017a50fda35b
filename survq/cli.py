"""The `survq` command: make data folders, and look at them. Studies are run with `python studies/<study>.py`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from survq.data.problems import DataError

USAGE, DATA, MISSING, IO, INTERRUPTED = 64, 65, 66, 74, 130  # exit codes, as in sysexits.h


@dataclass(frozen=True)
class Import:
    """Make a data folder of published tables.

    The layout `survpath` is that of the SurvPath repository: labels, expression, pathways and splits, no slides.
    Tables are joined by case id; whoever is left out is listed in dropped.csv with the reason. When anything is
    wrong, all of it is named and nothing is written.

    example:  survq import survpath ~/SurvPath data --cohorts BLCA COADREAD

    next:     survq check data
    """

    layout: Positional[Literal["survpath"]]
    """How SRC is laid out."""
    src: Annotated[Positional[Path], arg(metavar="SRC")]
    """Folder with datasets_csv/ and splits/ in it."""
    dest: Annotated[Positional[Path], arg(metavar="DEST")]
    """Data folder to write. A cohort that is there is replaced."""
    cohorts: Annotated[tuple[str, ...], arg(metavar="COHORT ...")] = ()
    """Cohorts to import. By default all that have both labels and expression."""
    expression: str = "xena"
    """Folder of datasets_csv/raw_rna_data with the expression."""
    pathways: str = "combine"
    """Which <pathways>_signatures.csv of datasets_csv/metadata."""

    def run(self) -> int:
        from survq.data.survpath import import_survpath

        imported = import_survpath(self.src, self.dest, self.cohorts, self.expression, self.pathways)
        for cohort in imported:
            first, *rest = cohort.summary()
            print(f"{cohort.name}: {first}")
            for line in rest:
                print(f"    {line}")
        print(f"\nWritten to {self.dest}; who was left out stands in each cohort's dropped.csv.")
        _next(self.dest, [cohort.name for cohort in imported])
        return 0


@dataclass(frozen=True)
class Check:
    """Show what a data folder holds, and everything that is wrong with it.

    Looks at all cohorts in one pass; exits with 65 where there are problems. A folder in a bucket is read as well.

    example:  survq check data --deep

    next:     python studies/query_counts.py --data data
    """

    folder: Annotated[Positional[str], arg(metavar="DIR")]
    """Data folder, or the address of one in a bucket."""
    deep: bool = False
    """Read every patch feature too, and hold it against its checksum."""

    def run(self) -> int:
        from survq.data.check import check

        report = check(self.folder, deep=self.deep, progress=_progress)
        if report.cohorts:
            print(report.table())
        if report.notes:
            print("\nWorth a look:\n" + "\n".join(f"  - {note}" for note in report.notes))
        if report.problems:
            print(f"\n{len(report.problems)} problems:\n" + "\n".join(f"  - {line}" for line in report.problems))
            return DATA
        print(f"\nNo problems found{'' if self.deep else '; features themselves were not read, --deep does that'}.")
        _next(self.folder, [cohort.name for cohort in report.cohorts])
        return 0


@dataclass(frozen=True)
class Simulate:
    """Make a data folder with a simulated cohort, whose truth is known.

    Nothing is downloaded. How well the truth itself would rank the cases is in simulation.json.

    example:  survq simulate data

    next:     python studies/query_counts.py --data data --cohorts SIM
    """

    dest: Annotated[Positional[Path], arg(metavar="DEST")]
    """Data folder to write."""
    preset: Literal["demo", "test", "rare", "bulk", "interaction"] = "demo"
    """Which world the cases are drawn from."""
    cases: int | None = None
    """How many cases; by default as many as the preset says."""
    seed: int = 0
    """Another seed draws other cases from the same world."""
    name: str = "SIM"
    """Name of the cohort."""

    def run(self) -> int:
        if self.seed < 0 or (self.cases is not None and self.cases < 1):
            return _complain("--seed must be 0 or more, --cases 1 or more", USAGE)
        from survq.data.check import check
        from survq.data.simulate import write_simulated

        folder = write_simulated(self.dest, self.preset, cases=self.cases, seed=self.seed, name=self.name)
        print(check(self.dest).table())
        oracle = json.loads((folder / "simulation.json").read_text())["oracle"]
        print(f"\nWritten to {folder}. The truth itself ranks the cases with a C-index of {oracle['eta']:.3f}.")
        _next(self.dest, [self.name])
        return 0


Command = (
    Annotated[Import, subcommand("import")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Simulate, subcommand("simulate")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        command = tyro.cli(
            Command,
            prog="survq",
            description=f"{__doc__}\n\nA first look:  survq simulate data && survq check data",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as end:
        return USAGE if end.code else 0
    try:
        return command.run()
    except DataError as error:
        return _complain(error, DATA)
    except FileNotFoundError as error:
        return _complain(error, MISSING)
    except OSError as error:
        return _complain(error, IO)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)


def _complain(error: object, code: int) -> int:
    print(f"survq: {error}", file=sys.stderr)
    return code


def _next(folder: object, cohorts: Sequence[str]) -> None:
    names = " ".join(shlex.quote(name) for name in cohorts)
    print(f"Next: python studies/query_counts.py --data {shlex.quote(str(folder))} --cohorts {names}")


def _progress(done: int, slides: int) -> None:
    """On a terminal one line that counts; in a log ten lines."""
    if sys.stderr.isatty():
        print(f"\r{done} of {slides} slides read", end="\n" if done == slides else "", file=sys.stderr, flush=True)
    elif done * 10 // slides > (done - 1) * 10 // slides:
        print(f"{done} of {slides} slides read", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
