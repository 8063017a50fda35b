"""The `survq` command makes and checks data folders. Studies are run with `python studies/<study>.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import subcommand

from survq.command_line import READERS
from survq.commands.check import Check
from survq.commands.extract import Extract
from survq.commands.fetch import Fetch
from survq.commands.import_expression import ImportExpression
from survq.commands.import_features import ImportFeatures
from survq.commands.import_labels import ImportLabels
from survq.commands.import_pathways import ImportPathways
from survq.commands.import_splits import ImportSplits
from survq.commands.import_survpath import ImportSurvPath
from survq.commands.predict import Predict
from survq.commands.report import Report
from survq.commands.simulate import Simulate
from survq.exits import USAGE, exit_on_user_error
from survq.output import unfailing_output


@dataclass(frozen=True)
class Import:
    """Import existing files into a data folder. All tables are joined by case id.

    example:  survq import survpath ~/SurvPath data --cohorts BLCA

    next:     survq import features ~/trident/features_uni_v1 data --cohort BLCA
    """

    what: (
        Annotated[ImportLabels, subcommand("labels")]
        | Annotated[ImportExpression, subcommand("expression")]
        | Annotated[ImportFeatures, subcommand("features")]
        | Annotated[ImportPathways, subcommand("pathways")]
        | Annotated[ImportSplits, subcommand("splits")]
        | Annotated[ImportSurvPath, subcommand("survpath")]
    )

    def run(self) -> int:
        return self.what.run()


Command = (
    Annotated[Import, subcommand("import")]
    | Annotated[Fetch, subcommand("fetch")]
    | Annotated[Extract, subcommand("extract")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Simulate, subcommand("simulate")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        with unfailing_output():
            command = tyro.cli(
                Command,
                prog="survq",
                description=f"{__doc__}\n\nTo get started:  survq simulate data && survq check data",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
                registry=READERS,
            )
    except SystemExit as end:
        return USAGE if end.code else 0
    try:
        with exit_on_user_error():
            return command.run()
    except SystemExit as end:
        return int(end.code or 0)


if __name__ == "__main__":
    sys.exit(main())
