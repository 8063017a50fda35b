"""TCGA barcodes: TCGA-XX-YYYY-01A is a sample of type 01 of case TCGA-XX-YYYY, from the tissue source site XX.

R writes dots for hyphens and some tools write small letters; both are read. Other ids stay unchanged.

The slide type is DX for a diagnostic slide, of fixed tissue, and TS, BS or MS for a frozen section from the top, bottom
or middle of a sample: TCGA-XX-YYYY-01Z-00-DX1.
"""

from __future__ import annotations

import re
from collections.abc import Collection

PRIMARY = ("01",)
DIAGNOSTIC = ("DX",)

SAMPLE_TYPES = {
    "01": "primary tumor",
    "02": "recurrent tumor",
    "03": "primary blood derived cancer - peripheral blood",
    "04": "recurrent blood derived cancer - bone marrow",
    "05": "additional - new primary",
    "06": "metastatic",
    "07": "additional metastatic",
    "09": "primary blood derived cancer - bone marrow",
    "10": "blood derived normal",
    "11": "solid tissue normal",
    "12": "buccal cell normal",
    "14": "bone marrow normal",
    "20": "control analyte",
    "40": "recurrent blood derived cancer - peripheral blood",
    "50": "cell lines",
    "60": "primary xenograft tissue",
}
"""The codes in characters 14 and 15 of a barcode that occur in TCGA, and their names in GDC's tables."""

OTHER_NAMES = {
    **{name: "01" for name in ("primary", "primary solid tumor", "primary tumour", "tumor", "tumour")},
    **{name: "02" for name in ("recurrence", "recurrent solid tumor", "recurrent tumour")},
    **{name: "06" for name in ("metastasis",)},
    **{name: "11" for name in ("normal", "normal tissue", "adjacent normal", "solid normal")},
}

_BARCODE = re.compile(
    r"(TCGA)[-._]([A-Z0-9]{2})[-._]([A-Z0-9]{4})(?![A-Z0-9])(?:[-._](\d{2})[A-Z]?(?![A-Z0-9]))?", re.I
)

_SLIDE = re.compile(r"TCGA(?:[-._][A-Z0-9]+){3,5}[-._](DX|TS|BS|MS)[A-Z0-9]*(?![A-Z0-9])", re.I)


def case_of(barcode: str) -> str:
    """The case of a sample or slide; an id that is not a TCGA barcode is taken as the case's."""
    match = _BARCODE.match(barcode)
    return "-".join(match.group(1, 2, 3)).upper() if match else barcode


def is_barcode(text: str) -> bool:
    return _BARCODE.match(text) is not None


def sample_type(barcode: str) -> str | None:
    """Two digits; None for the barcode of a case, and for ids that are not TCGA barcodes."""
    match = _BARCODE.match(barcode)
    return match[4] if match else None


def sample_type_named(text: str) -> str | None:
    """The code of a sample type in a column of sample types: 01, 01A, 1, Primary Tumor; None for other text."""
    name = text.strip().lower()
    if code := re.fullmatch(r"(\d{1,2})[a-z]?", name):
        return code[1].zfill(2) if code[1].zfill(2) in SAMPLE_TYPES else None
    codes = {other: code for code, other in SAMPLE_TYPES.items()}
    return codes.get(name) or OTHER_NAMES.get(name)


def of_types(barcode: str, types: Collection[str]) -> bool:
    """The rule for labels, expression and slides: a sample is used if its type is one of these, or not stated."""
    return sample_type(barcode) in (None, *types)


def site_of(case: str) -> str | None:
    """The tissue source site: the second part of the barcode."""
    match = _BARCODE.match(case)
    return match[2].upper() if match else None


def slide_type(slide_id: str) -> str | None:
    """DX, TS, BS or MS; None if the barcode does not state it, and for ids that are not TCGA barcodes."""
    match = _SLIDE.match(slide_id)
    return match[1].upper() if match and is_barcode(slide_id) else None


def other_specimen(slide_id: str, sample_types: Collection[str], slide_types: Collection[str]) -> str | None:
    """Why the barcode of a slide excludes it: it is of another sample type or slide type. None if it does not."""
    if not of_types(slide_id, sample_types):
        return f"{specimen(slide_id)}, not in --sample-types {' '.join(sample_types)}"
    if slide_type(slide_id) not in (None, *slide_types):
        return f"{specimen(slide_id)}, not in --slide-types {' '.join(slide_types)}"
    return None


def specimen(slide_id: str) -> str:
    """What a slide shows, by its barcode: sample type 11 (solid tissue normal), slide type TS (frozen section)."""
    sample, kind = sample_type(slide_id), slide_type(slide_id)
    kinds = [f"sample type {sample} ({SAMPLE_TYPES.get(sample, 'unknown')})"] if sample not in (None, *PRIMARY) else []
    if kind is not None:
        kinds.append(f"slide type {kind} ({'diagnostic slide' if kind in DIAGNOSTIC else 'frozen section'})")
    return ", ".join(kinds) or f"sample type {sample}"
