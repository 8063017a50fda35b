"""TCGA barcodes: TCGA-XX-YYYY-01A is a sample of type 01 of case TCGA-XX-YYYY, from the tissue source site XX.

Sample types: 01 primary tumour, 03 blood, 06 metastasis, 11 normal tissue. Other ids stay unchanged.
"""

from __future__ import annotations

PRIMARY = ("01",)


def case_of(barcode: str) -> str:
    """The case of a sample or slide; an id that is not a TCGA barcode is taken as the case's."""
    return barcode[:12] if barcode.startswith("TCGA-") else barcode


def sample_type(barcode: str) -> str | None:
    """Two digits; None for the barcode of a case, and for ids that are not TCGA barcodes."""
    kind = barcode[13:15]
    return kind if barcode.startswith("TCGA-") and barcode[12:13] == "-" and len(kind) == 2 else None


def site_of(case: str) -> str | None:
    """The tissue source site: the second part of the barcode."""
    return case[5:7] if case.startswith("TCGA-") and len(case) >= 12 else None
