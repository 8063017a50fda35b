"""What locked_store a store has in common: one at a time, one encoder, nothing half written, nobody lost."""

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
    Kind,
    SlideOutcome,
    case_ids,
    in_the_way,
    is_there,
    list_skipped,
    locked_store,
    readable_index,
    record_features,
    strangers,
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


def test_a_cohort_must_have_cases_first(tmp_path, small):
    write_cohort(tmp_path, "X", **small)
    assert case_ids(Location.at(tmp_path), "X") == set(small["cases"].index)
    with pytest.raises(DataError, match=r"no cohort 'BLCA'.*it has: 'X'.*`survq import labels`"):
        case_ids(Location.at(tmp_path), "BLCA")


def test_filling_is_for_one_process_and_leaves_nothing(tmp_path):
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
    assert os.listdir(tmp_path) == [".features.lock"]  # left by the kill, held by nobody
    with locked_store(Location.at(tmp_path)):
        pass
    assert os.listdir(tmp_path) == []


def test_what_was_left_half_written_is_swept_and_nothing_else(tmp_path):
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


def test_what_is_there_is_known_by_case_and_source(tmp_path):
    index = store_of(tmp_path, slide("A"))
    assert is_there(index, "A", "CASE-A", "from there")
    assert not is_there(index, "A", "CASE-A", "changed")
    assert not is_there(index, "A", "CASE-B", "from there")
    assert not is_there(index, "B", "CASE-B", "from there")


def test_a_damaged_slide_is_as_good_as_not_there(tmp_path):
    store_of(tmp_path, slide("A"), slide("B"))
    (damaged,) = tmp_path.glob("A-*.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-7])
    assert list(readable_index(Location.at(tmp_path)).index) == ["B"]
    with pytest.raises(DataError, match=r"A-.*cannot be read"):
        SlideStore(tmp_path)


def test_slides_that_share_a_file_are_in_the_way(tmp_path):
    store_of(tmp_path, slide("A"), slide("B"))
    (tmp_path / "all.parquet").write_bytes(next(tmp_path.glob("B-*")).read_bytes())
    next(tmp_path.glob("B-*")).unlink()
    index = readable_index(Location.at(tmp_path))
    assert in_the_way(index, {"A", "C"}) == []
    (problem,) = in_the_way(index, {"A", "B"})
    assert "all.parquet: holds 'B', which come again. Fix" in problem


def test_the_store_says_which_kind_goes_with_it(tmp_path):
    index = store_of(tmp_path, slide("A"), slide("B"))
    coming = {"C": Kind("uni", 4), "D": Kind("conch", 4), "E": Kind("uni", 8), "F": Kind("conch", 4)}
    found = strangers(index, coming)
    assert set(found) == {"D", "E", "F"}
    assert "of conch, 4 wide; those of the 2 slides of the store are of uni, 4 wide. Fix" in found["D"]
    # what takes the place of all that is there need not go with it
    assert strangers(index, {"A": Kind("conch", 4), "B": Kind("conch", 4)}) == {}


def test_in_an_empty_store_most_of_those_that_come_do():
    none = readable_index(Location.at("/nowhere"))
    coming = {"A": Kind("uni", 4), "B": Kind("uni", 4), "C": Kind("uni", 8)}
    (reason,) = strangers(none, coming).values()
    assert reason.startswith("its features are of uni, 8 wide; those of 2 others are of uni, 4 wide. Fix: ")
    assert strangers(none, {}) == {} == strangers(none, {"A": Kind("uni", 4)})
    with pytest.raises(DataError, match=r"mixed.*uni, 4 wide \(1 slides, the first A\); uni, 8 wide \(1 .*C\)"):
        strangers(none, {"A": Kind("uni", 4), "C": Kind("uni", 8)})


def test_who_was_left_out_is_listed_until_it_is_there(tmp_path):
    folder = Location.at(tmp_path)
    bad = SlideOutcome("A", "CASE-A", "a.h5", "failed", "no patches")
    other = SlideOutcome("B", "CASE-B", "b.h5", "skipped", "not a case, of 'X'")
    fine = SlideOutcome("C", "CASE-C", "c.h5", "written", patches=3)
    list_skipped(folder, [bad, fine])
    file = list_skipped(folder, [other, fine])
    table = pd.read_csv(str(file))
    assert table.to_dict("list") == {
        "slide_id": ["A", "B"],
        "case_id": ["CASE-A", "CASE-B"],
        "file": ["a.h5", "b.h5"],
        "reason": ["no patches", "not a case, of 'X'"],
    }
    assert SlideStore(tmp_path).index.empty  # it is no slide
    assert list_skipped(folder, [SlideOutcome(name, "", "", "written") for name in "AB"]) is None
    assert os.listdir(tmp_path) == []


def test_who_gets_slides_is_no_longer_left_out(tmp_path, small):
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
def test_lists_that_cannot_be_kept_are_told_before_the_work_begins(tmp_path, file, text):
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
