"""Age, sex, stage and grade of clinical tables: one form for all layouts, and unknown where the text is unclear."""

import pandas as pd
import pytest
from csv_files import write_csv

from survq.importing.clinical import stage_of
from survq.importing.labels import read_labels

SURVPATH = ["case_id", "survival_months_dss", "censorship_dss", "age", "is_female"]
CDR = [
    *["bcr_patient_barcode", "DSS.time", "DSS", "age_at_initial_pathologic_diagnosis", "gender"],
    *["ajcc_pathologic_tumor_stage", "clinical_stage", "histological_grade"],
]
MMP = [
    *["case_id", "dss_survival_days", "dss_censorship", "age_at_initial_pathologic_diagnosis", "sex"],
    *["ajcc_pathologic_tumor_stage", "histological_grade"],
]
CBIOPORTAL = ["PATIENT_ID", "DSS_MONTHS", "DSS_STATUS", "AGE", "SEX", "AJCC_PATHOLOGIC_TUMOR_STAGE", "GRADE"]
PAGE = [
    *["Patient ID", "Months of disease-specific survival", "Disease-specific Survival status", "Diagnosis Age", "Sex"],
    *["Neoplasm Disease Stage American Joint Committee on Cancer Code", "Neoplasm Histologic Grade"],
]


@pytest.mark.parametrize(
    ("stage", "texts"),
    [
        (0, ["0", "Stage 0"]),
        (1, ["I", "Stage I", "Stage IB1", "1", "stage ia"]),
        (2, ["IIa", "STAGE IIB", "Stage IIA2", "2.0"]),
        (3, ["III", "Stage IIIA", "Stage IIIC2", "3"]),
        (4, ["Stage IV", "IVb", "4"]),
        (None, ["Stage X", "IS", "Stage IS", "I/II NOS", "T2", "5", "2.5", "Stage", "late", "IIII", "10"]),
    ],
)
def test_stages(stage, texts):
    assert {text: stage_of(text) for text in texts} == dict.fromkeys(texts, stage)


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (
            CDR,
            [
                ["A", 300, 1, 61, "FEMALE", "Stage IIIA", "[Not Applicable]", "High Grade"],
                ["B", 30, 0, "[Not Available]", "MALE", "[Discrepancy]", "Stage IV", "[Unknown]"],
            ],
        ),
        (MMP, [["A", 300, 0, 61.0, "F", "Stage III", "High Grade"], ["B", 30, 1, "", "M", "Stage X", ""]]),
        (CBIOPORTAL, [["A", 10, "1:DEAD", 61, "Female", "STAGE IIIB", "High Grade"], ["B", 1, "0:ALIVE", *"    "]]),
        (PAGE, [["A", 10, "1:DEAD", 61, "Female", "STAGE III", "High Grade"], ["B", 1, "0:ALIVE", *["NA"] * 4]]),
    ],
    ids=["TCGA-CDR", "MMP", "cBioPortal file", "cBioPortal page"],
)
def test_layouts_give_the_same_covariates(tmp_path, header, rows):
    write_csv(tmp_path / "t.csv", [header, *rows])
    cases = read_labels(tmp_path / "t.csv").cases
    assert cases.loc["A", ["age", "sex", "stage", "grade"]].to_list() == [61, "female", 3, "High Grade"]
    assert cases.loc["B", ["age", "stage", "grade"]].isna().all()
    assert cases.loc["B", "sex"] == "male" or pd.isna(cases.loc["B", "sex"])


def test_survpath_codes_sex_as_a_number(tmp_path):
    write_csv(tmp_path / "t.csv", [SURVPATH, ["A", 10, 0, 61, 1], ["B", 1, 1, "", "0.0"], ["C", 1, 1, "", ""]])
    cases = read_labels(tmp_path / "t.csv").cases
    assert cases["sex"].where(cases["sex"].notna(), None).tolist() == ["female", "male", None]
    assert "stage" not in cases and "is_female" not in cases


def test_what_is_read_as_unknown_is_said(tmp_path):
    write_csv(tmp_path / "t.csv", [CBIOPORTAL, ["A", 10, "1:DEAD", 61, "X", "Stage X", "G2"]])
    assert read_labels(tmp_path / "t.csv").notes[:2] == (
        "SEX: read as unknown: 'X'",
        "AJCC_PATHOLOGIC_TUMOR_STAGE: read as unknown: 'Stage X'",
    )


def test_rows_of_a_case_that_disagree_leave_a_covariate_unknown(tmp_path):
    rows = [["A-01", 10, "1:DEAD", 61, "F", "Stage IIA", "G2"], ["A-01", 10, "1:DEAD", 61, "F", "Stage IIB", "G2"]]
    write_csv(tmp_path / "t.csv", [CBIOPORTAL, *rows])
    assert read_labels(tmp_path / "t.csv").cases["stage"].tolist() == [2], "both are stage 2"
    rows[1][5] = "Stage III"
    write_csv(tmp_path / "t.csv", [CBIOPORTAL, *rows])
    labels = read_labels(tmp_path / "t.csv")
    assert labels.cases["stage"].isna().all() and labels.cases["time"].tolist() == [10]
    assert "stage differs between rows of a case, read as unknown: 'A-01'" in labels.notes


def test_real_tables_agree(real_data):
    """SurvPath's tables and TCGA-CDR agree on sex, and on age to a year. TCGA-CDR has the stage of nearly all."""
    original = read_labels(real_data / "clinical/TCGA-CDR-SupplementalTableS1.xlsx", types=["BLCA", "COAD", "READ"])
    for name, unstaged in (("blca", 2), ("coadread", 16)):
        cases = read_labels(real_data / f"survpath/datasets_csv/metadata/tcga_{name}.csv").cases
        other = original.cases.loc[original.cases.index.intersection(cases.index)]
        assert len(other) >= len(cases) - 1
        assert (other["sex"] == cases.loc[other.index, "sex"]).all()
        assert (other["age"] - cases.loc[other.index, "age"]).abs().max() <= 1
        assert other["stage"].isna().sum() == unstaged and set(other["stage"].dropna()) == {1, 2, 3, 4}
