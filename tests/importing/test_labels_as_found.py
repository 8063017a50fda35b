"""Clinical tables as people have them: the order of rows decides nothing, no case is lost for what is not needed, and
a message says what emptied a cohort.
"""

import itertools

import pandas as pd
import pytest
from csv_files import write_csv

from survq.cli import main
from survq.data.check import check
from survq.data.location import Location
from survq.data.problems import DataError
from survq.importing.labels import import_labels, read_labels

XENA = ["sample", "OS", "OS.time", "Redaction"]
GDC = ["case_submitter_id", "vital_status", "days_to_death", "days_to_last_follow_up"]
CDR = ["bcr_patient_barcode", "type", "OS", "OS.time"]


def read(tmp_path, header, *rows, endpoint="OS", **options):
    write_csv(tmp_path / "t.csv", [header, *rows])
    return read_labels(tmp_path / "t.csv", endpoint, **options)


def outcomes(labels) -> dict:
    return {case: (round(row.time, 6), row.event) for case, row in labels.cases.iterrows()}


REDACTED = [["TCGA-A1-0001-01", 1, 300, ""], ["TCGA-A1-0001-01", 1, 300, "Redacted"], ["TCGA-A1-0002-01", 0, 30, "NA"]]


@pytest.mark.parametrize("rows", itertools.permutations(REDACTED))
def test_a_case_is_redacted_if_any_of_its_rows_is(tmp_path, rows):
    labels = read(tmp_path, XENA, *rows)
    assert labels.dropped == {"TCGA-A1-0001": "redacted"} and outcomes(labels) == {"TCGA-A1-0002": (1.0, False)}


AGES = ["case_id", "survival_months", "censorship", "age", "is_female", "oncotree_code"]
UNCERTAIN = [["A", 10, 0, 61, 1, "X"], ["A", 10, 0, 62, 1, "Y"], ["A", 10, 0, "", "NA", ""], ["B", 3, 1, 50, 0, "Z"]]


@pytest.mark.parametrize("rows", [UNCERTAIN, UNCERTAIN[::-1], UNCERTAIN[2:] + UNCERTAIN[:2]])
def test_what_an_outcome_does_not_need_does_not_refuse_it(tmp_path, rows):
    labels = read(tmp_path, AGES, *rows)
    assert outcomes(labels) == {"A": (10, True), "B": (3, False)}
    assert labels.cases["age"].isna().tolist() == [True, False]
    assert labels.cases["sex"].tolist() == ["female", "male"]
    assert pd.isna(labels.cases.loc["A", "oncotree_code"]) and labels.cases.loc["B", "oncotree_code"] == "Z"
    assert "age differs between rows of a case, read as unknown: 'A'" in labels.notes


@pytest.mark.parametrize("age", [">89", "<18", "Unknown", "old", "60 years", "1_0", "-23000", "999", "inf"])
def test_an_unclear_age_is_unknown(tmp_path, age):
    labels = read(tmp_path, AGES[:4], ["A", 10, 0, age], ["B", 3, 1, 50])
    assert outcomes(labels) == {"A": (10, True), "B": (3, False)}
    assert labels.cases["age"].isna().tolist() == [True, False]
    assert (f"age: read as unknown: '{age}'" in labels.notes) == (age != "Unknown")


def test_what_emptied_a_cohort_is_said_with_its_cure(tmp_path):
    rows = [[f"TCGA-AB-{number:04d}-03", 1, 300, ""] for number in range(20)]
    with pytest.raises(DataError, match="none of its 20 rows is a sample of type 01; they are of 03") as error:
        read(tmp_path, XENA, *rows)
    assert error.value.problems[0].endswith("Fix: --sample-types 03.")
    assert len(read(tmp_path, XENA, *rows, sample_types=["03"]).cases) == 20
    arguments = ["import", "labels", str(tmp_path / "t.csv"), str(tmp_path / "data"), "--cohort", "LAML"]
    assert main([*arguments, "--outcome", "OS"]) == 65
    assert main([*arguments, "--outcome", "OS", "--sample-types", "03"]) == 0
    rows = [
        ["A", "", 3, ""],
        ["B", 1, 0, ""],
        ["C", 1, "NA", ""],
        ["D", 1, -1, ""],
        ["E", 1, 3, "Redacted"],
        ["F", "", 3, ""],
    ]
    with pytest.raises(
        DataError,
        match=r"among its 6 rows: 2 no event status, 1 time is 0, 1 no time, 1 time is below 0, 1 redacted. Fix",
    ):
        read(tmp_path, XENA, *rows)


def test_a_column_of_sample_types_counts_as_a_barcode_does(tmp_path):
    header = ["PATIENT_ID", "SAMPLE_TYPE", "OS_STATUS", "OS_MONTHS"]
    rows = [["A", "Primary", "1:DECEASED", 10], ["A", "Metastasis", "1:DECEASED", 11], ["B", "Metastasis", "LIVING", 5]]
    labels = read(tmp_path, header, *rows)
    assert outcomes(labels) == {"A": (10, True)} and labels.dropped == {"B": "no sample of type 01"}


def test_a_column_of_samples_counts_as_the_ids_do(tmp_path):
    header = ["PATIENT_ID", "SAMPLE_ID", "OS_STATUS", "OS_MONTHS"]
    rows = [["TCGA-A1-0001", "TCGA-A1-0001-01", "LIVING", 5], ["TCGA-A1-0002", "TCGA-A1-0002-06", "LIVING", 5]]
    assert read(tmp_path, header, *rows).dropped == {"TCGA-A1-0002": "no sample of type 01"}


TIMES = [["TCGA-A1-0001", "Dead", 300, "'--"], ["TCGA-A1-0002", "Alive", "'--", 45], ["TCGA-A1-0003", "Dead", "", 90]]
EXPECTED = {"TCGA-A1-0001": (10, True), "TCGA-A1-0002": (1.5, False)}


@pytest.mark.parametrize(
    "header",
    [
        GDC,
        [
            "cases.submitter_id",
            "demographic.vital_status",
            "demographic.days_to_death",
            "diagnoses.days_to_last_follow_up",
        ],
        ["submitter_id", "vital_status", "days_to_death", "days_to_last_follow_up"],
        ["bcr_patient_barcode", "vital_status", "death_days_to", "last_contact_days_to"],
        ["bcr_patient_barcode", "vital_status", "days_to_death", "days_to_last_followup"],
    ],
)
def test_time_from_the_two_columns_of_gdc(tmp_path, header):
    labels = read(tmp_path, header, *TIMES, ["TCGA-A1-0004", "Not Reported", "", 30])
    assert outcomes(labels) == EXPECTED
    assert labels.dropped == {"TCGA-A1-0003": "no time", "TCGA-A1-0004": "no event status"}
    with pytest.raises(DataError, match=r"lacks disease-specific survival .* it has OS\. Fix: use --outcome OS"):
        read(tmp_path, header, *TIMES, endpoint="DSS")


def test_the_three_headers_of_tcga_are_one(tmp_path):
    header = ["bcr_patient_barcode", "vital_status", "death_days_to", "last_contact_days_to"]
    second, third = ["bcr_patient_barcode", *"abc"], ["CDE_ID:2673794", "CDE_ID:5", "CDE_ID:3165475", "CDE_ID:3008273"]
    assert outcomes(read(tmp_path, header, second, third, *TIMES)) == EXPECTED


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (
            "--case-column id --time-column death followup --time-unit days --event-column dead",
            "id,death,followup,dead\nA,300,9,1\nB,,45,0\n",
        ),
        (
            "--case-column id --time-column years --time-unit years --censorship-column alive",
            "id,years,alive\nA,0.8333333333333334,0\nB,0.125,1\n",
        ),
        (
            "--case-column id --time-column m --time-unit months --event-column s --event-values + --censored-values -",
            "id,m,s\nA,10,+\nB,1.5,-\nC,-77,+\n",
        ),
    ],
)
def test_stated_columns(tmp_path, options, rows):
    (tmp_path / "t.csv").write_text(rows)
    arguments = ["import", "labels", str(tmp_path / "t.csv"), str(tmp_path / "data"), "--cohort", "NEW"]
    assert main([*arguments, *options.split(), "--missing=-77"]) == 0
    cases = pd.read_parquet(tmp_path / "data" / "NEW" / "cases.parquet").set_index("case_id")
    assert cases["time"].round(9).to_dict() == {"A": 10, "B": 1.5} and cases["event"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--time-unit weeks", "--time-unit weeks: expected months or days or years"),
        ("--time-column a b c --time-unit days", "--time-column takes one column, or two"),
    ],
)
def test_options_that_are_refused(tmp_path, capsys, options, message):
    (tmp_path / "t.csv").write_text("id,a,b,c,dead\nA,1,2,3,1\n")
    arguments = ["import", "labels", str(tmp_path / "t.csv"), str(tmp_path / "data"), "--cohort", "NEW"]
    stated = ["--case-column", "id", "--event-column", "dead", *options.split()]
    stated += [] if "--time-column" in stated else ["--time-column", "a"]
    assert main([*arguments, *stated]) == 64
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (["PATIENT_ID", "PFS_STATUS", "PFS_MONTHS"], [["A", "1:PROGRESSION", 10], ["B", "0:CENSORED", 1.5]]),
        (["PATIENT_ID", "PFS_STATUS", "PFS_MONTHS"], [["A", "PROGRESSION", 10], ["B", "CENSORED", 1.5]]),
        (
            ["Patient ID", "Progression Free Status", "Progress Free Survival (Months)"],
            [["A", "1:PROGRESSION", 10], ["B", "0:CENSORED", 1.5]],
        ),
    ],
)
def test_progression_free_survival_of_cbioportal(tmp_path, header, rows):
    assert outcomes(read(tmp_path, header, *rows, endpoint="PFS")) == {"A": (10, True), "B": (1.5, False)}


def test_reversed_coding_and_days_are_asked_about(real_data, tmp_path):
    """On real cohorts, with 31 and 7 % events: as they are, nothing is asked; reversed, or with days, it is."""
    for name in ("blca", "brca"):
        table = pd.read_csv(real_data / f"survpath/datasets_csv/metadata/tcga_{name}.csv", index_col=0)
        for change, question in (
            (lambda table: table, None),
            (lambda table: table.assign(censorship_dss=1 - table["censorship_dss"]), "Is the coding reversed?"),
            (lambda table: table.assign(survival_months_dss=table["survival_months_dss"] * 30), "Is it in days?"),
        ):
            change(table).to_csv(tmp_path / "t.csv")
            notes = import_labels(tmp_path / "t.csv", Location.at(tmp_path / "data"), name.upper())[0].notes
            checked = check(tmp_path / "data").cohorts
            found = [*notes, *(note for cohort in checked if cohort.name == name.upper() for note in cohort.notes)]
            asked = [note for note in found if note.endswith("?")]
            assert (len(asked) == 2 and all(question in note for note in asked)) if question else not asked, (
                name,
                found,
            )


def test_added_columns_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("id,x\nA,1\n")
    with pytest.raises(DataError, match=r"Fix: add '.*', or rename the columns that hold them"):
        read_labels(tmp_path / "t.csv")


def test_a_problem_of_the_outcome_names_the_file_of_the_user(tmp_path, tree):
    write_csv(tmp_path / "t.csv", [["case_id", "survival_months", "censorship"], ["A", 3, 1], ["B", 4, 1]])
    before = tree(tmp_path)
    with pytest.raises(DataError, match=r"t\.csv: no case has an event") as error:
        import_labels(tmp_path / "t.csv", Location.at(tmp_path / "data"), "NEW", endpoint="OS")
    assert "parquet" not in str(error.value) and tree(tmp_path) == before


def test_a_table_of_visits_is_refused_in_one_sentence(tmp_path):
    rows = [[f"P{number}", visit, 1] for number in range(50) for visit in (1, 2, 3)]
    with pytest.raises(
        DataError, match=r"case 'P0': survival_months is 1.0 in line 2, .* all 50 cases\. Fix:"
    ) as error:
        read(tmp_path, ["case_id", "survival_months", "censorship"], *rows)
    assert len(error.value.problems) == 1
