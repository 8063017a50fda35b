"""The outcome columns and event codings of known clinical tables, which are recognised by the names of their columns.

    SurvPath, PORPOISE, MCAT      survival_months_dss, censorship_dss     1 = censored, months
    MMP                           dss_survival_days, dss_censorship       1 = censored, days
    TCGA-CDR, UCSC Xena           DSS.time, DSS                           1 = event, days
    cBioPortal                    DSS_MONTHS, DSS_STATUS                  0:... and 1:..., 1 = event, months
    GDC                           days_to_death, days_to_last_follow_up   vital_status Dead and Alive, days; OS only

Nothing is guessed from the values. For other tables, the user states columns and coding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from survq.data.problems import DataError
from survq.importing.text_table import describe_columns

Endpoint = Literal["DSS", "OS", "PFI", "DFI", "PFS"]
Unit = Literal["months", "days", "years"]
ENDPOINTS: dict[Endpoint, str] = {
    "DSS": "disease-specific survival",
    "OS": "overall survival",
    "PFI": "progression-free interval",
    "DFI": "disease-free interval",
    "PFS": "progression-free survival",
}


@dataclass(frozen=True)
class Columns:
    """The columns of an outcome in a table, and its coding."""

    layout: str
    case: str
    times: tuple[str, ...]  # one column; or two, of the time to the event and of that to the last follow-up
    status: str
    unit: Unit
    event: tuple[str, ...]  # the values of `status` that mean an event
    censored: tuple[str, ...]
    types: str | None = None  # column of the cancer type
    redaction: str | None = None  # column with the reason why a patient must not be used


Names = tuple[str, ...]
"""The names that one column has in different releases; the first that a table has counts."""


@dataclass(frozen=True)
class _Layout:
    name: str
    case: Names
    endpoints: Mapping[Endpoint, tuple[Names, ...]]  # one or two columns of time, and the status
    unit: Unit
    event: tuple[str, ...] = ("1",)
    censored: tuple[str, ...] = ("0",)
    types: str = ""
    redaction: str = ""


def _named(*pairs: tuple[Endpoint, str, str]) -> dict[Endpoint, tuple[Names, ...]]:
    return {endpoint: ((time,), (status,)) for endpoint, time, status in pairs}


_CDR = _named(*((name, f"{name}.time", name) for name in ENDPOINTS))
_LAYOUTS = [
    _Layout(
        "SurvPath or PORPOISE",
        ("case_id",),
        _named(
            ("DSS", "survival_months_dss", "censorship_dss"),
            ("OS", "survival_months", "censorship"),
            ("PFI", "survival_months_pfi", "censorship_pfi"),
        ),
        "months",
        event=("0",),
        censored=("1",),
    ),
    _Layout(
        "MMP",
        ("case_id",),
        _named(*((name, f"{name.lower()}_survival_days", f"{name.lower()}_censorship") for name in ENDPOINTS)),
        "days",
        event=("0",),
        censored=("1",),
        redaction="redaction",
    ),
    _Layout("TCGA-CDR", ("bcr_patient_barcode",), _CDR, "days", types="type", redaction="Redaction"),
    _Layout("UCSC Xena", ("sample",), _CDR, "days", types="cancer type abbreviation", redaction="Redaction"),
    _Layout(
        "cBioPortal",
        ("PATIENT_ID",),
        _named(
            ("DSS", "DSS_MONTHS", "DSS_STATUS"),
            ("OS", "OS_MONTHS", "OS_STATUS"),
            ("PFS", "PFS_MONTHS", "PFS_STATUS"),
        ),
        "months",
        event=("1", "DECEASED", "PROGRESSION"),
        censored=("0", "LIVING", "CENSORED"),
    ),
    _Layout(
        "cBioPortal",
        ("Patient ID",),
        _named(
            ("DSS", "Months of disease-specific survival", "Disease-specific Survival status"),
            ("OS", "Overall Survival (Months)", "Overall Survival Status"),
            ("PFS", "Progress Free Survival (Months)", "Progression Free Status"),
        ),
        "months",
        event=("1", "DECEASED", "PROGRESSION"),
        censored=("0", "LIVING", "CENSORED"),
    ),
    _Layout(
        "GDC",
        ("cases.submitter_id", "case_submitter_id", "submitter_id", "bcr_patient_barcode", "case_id", "sample"),
        {
            "OS": (
                ("demographic.days_to_death", "days_to_death", "days_to_death.demographic", "death_days_to"),
                (
                    *("diagnoses.days_to_last_follow_up", "days_to_last_follow_up", "days_to_last_followup"),
                    *("days_to_last_follow_up.diagnoses", "last_contact_days_to"),
                ),
                ("demographic.vital_status", "vital_status", "vital_status.demographic"),
            )
        },
        "days",
        event=("Dead", "Deceased"),
        censored=("Alive", "Living"),
    ),
]


def columns_of(header: Sequence[str], endpoint: Endpoint, file: object) -> Columns:
    """The columns of `endpoint` in a table of a known layout.

    Raises DataError if the layout is unknown, or has only other endpoints.
    """
    names = {name.casefold(): name for name in header}

    def present(alternatives: Names) -> str | None:
        return next((names[name.casefold()] for name in alternatives if name and name.casefold() in names), None)

    layouts = [layout for layout in _LAYOUTS if present(layout.case)]
    held: dict[Endpoint, str] = {}
    for layout in layouts:
        for name, wanted in layout.endpoints.items():
            *times, status = [column for alternatives in wanted if (column := present(alternatives))] or [""]
            if len(times) + 1 < len(wanted):
                continue
            if name == endpoint:
                return Columns(
                    layout=layout.name,
                    case=present(layout.case) or "",
                    times=tuple(times),
                    status=status,
                    unit=layout.unit,
                    event=layout.event,
                    censored=layout.censored,
                    types=present((layout.types,)),
                    redaction=present((layout.redaction,)),
                )
            held.setdefault(name, layout.name)
    if held:
        raise DataError(
            [
                f"{file}: lacks {ENDPOINTS[endpoint]} ({endpoint}); as a table of {' or '.join(set(held.values()))}, "
                f"it has {' and '.join(held)}. Fix: use --outcome {next(iter(held))}, or a table with {endpoint}, "
                f"such as those of TCGA-CDR and Xena's TCGA hub."
            ]
        )
    named = [one[0] for layout in layouts or _LAYOUTS for columns in layout.endpoints.values() for one in columns]
    raise DataError(
        [
            f"{file}: unknown layout of a clinical table; {describe_columns(header, named[:2])}, or state the columns: "
            f"--case-column, --time-column, --time-unit, and --event-column or --censorship-column."
        ]
    )
