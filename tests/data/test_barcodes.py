"""One reading of barcodes for labels, expression and slides."""

import pytest

from survq.data.barcodes import case_of, of_types, sample_type, sample_type_named, site_of

SLIDE = "-00-DX1.8C2F4D3A-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("barcode", "case", "kind"),
    [
        ("TCGA-A1-0001", "TCGA-A1-0001", None),
        ("TCGA-A1-0001-01", "TCGA-A1-0001", "01"),
        ("TCGA-A1-0001-11A", "TCGA-A1-0001", "11"),
        ("TCGA-A1-0001-11A-13R-A12P-07", "TCGA-A1-0001", "11"),
        ("TCGA-A1-0001-01Z" + SLIDE, "TCGA-A1-0001", "01"),
        ("TCGA-A1-0001-06A" + SLIDE + ".svs", "TCGA-A1-0001", "06"),
        ("TCGA.A1.0001.11", "TCGA-A1-0001", "11"),  # R's check.names
        ("TCGA.A1.0001.01A.1", "TCGA-A1-0001", "01"),  # R's second column of this name
        ("tcga-a1-a0sb-01a", "TCGA-A1-A0SB", "01"),
        ("TCGA_A1_0001", "TCGA-A1-0001", None),
        ("TCGA-A1-0001-DX1", "TCGA-A1-0001", None),  # no sample type is stated
        ("TCGA-A1-0001.8C2F4D3A", "TCGA-A1-0001", None),
        ("TCGA-A1-00012", "TCGA-A1-00012", None),  # not another patient's barcode
        ("TCGA-A1-00012-01", "TCGA-A1-00012-01", None),
        ("P-0001-01", "P-0001-01", None),
        ("TCGA", "TCGA", None),
        ("", "", None),
    ],
)
def test_barcodes(barcode, case, kind):
    assert (case_of(barcode), sample_type(barcode)) == (case, kind)


def test_one_rule_of_sample_types():
    assert of_types("TCGA-A1-0001-01A", ["01"]) and of_types("TCGA-A1-0001", ["01"]) and of_types("P1", ["01"])
    assert not of_types("TCGA-A1-0001-11A", ["01"]) and of_types("TCGA.A1.0001.11A", ["11", "01"])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *[("Primary Tumor", "01"), ("Solid Tissue Normal", "11"), ("Metastatic", "06"), ("Primary", "01")],
        *[
            ("1", "01"),
            ("01", "01"),
            ("11", "11"),
            ("11A", "11"),
            ("01b", "01"),
            ("77", None),
            ("blue", None),
            ("", None),
        ],
    ],
)
def test_names_of_sample_types(text, code):
    assert sample_type_named(text) == code


def test_sites():
    assert [site_of(case) for case in ("TCGA-a1-0001", "TCGA-NA-0001-01", "P1")] == ["A1", "NA", None]
