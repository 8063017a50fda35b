"""Adding slides to a store: one process at a time, one encoder, no unfinished files, and every skipped slide listed."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from pyarrow import fs
from slide_store import SlideStore

from survq.data.cohort import Cohort
from survq.data.feature_import import (
    FeatureKind,
    SlideResult,
    case_ids,
    conflicts,
    contains,
    incompatible,
    list_skipped,
    locked_store,
    readable_index,
    record_features,
)
from survq.data.location import Location
from survq.data.lock import InUse
from survq.data.problems import DataError
from survq.data.write import Slide, write_cohort, write_slide


def slide(name: str, encoder: str = "uni", width: int = 4) -> Slide:
    return Slide(name, f"CASE-{name}", np.ones((2, width), np.float16), encoder=encoder)


def store_of(folder, *slides):
    for each in slides:
        write_slide(folder, each, "from there")
    return readable_index(Location.at(folder))


def test_labels_must_be_imported_first(tmp_path, small):
    write_cohort(tmp_path, "X", **small)
    assert case_ids(Location.at(tmp_path), "X") == set(small["cases"].index)
    with pytest.raises(DataError, match=r"no cohort 'BLCA'.*it has: 'X'.*`survq import labels`"):
        case_ids(Location.at(tmp_path), "BLCA")


def test_the_store_is_locked_for_one_process(tmp_path):
    code = "import sys; from survq.data.feature_import import locked_store, Location\n"
    code += "with locked_store(Location.at(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(InUse, match=rf"in use by process {holder.pid} on .*Fix: wait"),
        locked_store(Location.at(tmp_path)),
    ):
        pytest.fail("two processes fill one store")
    holder.kill()
    holder.communicate()
    assert os.listdir(tmp_path) == [".features.lock"]  # left by the kill, without a holder
    with locked_store(Location.at(tmp_path)):
        pass
    assert os.listdir(tmp_path) == []


def test_unfinished_files_are_removed_and_nothing_else(tmp_path):
    features = tmp_path / "features"
    write_slide(features, slide("A"))
    (features / ".A.parquet.x1.unfinished").write_text("half")
    (features / ".nfs0001").write_text("not ours")
    with locked_store(Location.at(tmp_path)):
        (features / ".B.parquet.x2.unfinished").write_text("of a task that outlived its run")
    assert sorted(os.listdir(features)) == sorted([".nfs0001", *(f.name for f in features.glob("A-*.parquet"))])


def test_a_bucket_cannot_be_locked(tmp_path):
    bucket = Location(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "data")
    with locked_store(bucket) as features, locked_store(bucket):
        assert features.path == "data/features"
    assert os.listdir(tmp_path) == []


def test_a_slide_is_recognised_by_its_case_and_source(tmp_path):
    index = store_of(tmp_path, slide("A"))
    assert contains(index, "A", "CASE-A", "from there")
    assert not contains(index, "A", "CASE-A", "changed")
    assert not contains(index, "A", "CASE-B", "from there")
    assert not contains(index, "B", "CASE-B", "from there")


def test_a_damaged_slide_counts_as_missing(tmp_path):
    store_of(tmp_path, slide("A"), slide("B"))
    (damaged,) = tmp_path.glob("A-*.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-7])
    assert list(readable_index(Location.at(tmp_path)).index) == ["B"]
    with pytest.raises(DataError, match=r"A-.*cannot be read"):
        SlideStore(tmp_path)


def test_slides_that_share_a_file_cannot_be_replaced(tmp_path):
    store_of(tmp_path, slide("A"), slide("B"))
    (tmp_path / "all.parquet").write_bytes(next(tmp_path.glob("B-*")).read_bytes())
    next(tmp_path.glob("B-*")).unlink()
    index = readable_index(Location.at(tmp_path))
    assert conflicts(index, {"A", "C"}) == []
    (problem,) = conflicts(index, {"A", "B"})
    assert "all.parquet: contains 'B', which would be imported again. Fix" in problem


UNI, CONCH, WIDE = FeatureKind("uni", 4), FeatureKind("conch", 4), FeatureKind("uni", 8)


def test_the_store_decides_which_kind_is_right(tmp_path):
    index = store_of(tmp_path, slide("A"), slide("B"))
    reasons = incompatible(index, {"C": UNI, "D": CONCH, "E": WIDE, "F": CONCH})
    assert set(reasons) == {"D", "E", "F"}
    assert "of conch, 4 wide; those of the 2 slides of the store are of uni, 4 wide. Fix" in reasons["D"]
    # slides that replace the whole store need not match it
    assert incompatible(index, {"A": CONCH, "B": CONCH}) == {}


def test_for_an_empty_store_the_majority_decides():
    none = readable_index(Location.at("/nowhere"))
    (reason,) = incompatible(none, {"A": UNI, "B": UNI, "C": WIDE}).values()
    assert reason.startswith("its features are of uni, 8 wide; those of 2 others are of uni, 4 wide. Fix: ")
    assert incompatible(none, {}) == {} == incompatible(none, {"A": UNI})
    with pytest.raises(DataError, match=r"mixed.*uni, 4 wide \(1 slides, the first A\); uni, 8 wide \(1 .*C\)"):
        incompatible(none, {"A": UNI, "C": WIDE})


def test_a_skipped_slide_is_listed_until_it_is_written(tmp_path):
    folder = Location.at(tmp_path)
    bad = SlideResult("A", "CASE-A", "a.h5", "failed", "no patches")
    other = SlideResult("B", "CASE-B", "b.h5", "skipped", "not a case, of 'X'")
    fine = SlideResult("C", "CASE-C", "c.h5", "written", patches=3)
    list_skipped(folder, [bad, fine])
    file = list_skipped(folder, [other, fine])
    table = pd.read_csv(str(file))
    assert table.to_dict("list") == {
        "slide_id": ["A", "B"],
        "case_id": ["CASE-A", "CASE-B"],
        "file": ["a.h5", "b.h5"],
        "reason": ["no patches", "not a case, of 'X'"],
    }
    assert SlideStore(tmp_path).index.empty  # skipped.csv is not a slide
    assert list_skipped(folder, [SlideResult(name, "", "", "written") for name in "AB"]) is None
    assert os.listdir(tmp_path) == []


def test_a_case_with_new_slides_is_no_longer_excluded(tmp_path, small):
    """CASE-23 lacks expression; without its slides it has nothing, until they come back."""
    small["slides"] = [each for each in small["slides"] if each.case_id != "CASE-23"]
    write_cohort(tmp_path, "X", **small)
    folder = Location.at(tmp_path) / "X"

    def dropped() -> dict[str, str]:
        record_features(folder, ["CASE-55"])
        table = pd.read_csv(tmp_path / "X" / "dropped.csv")
        assert set(Cohort.load(tmp_path, "X").dropped["case_id"]) == set(table["case_id"])
        return dict(table.to_numpy().tolist())

    of_others = {"CASE-99": "no time", "CASE-55": "slides without a label"}
    assert dropped() == {**of_others, "CASE-23": "neither slides nor expression"}
    assert dropped() == {**of_others, "CASE-23": "neither slides nor expression"}
    assert "CASE-23" not in Cohort.load(tmp_path, "X").cases.index
    write_slide(folder / "features", Slide("CASE-23-DX1", "CASE-23", np.ones((2, 16), np.float16), encoder="uni"))
    assert dropped() == of_others
    assert "CASE-23" in Cohort.load(tmp_path, "X").cases.index


@pytest.mark.parametrize("file", ["dropped.csv", "features/skipped.csv"])
@pytest.mark.parametrize("text", ["", "slide,why\nA,B\n"], ids=["empty", "edited"])
def test_invalid_lists_are_reported_before_the_work_begins(tmp_path, file, text):
    (tmp_path / "features").mkdir()
    (tmp_path / file).write_text(text)
    with (
        pytest.raises(DataError, match=rf"{file}: has the columns .*Fix: correct it"),
        locked_store(Location.at(tmp_path)),
    ):
        pytest.fail("hours of work begin")
    (tmp_path / file).unlink()
    with locked_store(Location.at(tmp_path)) as features:
        (tmp_path / file).write_text(text)
        with pytest.raises(DataError, match=rf"{file}: has the columns .*Fix: correct it"):
            list_skipped(features, [])
            record_features(Location.at(tmp_path))
