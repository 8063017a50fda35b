import errno
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import stat
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from writers import CONFIG, PATH, hold, predictions, report, save_on_a_small_disk, write_for_ever

from survq.data.lock import InUse
from survq.training import results as module
from survq.training.results import Results, read_record


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path / "study")


def visible(folder: Path) -> list[str]:
    """What stands under a final name."""
    paths = [path.relative_to(folder) for path in folder.rglob("*")]
    return sorted(str(path) for path in paths if not any(part.startswith(".") for part in path.parts))


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*") if path.name != ".lock")


def test_a_record_comes_back_as_it_was(results):
    saved = results.save(PATH, CONFIG, report(), predictions())
    found = results.find(PATH, CONFIG)
    for record in (saved, found, *results.records()):
        assert record.folder == results.folder / PATH
        assert record.config == CONFIG
        assert record.state == "finished"
        assert {key: value for key, value in record.report.items() if key != "checksums"} == report()
        pd.testing.assert_frame_equal(record.predictions, predictions(), check_exact=True)
    assert visible(results.folder / PATH) == ["config.json", "predictions.parquet", "report.json"]
    assert hidden(results.folder) == []


def test_a_run_without_predictions(results):
    results.save(PATH, CONFIG, {"state": "diverged", "reason": "the loss became nan"}, None)
    found = results.find(PATH, CONFIG)
    assert found.state == "diverged" and found.predictions is None


@pytest.mark.parametrize("mean", [0.0, 0.75, math.nan])
def test_what_readers_ask_of_a_record(results, mean):
    epoch = {"epoch": 1, "training_loss": [0.5], "validation_loss": [0.25], "c_index": [math.nan]}
    config = {**CONFIG, "config": {**CONFIG["config"], "seed": 3}}
    record = results.save(PATH, config, {"state": "finished", "epochs": [epoch], "c_index": {"mean": mean}}, None)
    np.testing.assert_equal(record.c_index, mean)
    assert (record.cohort, record.state) == ("BLCA", "finished")
    assert record.settings == {"learning_rate": 5e-4, "seed": 3, "depth": 1}
    assert record.epochs[0].mean_validation_loss == 0.25 and math.isnan(record.epochs[0].mean_c_index)
    assert record.epochs is record.epochs  # made once


def test_a_run_that_did_not_finish_has_no_c_index(results):
    assert math.isnan(results.save(PATH, CONFIG, {"state": "stopped", "epochs": []}, None).c_index)


def test_nothing_is_found_where_nothing_was_done(results):
    assert results.find(PATH, CONFIG) is None
    assert results.records() == []


def test_nan_survives(results):
    """JSON has none. Where there is no number and none is missing, null stays null."""
    curves = {"epoch": 1, "training_loss": [0.5, math.nan], "validation_loss": [math.nan], "c_index": [math.nan, 0.5]}
    content = {
        "state": "finished",
        "epochs": [curves],
        "c_index": {
            "mean": math.nan,
            "deviation": 0.0,
            "low": math.nan,
            "high": math.nan,
            "folds": [
                {"fold": 0, "c_index": math.nan, "reason": "no events"},
                {"fold": 1, "c_index": 0.5, "reason": None},
            ],
        },
        "optimistic_best_epoch": {"epoch": 1, "c_index": math.nan},
    }
    results.save(PATH, CONFIG, content, None)
    text = (results.folder / PATH / "report.json").read_text()
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    found = results.find(PATH, CONFIG).report
    found.pop("checksums")
    np.testing.assert_equal(found, content)  # for which NaN is NaN


def test_a_configuration_is_found_again_however_it_was_written(results):
    """Tuples come back as lists, and JSON knows no infinity: the same configuration still."""
    config = {"config": {"sizes": (1, 2), "limit": math.inf, "seed": 0}}
    results.save(PATH, config, report(), None)
    assert results.find(PATH, config, say=pytest.fail) is not None


def test_another_configuration_is_set_aside_and_said(results):
    results.save(PATH, CONFIG, report(1), predictions(1))
    other = {**CONFIG, "config": {**CONFIG["config"], "learning_rate": 1e-3}, "data": "def"}
    for number in (1, 2):
        said = []
        assert results.find(PATH, other if number == 1 else CONFIG, said.append) is None
        aside = f".stale-depth=1,seed=0-{number}"
        (line,) = said
        assert "was made with other learning_rate, data" in line and aside in line
        assert visible(results.folder / PATH) == []
        kept = read_record(results.folder / "BLCA/outer=0" / aside)
        pd.testing.assert_frame_equal(kept.predictions, predictions(number), check_exact=True)
        results.save(PATH, other, report(2), predictions(2))
    assert len(results.records()) == 1


DAMAGES = {
    "a changed risk": lambda f: flip(f / "predictions.parquet", 300),
    "a changed report": lambda f: replace_text(f / "report.json", "0.25", "0.75"),
    "a changed checksum": lambda f: replace_text(f / "report.json", '"sha256": "', '"sha256": "0'),
    "a changed configuration": lambda f: replace_text(f / "config.json", "0.0005", "0.005"),
    "an empty report": lambda f: (f / "report.json").write_text(""),
    "a report cut short": lambda f: os.truncate(f / "report.json", 100),
    "a report that is none": lambda f: (f / "report.json").write_text("[]"),
    "a report of something else": lambda f: (f / "report.json").write_text('{"state": "finished"}'),
    "predictions cut short": lambda f: os.truncate(f / "predictions.parquet", 500),
    "predictions gone": lambda f: (f / "predictions.parquet").unlink(),
    "a configuration gone": lambda f: (f / "config.json").unlink(),
    "a report gone": lambda f: (f / "report.json").unlink(),
    "everything gone": lambda f: [file.unlink() for file in f.iterdir()],
    "a file instead of a folder": lambda f: (shutil.rmtree(f), f.write_text("")),
}


def flip(file: Path, position: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def replace_text(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_set_aside_and_said(results, damage):
    results.save(PATH, CONFIG, report(), predictions())
    results.save("BLCA/another", CONFIG, report(), None)
    damage(results.folder / PATH)
    said = []
    assert results.find(PATH, CONFIG, said.append) is None
    (line,) = said
    assert f"{PATH} is damaged" in line and ".damaged-depth=1,seed=0-1" in line
    assert hidden(results.folder) == [".damaged-depth=1,seed=0-1"]
    assert [record.folder.name for record in results.records()] == ["another"]
    results.save(PATH, CONFIG, report(), predictions())
    assert results.find(PATH, CONFIG, said.append) is not None


def test_no_flipped_bit_goes_unseen(results):
    folder = results.save(PATH, CONFIG, report(), predictions()).folder
    random.seed(0)
    unseen = 0
    for name in ("config.json", "predictions.parquet", "report.json"):
        content = (folder / name).read_bytes()
        for _ in range(100):
            flip(folder / name, random.randrange(len(content)), random.randrange(8))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "_set_aside", lambda folder, prefix: folder)
                unseen += results.find(PATH, CONFIG, lambda line: None) is not None
            (folder / name).write_bytes(content)
    assert unseen == 0
    assert results.find(PATH, CONFIG) is not None


def test_the_first_writer_wins(results):
    first = results.save(PATH, CONFIG, report(1), predictions(1))
    second = results.save(PATH, CONFIG, report(2), predictions(2))
    assert second.report == first.report
    pd.testing.assert_frame_equal(second.predictions, predictions(1), check_exact=True)
    assert hidden(results.folder) == []


def test_of_many_writers_at_once_one_wins_and_all_know_it(results):
    saved = []
    writers = [
        threading.Thread(target=lambda n=n: saved.append(results.save(PATH, CONFIG, report(n), predictions(n))))
        for n in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    (seed,) = {record.report["seed"] for record in saved}
    assert len(saved) == 8
    assert results.find(PATH, CONFIG).report["seed"] == seed
    pd.testing.assert_frame_equal(results.find(PATH, CONFIG).predictions, predictions(seed), check_exact=True)
    assert hidden(results.folder) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o700), (0o022, 0o755)])
def test_who_may_read_a_record_is_for_the_umask_to_say(results, mask, mode):
    before = os.umask(mask)
    try:
        folder = results.save(PATH, CONFIG, report(), predictions()).folder
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {mode & 0o666}


# what may fail


@contextmanager
def failing(number: int, code: int):
    """The `number`-th operation on files raises OSError. Yields a list that is empty until it does."""
    calls, failed = [], []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (os, "fsync"),
            (os, "rename"),
            (os, "open"),
            (os, "mkdir"),
            (Path, "open"),
        ):
            original = getattr(owner, name)

            def operation(*arguments, original=original, name=name, **options):
                calls.append(name)
                if len(calls) == number:
                    failed.append(name)
                    raise OSError(code, os.strerror(code), name)
                return original(*arguments, **options)

            patch.setattr(owner, name, operation)
        yield failed


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["disk full", "i/o error"])
def test_whichever_operation_fails_no_half_record_has_a_final_name(results, code):
    seen = []
    for number in range(1, 100):
        path = f"{PATH},{number}"
        with failing(number, code) as failed:
            try:
                saved = results.save(path, CONFIG, report(), predictions())
            except OSError as error:
                assert error.errno == code
                saved = None
        assert hidden(results.folder) == []
        found = results.find(path, CONFIG, pytest.fail)  # whole, or not there
        assert saved is None or found is not None
        if not failed:
            break
        seen += failed
    assert set(seen) == {"fsync", "rename", "open", "mkdir"}
    assert number > 10


def test_what_cannot_be_written_leaves_nothing(results):
    with pytest.raises(TypeError):
        results.save(PATH, {**CONFIG, "odd": object()}, report(), predictions())
    with pytest.raises(Exception, match="object"):
        results.save(PATH, CONFIG, report(), pd.DataFrame({"odd": [object()]}))
    assert visible(results.folder) == ["BLCA", "BLCA/outer=0"]
    assert hidden(results.folder) == []


def test_leftovers_are_swept_when_a_study_is_opened(results):
    for folder in ("BLCA/.a.unfinished", "BLCA/outer=0/.b.unfinished", ".c.unfinished/BLCA/.d.unfinished"):
        (results.folder / folder).mkdir(parents=True)
        (results.folder / folder / "report.json").write_text("{")
    results.save(PATH, CONFIG, report(), predictions())
    assert len(results.records()) == 1  # nor do they disturb
    with results.lock():
        assert hidden(results.folder) == []
    assert results.find(PATH, CONFIG) is not None


# processes


@pytest.fixture(scope="module")
def processes():
    """Processes that start in milliseconds: forked off one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "survq.training.results"])
    return context


def test_killed_at_any_moment_it_leaves_whole_records_or_none(results, processes):
    """SIGKILL, 30 times: what was acknowledged is there and whole, and nothing is there by half."""
    random.seed(1)
    acknowledged = []
    for attempt in range(30):
        hears, says = processes.Pipe(duplex=False)
        writer = processes.Process(target=write_for_ever, args=(results.folder, attempt, says))
        writer.start()
        says.close()
        acknowledged.append(hears.recv())
        time.sleep(random.uniform(0, 0.03))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        with pytest.raises((EOFError, OSError)):
            while True:
                acknowledged.append(hears.recv())
    leftovers = hidden(results.folder)

    names = [f.name for f in (results.folder / "BLCA").iterdir() if not f.name.startswith(".")]
    records = {f"BLCA/{name}": read_record(results.folder / "BLCA" / name) for name in names}  # checks every byte
    assert len(results.records()) == len(records)
    assert set(acknowledged) <= set(records)
    assert len(records) <= len(acknowledged) + 30  # written, and killed before it could say so
    for path, record in records.items():
        number = int(path.split("-")[1])
        assert record.config == CONFIG and record.report["seed"] == number
        pd.testing.assert_frame_equal(record.predictions, predictions(number), check_exact=True)

    assert leftovers, "no kill hit a writer at work: the test shows nothing"
    with results.lock():
        assert hidden(results.folder) == []
    assert len(results.records()) == len(records)


@pytest.mark.parametrize("size", [0, 100, 1000, 3000])
def test_a_full_disk_leaves_nothing(results, processes, size):
    """The write that does not fit ends in the middle of a file."""
    hears, says = processes.Pipe(duplex=False)
    writer = processes.Process(target=save_on_a_small_disk, args=(results.folder, size, says))
    writer.start()
    assert hears.recv() == errno.EFBIG
    writer.join()
    assert not (results.folder / PATH).exists()
    assert hidden(results.folder) == []


def test_a_study_is_for_one_process(results, processes):
    hears, says = processes.Pipe(duplex=False)
    holder = processes.Process(target=hold, args=(results.folder, says))
    holder.start()
    assert hears.recv() == "held"
    (results.folder / "BLCA/.of-the-other.unfinished").mkdir(parents=True)
    try:
        for _ in range(3):
            with pytest.raises(InUse, match=f"process {holder.pid} on .*Fix"), results.lock():
                pytest.fail("two processes work on one study")
        assert hidden(results.folder) == [".of-the-other.unfinished"]  # it may be at work on it
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    with results.lock():  # a lock dies with its holder
        assert hidden(results.folder) == []
    with results.lock():
        pass


def test_a_study_is_opened_once_in_a_process_too(results):
    with results.lock(), pytest.raises(InUse, match=f"process {os.getpid()}"), results.lock():
        pytest.fail("opened twice")
