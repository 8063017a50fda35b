"""The outcome columns and event codings of known clinical tables, which are recognised by the names of their columns.

    SurvPath, PORPOISE, MCAT      survival_months_dss, censorship_dss     1 = censored, months
    MMP                           dss_survival_days, dss_censorship       1 = censored, days
    TCGA-CDR, UCSC Xena           DSS.time, DSS                           1 = event, days
    cBioPortal                    DSS_MONTHS, DSS_STATUS                  0:... and 1:..., 1 = event, months

Nothing is guessed from the values. For other tables, the user states columns and coding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from survq.data.problems import DataError
from survq.importing.text_table import describe_columns

Endpoint = Literal["DSS", "OS", "PFI", "DFI"]
ENDPOINTS: dict[Endpoint, str] = {
    "DSS": "disease-specific survival",
    "OS": "overall survival",
    "PFI": "progression-free interval",
    "DFI": "disease-free interval",
}


@dataclass(frozen=True)
class Columns:
    """The columns of an outcome in a table, and its coding."""

    layout: str
    case: str
    time: str
    status: str
    unit: Literal["months", "days"]
    event: tuple[str, ...]  # the values of `status` that mean an event
    censored: tuple[str, ...]
    types: str | None = None  # column of the cancer type
    redaction: str | None = None  # column with the reason why a patient must not be used


@dataclass(frozen=True)
class _Layout:
    name: str
    case: str
    endpoints: Mapping[Endpoint, tuple[str, str]]  # time, status
    unit: Literal["months", "days"]
    event: str = "1"
    types: str | None = None
    redaction: str | None = None


_CDR: dict[Endpoint, tuple[str, str]] = {name: (f"{name}.time", name) for name in ENDPOINTS}
_LAYOUTS = [
    _Layout(
        "SurvPath or PORPOISE",
        "case_id",
        {
            "DSS": ("survival_months_dss", "censorship_dss"),
            "OS": ("survival_months", "censorship"),
            "PFI": ("survival_months_pfi", "censorship_pfi"),
        },
        "months",
        event="0",
    ),
    _Layout(
        "MMP",
        "case_id",
        {name: (f"{name.lower()}_survival_days", f"{name.lower()}_censorship") for name in ENDPOINTS},
        "days",
        event="0",
        redaction="redaction",
    ),
    _Layout("TCGA-CDR", "bcr_patient_barcode", _CDR, "days", types="type", redaction="Redaction"),
    _Layout("UCSC Xena", "sample", _CDR, "days", types="cancer type abbreviation", redaction="Redaction"),
    _Layout(
        "cBioPortal",
        "PATIENT_ID",
        {"DSS": ("DSS_MONTHS", "DSS_STATUS"), "OS": ("OS_MONTHS", "OS_STATUS")},
        "months",
    ),
    _Layout(
        "cBioPortal",
        "Patient ID",
        {
            "DSS": ("Months of disease-specific survival", "Disease-specific Survival status"),
            "OS": ("Overall Survival (Months)", "Overall Survival Status"),
        },
        "months",
    ),
]


def columns_of(header: Sequence[str], endpoint: Endpoint, file: object) -> Columns:
    """The columns of `endpoint` in a table of a known layout.

    Raises DataError if the layout is unknown, or has only other endpoints.
    """
    names = {name.casefold(): name for name in header}
    layouts = [layout for layout in _LAYOUTS if layout.case.casefold() in names]
    held: dict[Endpoint, str] = {}
    for layout in layouts:
        for name, (time, status) in layout.endpoints.items():
            if time.casefold() not in names or status.casefold() not in names:
                continue
            if name == endpoint:
                return Columns(
                    layout=layout.name,
                    case=names[layout.case.casefold()],
                    time=names[time.casefold()],
                    status=names[status.casefold()],
                    unit=layout.unit,
                    event=(layout.event,),
                    censored=("0" if layout.event == "1" else "1",),
                    types=names.get((layout.types or "").casefold()) or None,
                    redaction=names.get((layout.redaction or "").casefold()) or None,
                )
            held[name] = layout.name
    if held:
        raise DataError(
            [
                f"{file}: lacks {ENDPOINTS[endpoint]} ({endpoint}); as a table of {' or '.join(set(held.values()))}, "
                f"it has {' and '.join(held)}. Fix: use --outcome {next(iter(held))}, or a table with {endpoint}, "
                f"such as those of TCGA-CDR and Xena's TCGA hub."
            ]
        )
    named = [column for layout in layouts or _LAYOUTS for pair in layout.endpoints.values() for column in pair]
    raise DataError(
        [
            f"{file}: unknown layout of a clinical table; {describe_columns(header, named[:2])}, or state the columns: "
            f"--case-column, --time-column, --time-unit, and --event-column or --censorship-column."
        ]
    )
