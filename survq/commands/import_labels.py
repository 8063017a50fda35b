"""survq import labels"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

from tyro.conf import Positional, arg

from survq.commands.console import one_of, show_cohort
from survq.exits import UsageError


@dataclass(frozen=True)
class ImportLabels:
    """Import survival labels from a clinical table. Import them first: they define the cases of a cohort.

    Tables of SurvPath, PORPOISE, MMP, TCGA-CDR (xlsx), UCSC Xena, cBioPortal and GDC are recognised by their columns;
    CSV or TSV, optionally compressed. For other tables state the columns, the time unit and the event coding: nothing
    is guessed. Age, sex, stage and grade are kept where the table has them. Existing expression, splits and features
    are kept. dropped.csv lists excluded cases with the reason.

    example:  survq import labels TCGA-CDR-SupplementalTableS1.xlsx data --cohort COADREAD --types COAD READ
              survq import labels patients.csv data --cohort MINE --case-column id --time-column days --time-unit days
                  --event-column status --event-values dead --censored-values alive

    next:     survq import pathways SIGNATURES data
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """Clinical table with one row per case, sample or slide."""
    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Data folder."""
    cohort: Annotated[str, arg(metavar="NAME")]
    """Cohort to create, or to update with new labels."""
    outcome: Literal["DSS", "OS", "PFI", "DFI", "PFS"] = "DSS"
    """Endpoint: disease-specific (as in the paper) or overall survival, progression- or disease-free interval,
    cBioPortal's progression-free survival."""
    types: Annotated[tuple[str, ...], arg(metavar="TYPE ...")] = ()
    """Cancer types to import from a pan-cancer table. If omitted: the name of the cohort."""
    sample_types: Annotated[tuple[str, ...], arg(metavar="NN ...")] = ("01",)
    """Sample types to import, by characters 14-15 of the TCGA barcode: 01 primary tumour, 03 blood, 06 metastasis."""
    case_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """For other tables: column of the case ids."""
    time_column: Annotated[tuple[str, ...], arg(metavar="COLUMN ...")] = ()
    """For other tables: column of the time to the event or to the last follow-up; or two, the first with the time to
    the event and the second with that to the last follow-up, such as days_to_death days_to_last_follow_up."""
    time_unit: Annotated[str | None, arg(metavar="{days,months,years}")] = None
    """Unit of that time; a month is 30 days, a year 12 months."""
    event_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """For other tables: column with 1 for an observed event and 0 for a censored case."""
    censorship_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """Alternative to --event-column: column with 1 for a censored case and 0 for an observed event."""
    event_values: Annotated[tuple[str, ...], arg(metavar="VALUE ...")] = ()
    """Values of that column that mean an event, if other than 0 and 1; needs --censored-values."""
    censored_values: Annotated[tuple[str, ...], arg(metavar="VALUE ...")] = ()
    """Values of that column that mean a censored case; needs --event-values."""
    missing: Annotated[tuple[str, ...], arg(metavar="TEXT ...")] = ()
    """Further spellings of a missing value, such as -999 (as --missing=-999)."""

    def run(self) -> int:
        from survq.data.location import Location
        from survq.importing.labels import import_labels
        from survq.importing.missing import Missing
        from survq.importing.outcomes import ENDPOINTS, Columns, Unit

        own = [self.case_column, self.time_column, self.time_unit, self.event_column or self.censorship_column]
        if any([*own, self.event_values, self.censored_values]) and not all(own):
            raise UsageError(
                "a table with stated columns needs --case-column, --time-column, --time-unit, and --event-column or "
                "--censorship-column"
            )
        if (self.event_column and self.censorship_column) or bool(self.event_values) != bool(self.censored_values):
            raise UsageError(
                "give --event-column or --censorship-column, and --event-values together with --censored-values"
            )
        unit = one_of("--time-unit", self.time_unit, get_args(Unit))
        if len(self.time_column) > 2:
            raise UsageError("--time-column takes one column, or two: of the time to the event and to the follow-up")
        columns = None
        if self.case_column and self.time_column and self.time_unit:
            event, censored = ("1", "0") if self.event_column else ("0", "1")
            columns = Columns(
                layout="stated",
                case=self.case_column,
                times=self.time_column,
                status=self.event_column or self.censorship_column or "",
                unit=cast(Unit, unit),
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
            missing=Missing.and_also(self.missing),
        )
        used = labels.source["columns"]
        events, censored = " or ".join(used["event"]), " or ".join(used["censored"])
        show_cohort(
            self.cohort,
            f"{len(labels.cases)} cases, {labels.cases['event'].sum()} events, {ENDPOINTS[self.outcome]}",
            [
                f"layout: {used['layout']}; time: {' or '.join(used['times'])} in {used['unit']}; "
                f"event: {used['status']} = {events}; censored: {used['status']} = {censored}",
                *labels.notes,
            ],
            dropped,
        )
        print(f"\nWritten to {root / self.cohort}; dropped.csv lists excluded cases.")
        print(f"Next: survq import pathways SIGNATURES {self.data}; survq import expression FILE {self.data} ...")
        return 0
