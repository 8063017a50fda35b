"""The slide of a file, and the case of a slide."""

import pytest
from csv_files import write_csv

from survq.data.problems import DataError
from survq.importing.slide_names import Name, SlideTable, Wanted, by_barcode, stem

UUID = "6A7E8C30-5F5C-4C7E-8B29-D5B29A0B6D52"


@pytest.mark.parametrize(
    ("file", "slide"),
    [
        (f"TCGA-AA-0001-01Z-00-DX1.{UUID}.h5", f"TCGA-AA-0001-01Z-00-DX1.{UUID}"),
        (f"TCGA-AA-0001-01Z-00-DX1.{UUID}.svs.pt", f"TCGA-AA-0001-01Z-00-DX1.{UUID}"),
        (f"TCGA-AA-0001-01Z-00-DX1.{UUID}_patches.h5", f"TCGA-AA-0001-01Z-00-DX1.{UUID}"),
        (f"TCGA-AA-0001-01Z-00-DX1.{UUID}", f"TCGA-AA-0001-01Z-00-DX1.{UUID}"),  # from a table
        ("a.b.c.NDPI.H5", "a.b.c"),
        ("slide.1.hdf5", "slide.1"),
        ("tiff.pth", "tiff"),
        ("x.svs", "x"),
    ],
)
def test_the_slide_in_a_file_name(file, slide):
    assert stem(file) == slide


def test_the_case_in_a_barcode():
    assert by_barcode(f"TCGA-AA-0001-01Z-00-DX1.{UUID}") == Name(f"TCGA-AA-0001-01Z-00-DX1.{UUID}", "TCGA-AA-0001")
    assert by_barcode("tcga-e9-a1nd-01z").case_id == "TCGA-E9-A1ND"
    for name in ("C3L-00001-21", "TCGA-AA-00012", "TCGA-A-0001", "xTCGA-AA-0001", ""):
        with pytest.raises(DataError, match=r"is not a TCGA barcode. Fix: pass a table with the columns case_id"):
            by_barcode(name)


@pytest.fixture
def table(tmp_path):
    rows = [
        ["", "case_id", "slide_id", "mpp"],
        [0, "P1", "one.svs", "0.25"],
        [1, "P1", "two.v2.svs", ""],
        [2, "P2", f"TCGA-AA-0001-01Z-00-DX1.{UUID}.svs", "0.5"],
        [3, "P2", f"TCGA-AA-0001-01Z-00-DX10.{UUID}.svs", "0.5"],
        [4, "P3", "three.a.svs", ""],
        [5, "P3", "three.b.svs", ""],
        [6, "P4", "TCGA-BB-0001-01Z-00-DX1", ""],
    ]
    write_csv(tmp_path / "table.csv", rows)
    return SlideTable.read(tmp_path / "table.csv")


def test_the_case_in_a_table(table):
    assert table("one") == Name("one", "P1", 0.25)
    assert table("two.v2") == Name("two.v2", "P1", None)
    assert table("TWO.v2").case_id == "P1"  # UUIDs occur in upper and lower case
    assert table("four") is None
    assert table("TCGA-CC-0001") is None  # the table decides, not the barcode


def test_a_uuid_may_be_missing_on_either_side(table):
    short = "TCGA-AA-0001-01Z-00-DX1"
    assert table(short) == Name(f"{short}.{UUID}", "P2", 0.5)  # not DX10
    assert table(f"TCGA-BB-0001-01Z-00-DX1.{UUID}") == Name(f"TCGA-BB-0001-01Z-00-DX1.{UUID}", "P4")
    with pytest.raises(DataError, match=r"'three': the table has 'three.a', 'three.b'. Fix: name the file like"):
        table("three")


def test_tables_of_mmp_can_be_used(real_data):
    names = SlideTable.read(real_data / "mmp/TCGA_BLCA_overall_survival_k=0/test.csv")
    found = names("TCGA-2F-A9KO-01Z-00-DX1")  # without the UUID of the table
    assert found is not None and (found.case_id, found.mpp) == ("TCGA-2F-A9KO", 0.2277)


def test_all_problems_of_a_table_are_listed_at_once(tmp_path):
    rows = [
        ["case_id", "slide_id", "mpp"],
        ["P1", "a.svs", "0.25"],
        ["P2", "a.tif", "0.25"],
        ["../x", "b", "0"],
        ["P3", "", "wide"],
        ["P4", "d", "0.0503"],
    ]
    write_csv(tmp_path / "table.csv", rows)
    with pytest.raises(DataError) as error:
        SlideTable.read(tmp_path / "table.csv")
    text = "\n".join(error.value.problems)
    for part in (
        "table.csv:3: slide 'a.tif' has other values in a row above. Fix: make its rows agree.",
        "table.csv:4: case_id '../x'; expected printable text",
        "table.csv:4: mpp 0; expected micrometres per pixel, from 0.08 to 20, such as 0.25. Fix: correct it, or leave",
        "table.csv:5: slide_id ''; expected printable text",
        "table.csv:5: mpp 'wide'; expected a number",
        "table.csv:6: mpp 0.0503; expected micrometres per pixel",
    ):
        assert part in text


def test_missing_columns_are_named(tmp_path):
    write_csv(tmp_path / "table.csv", [["PATIENT", "FILENAME"], ["P1", "a.h5"]])
    with pytest.raises(DataError, match="lacks the columns 'case_id', 'slide_id'"):
        SlideTable.read(tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("slide", "reason"),
    [
        (f"TCGA-2F-A9KO-01Z-00-DX1.{UUID}", None),
        ("TCGA-2F-A9KO-01Z-00-DX1", None),
        ("TCGA-2F-A9KO", None),  # a barcode that states neither
        ("TCGA-2F-A9KO-01A", None),
        ("TCGA-2F-A9KO-01Z-00-DXA 2", None),
        (f"TCGA-2F-A9KO-11A-01-TS1.{UUID}", "sample type 11 (solid tissue normal), slide type TS (frozen section)"),
        (f"tcga-2f-a9ko-11a-01-ts1.{UUID}", "sample type 11 (solid tissue normal), slide type TS (frozen section)"),
        ("TCGA.2F.A9KO.11A.01.TS1", "sample type 11 (solid tissue normal), slide type TS (frozen section)"),
        ("TCGA-2F-A9KO-11A-01-DX1", "sample type 11 (solid tissue normal), slide type DX (diagnostic slide)"),
        ("TCGA-2F-A9KO-06A", "sample type 06 (metastatic)"),
        ("TCGA-2F-A9KO-77A", "sample type 77 (unknown)"),
        (f"TCGA-2F-A9KO-01A-01-TS1.{UUID}", "slide type TS (frozen section)"),
        ("TCGA-2F-A9KO-01A-01-BSA", "slide type BS (frozen section)"),
        ("tcga-2f-a9ko-01a-02-ms2_x", "slide type MS (frozen section)"),
        (f"TCGA-2F-A9KO-01Z-00-DX1.{UUID}-TS1", None),  # behind the barcode is a name
    ],
)
def test_slides_of_other_specimens_are_excluded_by_their_barcode(slide, reason):
    found = Wanted({"TCGA-2F-A9KO"}).reason_against(by_barcode(slide))
    option = "--sample-types 01" if reason and reason.startswith("sample") else "--slide-types DX"
    assert found == (reason and f"{reason}, not in {option}")


def test_sample_types_and_slide_types_can_be_chosen():
    frozen, normal = "TCGA-2F-A9KO-01A-01-TS1", "TCGA-2F-A9KO-11A-01-TS1"
    wanted = Wanted({"TCGA-2F-A9KO"}, ("01", "11"), ("TS",))
    assert wanted.reason_against(by_barcode(frozen)) is wanted.reason_against(by_barcode(normal)) is None
    diagnostic = wanted.reason_against(by_barcode("TCGA-2F-A9KO-01Z-00-DX1"))
    assert diagnostic == "slide type DX (diagnostic slide), not in --slide-types TS"
