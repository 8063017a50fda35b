"""Published folds of all projects are imported unchanged."""

import pandas as pd
import pytest

from survq.data.cohort import Cohort
from survq.data.cohort_files import read_dropped, read_source, update_cohort
from survq.data.folds import given_folds
from survq.data.location import Location
from survq.data.problems import DataError
from survq.importing.splits import import_splits, read_splits

CASES = [f"TCGA-A1-{number:04d}" for number in range(9)]


@pytest.fixture
def folder(tmp_path) -> Location:
    folder = Location.at(tmp_path / "data" / "BRCA")
    cases = pd.DataFrame({"time": range(1, 10), "event": True}, index=CASES).astype({"time": float})
    update_cohort(folder, {}, cases=cases, dropped={"TCGA-A1-0099": "no time"})
    update_cohort(folder, {}, expression=pd.DataFrame({"G": 1.0}, index=CASES))
    (tmp_path / "data" / "pathways.gmt").write_text("p\t\tG\n")
    return folder


def held_out(fold: int) -> list[str]:
    return CASES[fold * 3 : fold * 3 + 3]


def training(fold: int) -> list[str]:
    return [case for case in CASES if case not in held_out(fold)]


def slides(cases) -> list[str]:
    return [f"{case}-01Z-00-DX{number}.{case[-4:]}AB-CD" for case in cases for number in (1, 2)]


def write_columns(source, ids=list, names=("train", "val"), more=None):
    """splits_{k}.csv: one column per role, the shorter ones padded."""
    source.mkdir()
    for fold in range(3):
        columns = dict(zip(names, (ids(training(fold)), ids(held_out(fold))), strict=True)) | (more or {})
        table = pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()})
        table.to_csv(source / f"splits_{fold}.csv")
    (source / "splits_0_bool.csv").write_text(",train,val\nx,True,False\n")
    (source / "splits_0_descriptor.csv").write_text(",train\nlabel,1\n")


def write_folders(source):
    """MMP: one folder per fold, one table per role, one row per slide."""
    for fold in range(3):
        place = source / f"TCGA_BRCA_overall_survival_k={fold}"
        place.mkdir(parents=True)
        for name, cases in (("train", training(fold)), ("test", held_out(fold))):
            rows = [(slide[:12], slide, 100) for slide in slides(cases)]
            pd.DataFrame(rows, columns=["case_id", "slide_id", "dss_survival_days"]).to_csv(place / f"{name}.csv")


LAYOUTS = {
    "SurvPath": lambda source: write_columns(source),
    "MCAT by slide": lambda source: write_columns(source, slides),
    "CLAM, test held out": lambda source: write_columns(source, slides, ("train", "test")),
    "CLAM, no test": lambda source: write_columns(source, slides, more={"test": []}),
    "MMP": write_folders,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_give_the_same_folds(tmp_path, folder, layout):
    LAYOUTS[layout](tmp_path / "source")
    _, events, dropped = import_splits(tmp_path / "source", Location.at(tmp_path / "data"), "BRCA")
    assert events == [3, 3, 3]
    assert list(dropped["case_id"]) == ["TCGA-A1-0099"]
    folds = given_folds(Cohort.load(tmp_path / "data", "BRCA").splits, CASES)
    assert [(list(fold.training), list(fold.validation)) for fold in folds] == [
        (training(fold), held_out(fold)) for fold in range(3)
    ]
    assert read_source(folder)["splits"]["files"]


def test_one_folder_of_mmp_gives_one_fold(tmp_path, folder):
    write_folders(tmp_path / "source")
    splits, events, _ = import_splits(
        tmp_path / "source" / "TCGA_BRCA_overall_survival_k=1", Location.at(tmp_path / "data"), "BRCA"
    )
    assert events == [3]
    assert set(splits.table["fold"]) == {1}
    assert (
        "6 cases are not held out in any fold: 'TCGA-A1-0000', 'TCGA-A1-0001', 'TCGA-A1-0002' and 3 more"
        in splits.notes
    )


def test_the_held_out_role_must_be_given_if_there_are_val_and_test(tmp_path, folder):
    write_columns(tmp_path / "source", more={"test": ["TCGA-A1-0099"]})
    with pytest.raises(DataError, match=r"has val and test\. Fix: choose with --held-out"):
        import_splits(tmp_path / "source", Location.at(tmp_path / "data"), "BRCA")
    splits, events, _ = import_splits(tmp_path / "source", Location.at(tmp_path / "data"), "BRCA", held_out="val")
    assert events == [3, 3, 3]
    assert "the cases under 'test' are not used" in splits.notes
    assert splits.source["held_out"] == "val"


def test_ids_without_a_label_are_ignored_and_listed(tmp_path, folder):
    write_columns(tmp_path / "source", lambda cases: [*cases, "TCGA-A1-0099", "TCGA-ZZ-0001"][-99:])
    for fold in (1, 2):  # hold them out only once
        file = tmp_path / "source" / f"splits_{fold}.csv"
        table = pd.read_csv(file, index_col=0, dtype=str)
        table["val"] = table["val"].where(~table["val"].isin(["TCGA-A1-0099", "TCGA-ZZ-0001"]))
        table.to_csv(file)
    file = tmp_path / "source" / "splits_0.csv"
    table = pd.read_csv(file, index_col=0, dtype=str)
    table["train"] = table["train"].where(~table["train"].isin(["TCGA-A1-0099", "TCGA-ZZ-0001"]))
    table.to_csv(file)
    splits, events, _ = import_splits(tmp_path / "source", Location.at(tmp_path / "data"), "BRCA")
    assert events == [3, 3, 3]
    assert "1 ids have no label and are ignored: 'TCGA-ZZ-0001'" in splits.notes
    assert "1 ids are excluded by the labels and ignored: 'TCGA-A1-0099'" in splits.notes
    assert read_dropped(folder)["TCGA-ZZ-0001"] == "in the splits without a label"


def spoil(source, old, new):
    file = source / "splits_1.csv"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: spoil(s, "train", "rest"), "lacks the columns 'train'"),
        (lambda s: spoil(s, "val", "rest"), "holds 'train'; expected train and val or test"),
        (lambda s: spoil(s, "val", "test"), r"are named val \(fold 0\) and test \(fold 1\)"),
        (lambda s: spoil(s, "TCGA-A1-0000", "TCGA-A1-0003"), "fold 1: 'TCGA-A1-0003' are listed more than once"),
        (lambda s: (s / "splits_1.csv").write_text((s / "splits_2.csv").read_text()), "are held out in two folds"),
        (
            lambda s: [f.write_text(f.read_text().replace("A1", "B2")) for f in s.glob("splits_?.csv")],
            "is a case of this",
        ),
        (lambda s: (s / "splits_1.csv").write_text(""), "is empty"),
    ],
)
def test_problems_are_reported_and_nothing_is_written(tmp_path, folder, tree, change, message):
    write_columns(tmp_path / "source")
    change(tmp_path / "source")
    before = tree(tmp_path)
    with pytest.raises(DataError, match=message):
        import_splits(tmp_path / "source", Location.at(tmp_path / "data"), "BRCA")
    assert tree(tmp_path) == before


def test_a_fold_without_held_out_events_is_refused(tmp_path, folder):
    cases = pd.DataFrame({"time": 3.0, "event": [case not in held_out(1) for case in CASES]}, index=CASES)
    update_cohort(folder, {}, cases=cases)
    write_columns(tmp_path / "source")
    with pytest.raises(DataError, match="fold 1 of repeat 0: none of its 3 held-out cases has an event"):
        import_splits(tmp_path / "source", Location.at(tmp_path / "data"), "BRCA")


def test_folders_without_splits(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_splits(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no splits"):
        read_splits(tmp_path / "empty")
    with pytest.raises(DataError, match="labels define the cases"):
        import_splits(tmp_path / "empty", Location.at(tmp_path / "data"), "HNSC")


@pytest.mark.parametrize(
    ("cohort", "events"),
    [
        ("brca", [8, 9, 20, 7, 16]),
        ("blca", [25, 24, 23, 25, 16]),
        ("coadread", [5, 13, 5, 9, 5]),
        ("hnsc", [16, 25, 18, 45, 13]),
        ("stad", [10, 16, 16, 9, 33]),
    ],
)
def test_the_real_splits(real_data, tmp_path, cohort, events):
    from survq.importing.labels import import_labels

    root, name = Location.at(tmp_path), cohort.upper()
    import_labels(real_data / "survpath" / "datasets_csv" / "metadata" / f"tcga_{cohort}.csv", root, name)
    splits, found, _ = import_splits(real_data / "survpath" / "splits" / "5foldcv" / f"tcga_{cohort}", root, name)
    assert found == events
    assert not splits.notes


def test_the_real_fold_of_mmp(real_data, tmp_path):
    from survq.importing.labels import import_labels

    root = Location.at(tmp_path)
    import_labels(real_data / "survpath" / "datasets_csv" / "metadata" / "tcga_blca.csv", root, "BLCA")
    splits, _, _ = import_splits(real_data / "mmp", root, "BLCA")
    assert splits.table["role"].value_counts().to_dict() == {"training": 289, "validation": 70}


def test_splits_drawn_anew_are_repeats_on_request(tmp_path, folder):
    """Monte-Carlo: overlapping held-out cases, one file for each draw."""
    source = tmp_path / "source"
    source.mkdir()
    for number, start in enumerate((0, 2, 4)):
        held = CASES[start : start + 3]
        columns = {"train": [case for case in CASES if case not in held], "val": held}
        table = pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()})
        table.to_csv(source / f"splits_{number}.csv", na_rep="NA")
    root = Location.at(tmp_path / "data")
    with pytest.raises(
        DataError, match=r"'TCGA-A1-0002', 'TCGA-A1-0004' are held out in two folds.*--repeats-from files"
    ):
        import_splits(source, root, "BRCA")
    splits, events, _ = import_splits(source, root, "BRCA", repeats_from_files=True)
    assert events == [3, 3, 3]
    assert "3 repeats, one of each file: 7 cases are held out, 2 of them in several repeats" in splits.notes
    folds = given_folds(Cohort.load(tmp_path / "data", "BRCA").splits, CASES)
    assert [(fold.repeat, fold.index, fold.validation) for fold in folds] == [
        (number, 0, tuple(CASES[start : start + 3])) for number, start in enumerate((0, 2, 4))
    ]
    assert splits.source["repeats"] == "one of each file"


def test_a_file_is_not_its_folder(tmp_path, folder):
    write_columns(tmp_path / "source")
    with pytest.raises(DataError, match=r"splits_0.csv: is a file; expected the folder .* Fix: give .*source\."):
        read_splits(tmp_path / "source" / "splits_0.csv")
