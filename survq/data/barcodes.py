"""TCGA barcodes: TCGA-XX-YYYY-01A is a sample of case TCGA-XX-YYYY, of the type 01, from the tissue source site XX.

Sample types: 01 is the primary tumour, 03 that of blood, 06 a metastasis, 11 normal tissue. Other ids are left alone.
"""

from __future__ import annotations

PRIMARY = ("01",)


def case_of(barcode: str) -> str:
    """The case of a sample or slide; an id that is no TCGA barcode is that of a case."""
    return barcode[:12] if barcode.startswith("TCGA-") else barcode


def sample_type(barcode: str) -> str | None:
    """Two digits; None where the barcode is that of a case, or no TCGA barcode."""
    kind = barcode[13:15]
    return kind if barcode.startswith("TCGA-") and barcode[12:13] == "-" and len(kind) == 2 else None


def site_of(case: str) -> str | None:
    """The tissue source site, as in the second part of the barcode."""
    return case[5:7] if case.startswith("TCGA-") and len(case) >= 12 else None
