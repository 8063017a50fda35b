"""survq import labels"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from survq.commands.console import show_cohort
from survq.exits import UsageError


@dataclass(frozen=True)
class ImportLabels:
    """Who lived how long: the clinical table that defines the cases of a cohort. It comes first.

    Recognised by their columns: SurvPath, PORPOISE, MMP, TCGA-CDR (xlsx), UCSC Xena, cBioPortal; CSV or TSV, packed or
    not. Any other table needs its columns stated, with the time unit and what means an event: it is never guessed.
    Expression, splits and features that are there stay; who is left out is listed in dropped.csv with the reason.

    example:  survq import labels TCGA-CDR-SupplementalTableS1.xlsx data --cohort COADREAD --types COAD READ
              survq import labels patients.csv data --cohort MINE --case-column id --time-column days --time-unit days
                  --event-column status --event-values dead --censored-values alive

    next:     survq import pathways SIGNATURES data
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """Clinical table: a row a case, sample or slide."""
    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Data folder."""
    cohort: Annotated[str, arg(metavar="NAME")]
    """Cohort to make, or to give new labels."""
    outcome: Literal["DSS", "OS", "PFI", "DFI"] = "DSS"
    """Disease-specific survival, as in the paper; overall survival; progression-free or disease-free interval."""
    types: Annotated[tuple[str, ...], arg(metavar="TYPE ...")] = ()
    """Cancer types to take from a table of many. By default the one named like the cohort."""
    sample_types: Annotated[tuple[str, ...], arg(metavar="NN ...")] = ("01",)
    """Sample types to take, by characters 14-15 of a TCGA barcode: 03 is blood, 06 a metastasis."""
    case_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """Of a table of your own: the case ids."""
    time_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """The time to the event or to the last follow-up."""
    time_unit: Literal["days", "months"] | None = None
    """What that time is counted in. 30 days are a month."""
    event_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """1 where the event was observed, 0 where the case is censored."""
    censorship_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """Instead of it: 1 where the case is censored, 0 where the event was observed."""
    event_values: Annotated[tuple[str, ...], arg(metavar="VALUE ...")] = ()
    """Other values of that column that mean an event; with --censored-values."""
    censored_values: Annotated[tuple[str, ...], arg(metavar="VALUE ...")] = ()
    """The values that mean a censored case."""

    def run(self) -> int:
        from survq.data.location import Location
        from survq.importing.labels import import_labels
        from survq.importing.outcomes import ENDPOINTS, Columns

        own = [self.case_column, self.time_column, self.time_unit, self.event_column or self.censorship_column]
        if any([*own, self.event_values, self.censored_values]) and not all(own):
            raise UsageError(
                "a table of your own needs all of --case-column, --time-column, --time-unit, and --event-column or "
                "--censorship-column"
            )
        if (self.event_column and self.censorship_column) or bool(self.event_values) != bool(self.censored_values):
            raise UsageError(
                "give --event-column or --censorship-column, and --event-values together with --censored-values"
            )
        columns = None
        if self.case_column and self.time_column and self.time_unit:
            event, censored = ("1", "0") if self.event_column else ("0", "1")
            columns = Columns(
                layout="stated",
                case=self.case_column,
                time=self.time_column,
                status=self.event_column or self.censorship_column or "",
                unit=self.time_unit,
                event=self.event_values or (event,),
                censored=self.censored_values or (censored,),
            )
        root = Location.at(self.data)
        labels, dropped = import_labels(
            self.file,
            root,
            self.cohort,
            endpoint=self.outcome,
            columns=columns,
            types=self.types,
            sample_types=self.sample_types,
        )
        used = labels.source["columns"]
        show_cohort(
            self.cohort,
            f"{len(labels.cases)} cases, {labels.cases['event'].sum()} events, {ENDPOINTS[self.outcome]}",
            [
                f"read as a table of {used['layout']}: {used['time']} in {used['unit']}, {used['status']} = "
                f"{' or '.join(used['event'])} is an event, {' or '.join(used['censored'])} a censored case",
                *labels.notes,
            ],
            dropped,
        )
        print(f"\nWritten to {root / self.cohort}; who was left out stands in dropped.csv.")
        print(f"Next: survq import pathways SIGNATURES {self.data}; survq import expression FILE {self.data} ...")
        return 0
