"""One flipped bit anywhere in a feature store, a checkpoint or a result with its weights is named.

Most are noticed when the file is read. The others lie in parts of Parquet that nothing reads: they leave all that is
read as it was, to the last bit, and `survq check --deep` names them, too.
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_cohort import CPU, SMALL, make_cohort, make_run
from writers import CONFIG, PATH, predictions, report

from survq.data.check import check
from survq.data.feature_store import INDEX, read_coordinates, read_index, read_slides
from survq.data.location import Location, parquet
from survq.data.problems import DataError
from survq.data.write import Slide, write_features
from survq.training.checkpoints import Checkpoints
from survq.training.learner import FoldLearner
from survq.training.loop import train_folds
from survq.training.record import PREDICTIONS, UNREADABLE, read_record
from survq.training.results import Results
from survq.training.share import Share

RANDOM = pytest.mark.parametrize(
    ("seed", "flips"), [(0, 60), *(pytest.param(seed, 300, marks=pytest.mark.faults) for seed in (1, 2, 3))]
)


def flip_each(files: list[Path], seed: int, flips: int, outcome: Callable[[Path], str]) -> Counter:
    """The outcomes after a flipped bit, each in one of the files, which are whole again afterwards."""
    random, found = np.random.default_rng(seed), Counter()
    for _ in range(flips):
        file = files[random.integers(len(files))]
        before = file.read_bytes()
        flipped = bytearray(before)
        flipped[random.integers(len(flipped))] ^= 1 << random.integers(8)
        file.write_bytes(flipped)
        found[outcome(file)] += 1
        file.write_bytes(before)
    print(f"{found} of {flips}, seed {seed}")
    return found


# the feature store


@pytest.fixture
def data(template, tmp_path) -> Path:
    """A data folder with some slides more than usual: with coordinates, sizes and notes of their sources."""
    folder = tmp_path / "data"
    shutil.copytree(template, folder)
    shutil.rmtree(folder / "C/features")
    random = np.random.default_rng(0)
    write_features(
        folder / "C/features",
        (
            Slide(
                *(f"CASE-{number:02d}-DX1", f"CASE-{number:02d}"),
                random.normal(size=(30 + number, 24)).astype(np.float16),
                random.integers(0, 90_000, (30 + number, 2)).astype(np.int32),
                *(448, 40.0, "uni_v1"),
            )
            for number in range(3)
        ),
    )
    return folder


def content(folder: Location) -> list | None:
    """All that a study reads of a store, to the last bit; None if it names a problem."""
    index, problems = read_index(folder)
    rows = index.to_dict("records")
    try:
        bags = [read_slides(folder, [row]).tobytes() for row in rows]
        corners = [read_coordinates(folder, row) for row in rows]
    except DataError:
        return None
    cells = [[str(row[name]) for name in INDEX] for row in rows]
    return None if problems else [cells, bags, [part.tobytes() for part in corners if part is not None]]


@RANDOM
def test_each_flipped_bit_of_a_feature_store_is_named_and_none_changes_what_is_read(data, seed, flips):
    store = Location.at(data / "C/features")
    whole = content(store)
    assert whole is not None and not check(data, deep=True).problems

    def outcome(file: Path) -> str:
        problems = [problem for problem in check(data, deep=True).problems if str(file) in problem]
        if any("its checksum differs" in problem for problem in problems) and content(store) != whole:
            return "wrong"  # not noticed while reading
        return "named" if problems else "not named"

    files = sorted((data / "C/features").glob("*.parquet"))
    assert flip_each(files, seed, flips, outcome) == {"named": flips}


def test_a_flipped_bit_in_each_name_of_a_column_is_named(data):
    """A file says its columns several times, and readers find them by one name or the other."""
    file = min((data / "C/features").glob("*.parquet"))
    whole = file.read_bytes()
    places = [place.start() for place in re.finditer(b"features|coordinates|slide_id", whole)]
    assert len(places) == 6
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert any(str(file) in problem for problem in check(data, deep=True).problems), place


def test_files_without_a_checksum_are_read_and_checked_as_before(data):
    """Those that an early survq or another program wrote."""
    file, *_ = sorted((data / "C/features").glob("*.parquet"))
    pq.write_table(pq.read_table(file), file)
    assert not check(data, deep=True).problems


# results


@RANDOM
def test_each_flipped_bit_of_a_result_with_its_weights_is_named(tmp_path, seed, flips):
    cohort, bags = make_cohort()
    run = make_run(cohort, epochs=1, hyperparameters=SMALL | {"width": 4})
    outcome = train_folds(run, cohort, bags, device=CPU, keep_weights=True)
    results = Results(tmp_path / "study")
    files = {PREDICTIONS: parquet(predictions()), **outcome.files}
    record = results.save(PATH, CONFIG, replace(report(), seconds=1e-07), files)

    def read(file: Path) -> str:
        try:
            damaged = read_record(record.folder)
            for name in damaged.report.files:
                damaged.read(name)
        except (DataError, *UNREADABLE) as error:
            return "named" if file.name in str(error) or str(record.folder) in str(error) else f"unclear: {error!r}"
        return "not named"

    assert read(record.folder) == "not named"
    assert flip_each(sorted(record.folder.iterdir()), seed, flips, read) == {"named": flips}


# checkpoints


class Interrupted(Exception):
    pass


@RANDOM
def test_no_checkpoint_with_a_flipped_bit_is_used(tmp_path, seed, flips):
    cohort, bags = make_cohort()
    run = make_run(cohort, epochs=3, hyperparameters=SMALL | {"width": 4})

    def stop(epoch) -> None:
        if epoch.epoch > 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_folds(run, cohort, bags, device=CPU, on_epoch=stop, checkpoints=Checkpoints(tmp_path, 0))
    learners = [FoldLearner(run.config, cohort, fold, CPU) for fold in run.folds]
    for learner in learners:
        learner.prepare(bags)
    share = Share(folds=tuple(range(len(run.folds))))

    def restored(file: Path) -> str:
        history = Checkpoints(tmp_path, 0).restore(learners, share)
        return "named" if history.problem and not len(history) else "not named"

    assert restored(tmp_path) == "not named"
    assert flip_each([file for file in tmp_path.rglob("*") if file.is_file()], seed, flips, restored) == {
        "named": flips
    }
