"""Clinical tables of other tools: the layout is detected by the columns, the coding is never guessed from values."""

import gzip
import zipfile

import openpyxl
import pandas as pd
import pytest

from survq.data.problems import DataError
from survq.importing.labels import read_labels

COHORTS = {"BRCA": (871, 60), "BLCA": (359, 113), "COADREAD": (298, 37), "HNSC": (394, 117), "STAD": (319, 84)}
TYPES = ("BRCA", "BLCA", "COAD", "READ", "HNSC", "STAD")

CDR = [
    *["", "bcr_patient_barcode", "type", "age_at_initial_pathologic_diagnosis", "gender"],
    *["OS", "OS.time", "DSS", "DSS.time", "DFI", "DFI.time", "PFI", "PFI.time", "Redaction"],
]
XENA = ["sample", "_PATIENT", "OS", "OS.time", "DSS", "DSS.time", "DFI", "DFI.time", "PFI", "PFI.time", "Redaction"]


def write(file, rows, separator="\t"):
    file.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows))
    return file


def outcomes(labels) -> dict:
    return {case: (row.time, row.event) for case, row in labels.cases.iterrows()}


def xena_rows(case, dss="1", days="300", samples=("01",), redaction=""):
    return [[f"{case}-{kind}", case, 1, 600, dss, days, "", "", 1, 90, redaction] for kind in samples]


@pytest.fixture
def xena(tmp_path):
    """Xena's table of a cohort, with the irregularities of real ones."""
    rows = [
        XENA,
        *xena_rows("TCGA-A1-0001", samples=["01", "11"]),
        *xena_rows("TCGA-A1-0002", dss="0", days="45", samples=["11", "06", "01"]),
        *xena_rows("TCGA-A1-0003", dss="", samples=["01"]),
        *xena_rows("TCGA-A1-0004", days="NA"),
        *xena_rows("TCGA-A1-0005", days="0"),
        *xena_rows("TCGA-A1-0006", days="-3"),
        *xena_rows("TCGA-A1-0007", redaction="Redacted"),
        *xena_rows("TCGA-A1-0008", samples=["06", "11"]),
    ]
    return write(tmp_path / "survival_BRCA_survival.txt", rows)


def test_xena(xena):
    labels = read_labels(xena)
    assert outcomes(labels) == {"TCGA-A1-0001": (10.0, True), "TCGA-A1-0002": (1.5, False)}
    assert list(labels.cases["site"]) == ["A1", "A1"]
    assert labels.dropped == {
        "TCGA-A1-0003": "no event status",
        "TCGA-A1-0004": "no time",
        "TCGA-A1-0005": "time is 0",
        "TCGA-A1-0006": "time is below 0",
        "TCGA-A1-0007": "redacted",
        "TCGA-A1-0008": "no sample of type 01",
    }
    assert labels.source["columns"]["layout"] == "UCSC Xena"
    assert labels.source["months"] == "days / 30"


def test_other_sample_types_on_request(xena):
    assert "TCGA-A1-0008" in read_labels(xena, sample_types=("01", "06")).cases.index


@pytest.mark.parametrize(("endpoint", "time"), [("OS", 20), ("PFI", 3), ("DSS", 10)])
def test_other_endpoints_of_the_same_table(xena, endpoint, time):
    assert read_labels(xena, endpoint).cases.loc["TCGA-A1-0001", "time"] == time


def test_compressed_tables_give_the_same_cases(xena, tmp_path):
    packed, zipped = tmp_path / "a.gz", tmp_path / "no_suffix"
    packed.write_bytes(gzip.compress(xena.read_bytes()))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("./odd.csv.zip", xena.read_bytes())
        archive.writestr("__MACOSX/._odd", b"junk")
    for file in (packed, zipped):
        pd.testing.assert_frame_equal(read_labels(file).cases, read_labels(xena).cases)


def test_the_gdc_hub_lacks_disease_specific_survival(tmp_path):
    rows = [["sample", "OS", "_PATIENT", "OS.time"], ["TCGA-A1-0001-01A", 1, "TCGA-A1-0001", 300]]
    file = write(tmp_path / "TCGA-BRCA.survival.tsv", rows)
    with pytest.raises(DataError, match=r"lacks disease-specific survival \(DSS\); .* it has OS. Fix: use --outcome"):
        read_labels(file)
    assert outcomes(read_labels(file, "OS")) == {"TCGA-A1-0001": (10.0, True)}


@pytest.fixture
def cdr(tmp_path):
    book = openpyxl.Workbook()
    book.active.title = "Notes"
    sheet = book.create_sheet("TCGA-CDR")
    sheet.append([None, *CDR[1:]])
    rows = [
        (1, "TCGA-A1-0001", "COAD", 60, "MALE", 1, 600, 1, 300, None, None, 1, 90, None),
        (2, "TCGA-A1-0002", "READ", "[Not Available]", "FEMALE", 1, 600, 0, 45, None, None, 1, 90, None),
        (3, "TCGA-A1-0003", "READ", 50, "FEMALE", 0, 45, "#N/A", "#N/A", None, None, 0, 45, None),
        (4, "TCGA-A1-0004", "BRCA", 50, "FEMALE", 0, 45, 0, 45, None, None, 0, 45, "Redacted"),
        (5, "TCGA-A1-0005", "BRCA", 50, "FEMALE", 1, 45, 1, 45, None, None, 0, 45, None),
    ]
    for row in rows:
        sheet.append(row)
    book.save(tmp_path / "cdr.xlsx")
    return tmp_path / "cdr.xlsx"


def test_tcga_cdr(cdr):
    labels = read_labels(cdr, types=["COAD", "READ"])
    assert outcomes(labels) == {"TCGA-A1-0001": (10.0, True), "TCGA-A1-0002": (1.5, False)}
    assert labels.dropped == {"TCGA-A1-0003": "no event status"}
    assert labels.notes == ("2 of 5 rows have other cancer types than 'COAD', 'READ'",)
    assert list(labels.cases["type"]) == ["COAD", "READ"]
    assert labels.cases["age"].isna().tolist() == [False, True]
    assert labels.cases["sex"].tolist() == ["male", "female"]
    assert read_labels(cdr, types=["BRCA"]).dropped == {"TCGA-A1-0004": "redacted"}


def test_absent_cancer_types_are_reported(cdr, xena):
    with pytest.raises(
        DataError, match=r"has no 'COADREAD'; it has 'BRCA', 'COAD', 'READ'.*--types COAD READ for COADREAD"
    ):
        read_labels(cdr, types=["COADREAD"])
    with pytest.raises(DataError, match="has no column of cancer types"):
        read_labels(xena, types=["BRCA"], require_types=True)


def test_a_workbook_with_other_sheets_is_refused(tmp_path):
    book = openpyxl.Workbook()
    book.create_sheet("More")
    book.save(tmp_path / "book.xlsx")
    with pytest.raises(DataError, match="has the sheets 'Sheet', 'More'; expected 'TCGA-CDR'"):
        read_labels(tmp_path / "book.xlsx")


@pytest.mark.parametrize(
    ("name", "rows", "separator"),
    [
        (
            "data_clinical_patient.txt",
            [
                ["#Patient Identifier", "Disease-specific Survival status", "Months of disease-specific survival"],
                ["#STRING", "STRING", "NUMBER"],
                ["PATIENT_ID", "DSS_STATUS", "DSS_MONTHS"],
                ["TCGA-A1-0001", "1:DEAD WITH TUMOR", "9.8"],
                ["TCGA-A1-0002", "0:ALIVE OR DEAD TUMOR FREE", "3"],
                ["TCGA-A1-0003", "", "3"],
            ],
            "\t",
        ),
        (
            "brca_tcga_pan_can_atlas_2018_clinical_data.tsv",
            [
                ["Study ID", "Patient ID", "Months of disease-specific survival", "Disease-specific Survival status"],
                ["brca", "TCGA-A1-0001", "9.8", "1:DEAD WITH TUMOR"],
                ["brca", "TCGA-A1-0002", "3", "0:ALIVE OR DEAD TUMOR FREE"],
                ["brca", "TCGA-A1-0003", "3", "NA"],
            ],
            "\t",
        ),
        (
            "train.csv",
            [
                ["case_id", "slide_id", "dss_survival_days", "dss_censorship", "redaction"],
                ["TCGA-A1-0001", "TCGA-A1-0001-01Z-00-DX1.AB", "294.0", "0.0", ""],
                ["TCGA-A1-0001", "TCGA-A1-0001-01Z-00-DX2.CD", "294.0", "0.0", ""],
                ["TCGA-A1-0002", "TCGA-A1-0002-01Z-00-DX1.EF", "90", "1.0", ""],
                ["TCGA-A1-0003", "TCGA-A1-0003-01Z-00-DX1.GH", "90", "", ""],
            ],
            ",",
        ),
        (
            "tcga_brca.csv",
            [
                ["", "case_id", "slide_id", "survival_months", "survival_months_dss", "censorship_dss"],
                ["0", "TCGA-A1-0001", "a.svs", "99", "9.8", "0"],
                ["1", "TCGA-A1-0002", "b.svs", "99", "3", "1"],
                ["2", "TCGA-A1-0003", "c.svs", "99", "3", "NaN"],
            ],
            ",",
        ),
    ],
    ids=["cBioPortal file", "cBioPortal page", "MMP", "SurvPath"],
)
def test_four_layouts_give_the_same_cases(tmp_path, name, rows, separator):
    labels = read_labels(write(tmp_path / name, rows, separator))
    assert outcomes(labels) == {"TCGA-A1-0001": (9.8, True), "TCGA-A1-0002": (3.0, False)}
    assert labels.dropped == {"TCGA-A1-0003": "no event status"}


def test_porpoise_has_only_overall_survival(tmp_path):
    rows = [["case_id", "survival_months", "censorship"], ["TCGA-A1-0001", "9.8", "0.0"]]
    file = write(tmp_path / "t.csv", rows, ",")
    with pytest.raises(DataError, match=r"has OS\. Fix: use --outcome OS"):
        read_labels(file)
    assert outcomes(read_labels(file, "OS")) == {"TCGA-A1-0001": (9.8, True)}


@pytest.mark.parametrize("code", ["2", "Dead", "1:DECEASED?", "-1", "0.5"])
def test_an_unknown_event_code_is_refused(tmp_path, code):
    rows = [XENA, *xena_rows("TCGA-A1-0001", dss="1"), *xena_rows("TCGA-A1-0002", dss=code)]
    if code == "1:DECEASED?":  # cBioPortal's code for 1
        assert read_labels(write(tmp_path / "t.tsv", rows)).cases["event"].all()
        return
    with pytest.raises(DataError, match=r"t.tsv:3: DSS .*expected '1' for an event, '0' for a censored case"):
        read_labels(write(tmp_path / "t.tsv", rows))


def test_contradicting_samples_are_reported(tmp_path):
    rows = [XENA, *xena_rows("TCGA-A1-0001"), *xena_rows("TCGA-A1-0001", days="31")]
    with pytest.raises(DataError, match=r"'TCGA-A1-0001': DSS.time is 300.0 in line 2, 31.0 in line 3"):
        read_labels(write(tmp_path / "t.tsv", rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"sample\tDSS\n" * 99, mtime=0)[:-9], "cannot be decompressed"),
        (b"PK\x03\x04nothing of a zip", "cannot be decompressed"),
        (b"id,months,dead\nA,3,1\n", "unknown layout of a clinical table; it has 'id', 'months', 'dead'"),
        (b"sample\tDSS\tDSS.time\n", "has a header but no rows"),
        (b"sample\tDSS\tDSS.time\nTCGA-A1-0001-01\t\t3\n", "no case has disease-specific survival among its 1 rows"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "t")


@pytest.fixture(scope="module")
def survpath_labels(real_data):
    folder = real_data / "survpath" / "datasets_csv" / "metadata"
    return {cohort: read_labels(folder / f"tcga_{cohort.lower()}.csv") for cohort in COHORTS}


def test_counts_of_the_real_cohorts(survpath_labels):
    counts = {cohort: (len(labels.cases), labels.cases["event"].sum()) for cohort, labels in survpath_labels.items()}
    assert counts == COHORTS


def test_the_real_tcga_cdr_agrees_with_survpath(real_data, survpath_labels):
    file = real_data / "clinical" / "TCGA-CDR-SupplementalTableS1.xlsx"
    labels = read_labels(file, types=TYPES)
    for cohort, theirs in survpath_labels.items():
        missing = theirs.cases.index.difference(labels.cases.index)
        assert len(missing) == (cohort == "BLCA")  # one of their patients is redacted
        assert {labels.dropped[case] for case in missing} <= {"redacted"}
        cases = labels.cases.join(theirs.cases, rsuffix="_theirs", how="inner")
        assert len(cases) == len(theirs.cases) - len(missing)
        assert (cases["event"] == cases["event_theirs"]).all()
        assert (cases["time"] - cases["time_theirs"]).abs().max() < 1e-9
        assert (cases["site"] == cases["site_theirs"]).all()


def test_the_real_xena_samples_agree_with_survpath(real_data, survpath_labels):
    # TCGA-BH-A0AY of BRCA has only a sample of normal tissue there
    labels = read_labels(real_data / "clinical" / "tcga_surv_xena_samples.tsv", sample_types=("01", "11"))
    found = {}
    for cohort, theirs in survpath_labels.items():
        both = theirs.cases.index.intersection(labels.cases.index)
        found[cohort] = len(both)
        assert (labels.cases.loc[both, "event"] == theirs.cases.loc[both, "event"]).all()
        assert ((labels.cases.loc[both, "time"] - theirs.cases.loc[both, "time"]).abs() < 1e-9).mean() > 0.99
    assert found == {"BRCA": 869, "BLCA": 359, "COADREAD": 296, "HNSC": 392, "STAD": 318}


def test_the_real_split_of_mmp_agrees_with_survpath(real_data, survpath_labels):
    folder = real_data / "mmp" / "TCGA_BLCA_overall_survival_k=0"
    theirs = survpath_labels["BLCA"].cases
    for file in ("train.csv", "test.csv"):
        cases = (
            read_labels(folder / file)
            .cases.drop(columns="site", errors="ignore")
            .join(theirs, rsuffix="_theirs", how="inner")
        )
        assert len(cases) > 60
        assert (cases["event"] == cases["event_theirs"]).all()
        assert (cases["time"] - cases["time_theirs"]).abs().max() < 1e-9
