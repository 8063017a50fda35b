import errno
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
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from writers import CONFIG, PATH, hold, predictions, report, save, save_on_a_small_disk, write_for_ever

from survq.data.lock import InUse
from survq.data.problems import DataError
from survq.evaluation.epochs import Epoch
from survq.evaluation.measure import FoldConcordance, Measured
from survq.training import results as module
from survq.training.record import Record, read_record
from survq.training.report import Report
from survq.training.results import Results


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path / "study")


def visible(folder: Path) -> list[str]:
    """The visible files and folders."""
    paths = [path.relative_to(folder) for path in folder.rglob("*")]
    return sorted(str(path) for path in paths if not any(part.startswith(".") for part in path.parts))


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*") if path.name != ".lock")


def same(first: Record, second: Record) -> None:
    assert (first.folder, first.config) == (second.folder, second.config)
    np.testing.assert_equal(vars(first.report), vars(second.report))  # treats NaN as equal to NaN
    pd.testing.assert_frame_equal(first.predictions, second.predictions, check_exact=True)


def test_a_record_is_read_as_it_was_written(results):
    saved = save(results)
    found = results.find(PATH, CONFIG)
    for record in (saved, found, *results.records()):
        same(record, saved)
        assert record.folder == results.folder / "runs" / PATH
        assert record.config == CONFIG
        np.testing.assert_equal(vars(replace(record.report, files={})), vars(report()))
        pd.testing.assert_frame_equal(record.predictions, predictions(), check_exact=True)
    assert visible(results.runs / PATH) == ["config.json", "predictions.parquet", "report.json"]
    assert hidden(results.folder) == []


def test_a_diverged_run_has_no_predictions(results):
    results.save(PATH, CONFIG, Report("diverged", (), reason="the loss became nan"))
    found = results.find(PATH, CONFIG, needed=["fold-0-0.safetensors"])  # a diverged run has no weights
    assert found.state == "diverged" and found.predictions is None and found.report.reason == "the loss became nan"


@pytest.mark.parametrize("mean", [0.0, 0.75, math.nan])
def test_a_record_has_shortcuts_to_its_report_and_configuration(results, mean):
    epoch = Epoch(1, (0.5,), (0.25,), (math.nan,), {"bottleneck": (0.125,)})
    measured = Measured(mean, 0.0, math.nan, math.nan, (FoldConcordance(0, 0, 9, 0, 0, math.nan, "no events"),))
    record = results.save(PATH, CONFIG, Report("finished", (epoch,), c_index=measured))
    np.testing.assert_equal(record.c_index, mean)
    assert (record.cohort, record.group, record.model, record.state) == ("BLCA", "outer-0-0", "survq", "finished")
    assert (record.hyperparameters, record.training) == ({"depth": 1}, {"learning_rate": 5e-4, "seed": 0})
    assert record.settings == {"model": "survq", "depth": 1, "learning_rate": 5e-4, "seed": 0}
    assert record.epochs[0].mean_validation_loss == 0.25 and math.isnan(record.epochs[0].mean_c_index)
    assert record.epochs[0].penalties == {"bottleneck": (0.125,)}
    assert record.report.c_index.folds[0].reason == "no events"


def test_a_run_that_did_not_finish_has_no_c_index(results):
    assert math.isnan(results.save(PATH, CONFIG, Report("stopped", ())).c_index)


def test_an_empty_study_has_no_runs(results):
    assert results.find(PATH, CONFIG) is None
    assert results.records() == []
    assert not results.folder.exists()


def test_a_configuration_is_found_despite_its_conversion_to_json(results):
    """JSON turns tuples into lists and has no infinity; the configuration is still the same."""
    config = {**CONFIG, "hyperparameters": {"sizes": (1, 2), "limit": math.inf}}
    save(results, config=config)
    assert results.find(PATH, config, notify=pytest.fail) is not None


CHANGES = {
    "expression": ({"data": {**CONFIG["data"], "expression": "new"}}, "expression"),
    "a gene set": ({"data": {**CONFIG["data"], "gene set pathways": "new"}}, "gene set pathways"),
    "another part": ({"data": {**CONFIG["data"], "features": "new"}}, "features"),
    "folds": ({"folds": {"count": 2, "sha256": "new"}}, "folds"),
    "code": ({"code": {**CONFIG["code"], "survq.layers.attention": "new"}}, "code of survq.layers.attention"),
    "removed code": ({"code": {"survq.models.survq": "abc"}}, "code of survq.layers.attention"),
    "training": ({"training": {"learning_rate": 1e-3, "seed": 0}}, "training settings learning_rate"),
    "hyperparameters": ({"hyperparameters": {"depth": 2, "width": 1}}, "hyperparameters depth, width"),
    "several": ({"data": {"cases": "x"}, "model": "mlp"}, "cases, expression, gene set pathways; model"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_changed_configuration_is_reported_by_its_keys(results, change, words):
    save(results)
    messages = []
    assert results.find(PATH, CONFIG | change, notify=messages.append) is None
    assert messages == [
        f"  {PATH} was trained with different {words}; kept as .stale-survq-seed0-01234567-1; the run is trained again"
    ]


def test_a_run_with_another_configuration_is_set_aside_and_never_lost(results):
    save(results, seed=1)
    other = CONFIG | {"data": {"cases": "new"}}
    for number in (1, 2):
        assert results.find(PATH, other if number == 1 else CONFIG, notify=lambda line: None) is None
        assert visible(results.runs / PATH) == []
        kept = read_record(results.runs / "BLCA/outer-0-0" / f".stale-survq-seed0-01234567-{number}")
        pd.testing.assert_frame_equal(kept.predictions, predictions(number), check_exact=True)
        save(results, seed=2, config=other)
    assert len(results.records()) == 1


def test_a_record_without_a_needed_file_is_set_aside(results):
    save(results)
    messages = []
    assert results.find(PATH, CONFIG, needed=["fold-0-0.safetensors"], notify=messages.append) is None
    assert "has no 'fold-0-0.safetensors'; kept as .stale-" in messages[0]
    save(results, **{"fold-0-0.safetensors": b"weights"})
    found = results.find(PATH, CONFIG, needed=["fold-0-0.safetensors"], notify=pytest.fail)
    assert found.read("fold-0-0.safetensors") == b"weights"
    assert results.find(PATH, CONFIG, notify=pytest.fail) is not None  # additional files are allowed
    with pytest.raises(DataError, match=r"has no other; it has 'config.json', .* Fix: train the run again"):
        found.read("other")


def test_weights_are_verified_when_they_are_read(results):
    record = save(results, weights=b"weights of a fold")
    flip(record.folder / "weights", 3)
    found = results.find(PATH, CONFIG, notify=pytest.fail)
    with pytest.raises(DataError, match=r"weights does not match its checksum. Fix: restore it, or train"):
        found.read("weights")
    os.truncate(record.folder / "weights", 3)
    messages = []
    assert results.find(PATH, CONFIG, notify=messages.append) is None and "weights has a different size" in messages[0]


DAMAGES = {
    "a changed risk": lambda f: flip(f / "predictions.parquet", 300),
    "a changed report": lambda f: replace_text(f / "report.json", "0.25", "0.75"),
    "a changed checksum": lambda f: replace_text(f / "report.json", '"sha256": "', '"sha256": "0'),
    "a changed configuration": lambda f: replace_text(f / "config.json", "0.0005", "0.005"),
    "an empty report": lambda f: (f / "report.json").write_text(""),
    "a truncated report": lambda f: os.truncate(f / "report.json", 100),
    "a report that is a list": lambda f: (f / "report.json").write_text("[]"),
    "a report of something else": lambda f: (f / "report.json").write_text('{"state": "finished"}'),
    "truncated predictions": lambda f: os.truncate(f / "predictions.parquet", 500),
    "missing predictions": lambda f: (f / "predictions.parquet").unlink(),
    "a missing configuration": lambda f: (f / "config.json").unlink(),
    "a missing report": lambda f: (f / "report.json").unlink(),
    "an empty folder": lambda f: [file.unlink() for file in f.iterdir()],
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
def test_a_damaged_record_is_set_aside_and_reported(results, damage):
    save(results)
    results.save("BLCA/another", CONFIG, report())
    damage(results.runs / PATH)
    messages = []
    assert results.find(PATH, CONFIG, notify=messages.append) is None
    (line,) = messages
    assert f"{PATH} is damaged" in line and ".damaged-survq-seed0-01234567-1" in line
    assert hidden(results.folder) == [".damaged-survq-seed0-01234567-1"]
    assert [record.folder.name for record in results.records()] == ["another"]
    save(results)
    assert results.find(PATH, CONFIG, notify=messages.append) is not None


def test_every_flipped_bit_is_detected(results):
    folder = save(results).folder
    random.seed(0)
    undetected = 0
    for name in ("config.json", "predictions.parquet", "report.json"):
        content = (folder / name).read_bytes()
        for _ in range(100):
            flip(folder / name, random.randrange(len(content)), random.randrange(8))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "_set_aside", lambda folder, prefix: folder)
                undetected += results.find(PATH, CONFIG, notify=lambda line: None) is not None
            (folder / name).write_bytes(content)
    assert undetected == 0
    assert results.find(PATH, CONFIG) is not None


def test_the_first_writer_wins(results):
    first, second = save(results, seed=1), save(results, seed=2)
    same(second, first)
    pd.testing.assert_frame_equal(second.predictions, predictions(1), check_exact=True)
    assert hidden(results.folder) == []


def test_one_of_many_concurrent_writers_wins_and_all_read_its_record(results):
    saved = []
    writers = [threading.Thread(target=lambda n=n: saved.append(save(results, seed=n))) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    (seed,) = {record.report.parameters for record in saved}
    assert len(saved) == 8
    assert results.find(PATH, CONFIG).report.parameters == seed
    pd.testing.assert_frame_equal(results.find(PATH, CONFIG).predictions, predictions(seed), check_exact=True)
    assert hidden(results.folder) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o700), (0o022, 0o755)])
def test_permissions_of_a_record_follow_the_umask(results, mask, mode):
    before = os.umask(mask)
    try:
        folder = save(results).folder
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {mode & 0o666}


# failures


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
def test_no_failing_operation_leaves_a_partial_record(results, code):
    seen = []
    for number in range(1, 100):
        path = f"{PATH}-{number}"
        with failing(number, code) as failed:
            try:
                saved = save(results, path)
            except OSError as error:
                assert error.errno == code
                saved = None
        assert hidden(results.folder) == []
        found = results.find(path, CONFIG, notify=pytest.fail)  # complete or missing
        assert saved is None or found is not None
        if not failed:
            break
        seen += failed
    assert set(seen) == {"fsync", "rename", "open", "mkdir"}
    assert number > 10


def test_a_record_that_cannot_be_written_leaves_nothing(results):
    with pytest.raises(TypeError):
        save(results, config={**CONFIG, "odd": object()})
    with pytest.raises(TypeError):
        save(results, weights=object())
    assert visible(results.folder) == ["runs", "runs/BLCA", "runs/BLCA/outer-0-0"]
    assert hidden(results.folder) == []


def test_unfinished_folders_are_removed_when_a_study_is_opened(results):
    for folder in ("BLCA/.a.unfinished", "BLCA/outer-0-0/.b.unfinished", ".c.unfinished/BLCA/.d.unfinished"):
        (results.folder / folder).mkdir(parents=True)
        (results.folder / folder / "report.json").write_text("{")
    save(results)
    assert len(results.records()) == 1  # unfinished folders are ignored
    with results.lock():
        assert hidden(results.folder) == []
    assert results.find(PATH, CONFIG) is not None


# processes


@pytest.fixture(scope="module")
def processes():
    """Processes that start in milliseconds, because they are forked from one with all imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "survq.training.results"])
    return context


def test_a_killed_writer_leaves_complete_records_or_none(results, processes):
    """After 30 SIGKILLs all acknowledged records are complete, and there are no partial ones."""
    random.seed(1)
    acknowledged = []
    for attempt in range(30):
        receiver, sender = processes.Pipe(duplex=False)
        writer = processes.Process(target=write_for_ever, args=(results.folder, attempt, sender))
        writer.start()
        sender.close()
        acknowledged.append(receiver.recv())
        time.sleep(random.uniform(0, 0.03))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        with pytest.raises((EOFError, OSError)):
            while True:
                acknowledged.append(receiver.recv())
    leftovers = hidden(results.folder)

    names = [f.name for f in (results.runs / "BLCA").iterdir() if not f.name.startswith(".")]
    records = {f"BLCA/{name}": read_record(results.runs / "BLCA" / name) for name in names}  # verifies checksums
    assert len(results.records()) == len(records)
    assert set(acknowledged) <= set(records)
    assert len(records) <= len(acknowledged) + 30  # killed between writing and acknowledging
    for path, record in records.items():
        number = int(path.split("-")[1])
        assert record.config == CONFIG and record.report.parameters == number
        pd.testing.assert_frame_equal(record.predictions, predictions(number), check_exact=True)

    assert leftovers, "no kill interrupted a write: the test is inconclusive"
    with results.lock():
        assert hidden(results.folder) == []
    assert len(results.records()) == len(records)


@pytest.mark.parametrize("size", [0, 100, 1000, 3000])
def test_a_full_disk_leaves_nothing(results, processes, size):
    """The failing write leaves a truncated file."""
    receiver, sender = processes.Pipe(duplex=False)
    writer = processes.Process(target=save_on_a_small_disk, args=(results.folder, size, sender))
    writer.start()
    assert receiver.recv() == errno.EFBIG
    writer.join()
    assert not (results.runs / PATH).exists()
    assert hidden(results.folder) == []


def test_a_study_is_locked_against_other_processes(results, processes):
    receiver, sender = processes.Pipe(duplex=False)
    holder = processes.Process(target=hold, args=(results.folder, sender))
    holder.start()
    assert receiver.recv() == "held"
    (results.folder / "BLCA/.of-the-other.unfinished").mkdir(parents=True)
    try:
        for _ in range(3):
            with pytest.raises(InUse, match=f"process {holder.pid} on .*Fix"), results.lock():
                pytest.fail("two processes have the lock")
        assert hidden(results.folder) == [".of-the-other.unfinished"]  # the other process may still write to it
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    with results.lock():  # a lock ends with its holder
        assert hidden(results.folder) == []
    with results.lock():
        pass


def test_a_study_is_locked_within_a_process_too(results):
    with results.lock(), pytest.raises(InUse, match=f"process {os.getpid()}"), results.lock():
        pytest.fail("opened twice")
