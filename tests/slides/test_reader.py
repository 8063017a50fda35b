"""A slide is read in a process that may hang or die; so may its parent process."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from slide_files import flat, stained, write_tiff

from survq.slides.reader import BATCH, read_slide
from survq.slides.slide import Scan


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A slide with more patches than fit into one message."""
    return write_tiff(tmp_path_factory.mktemp("slide") / "a.tiff", [stained(4480, 4480)], 0.5)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "survq.slides.reader" in child.cmdline()]


def test_all_patches_arrive_in_the_order_of_their_coordinates(slide):
    (found, payload), *rest = read_slide(str(slide), None, 30)
    count = found["patches"]
    assert found["kind"] == "found"
    assert count > BATCH
    coordinates = np.frombuffer(payload[: 8 * count], np.int32).reshape(-1, 2)
    assert payload[8 * count :].startswith(b"\xff\xd8")  # a JPEG
    assert [(message["kind"], message["start"]) for message, _ in rest] == [
        ("patches", start) for start in range(0, count, BATCH)
    ]
    patches = np.frombuffer(b"".join(pixels for _, pixels in rest), np.uint8).reshape(-1, 224, 224, 3)
    assert len(patches) == count == sum(message["patches"] for message, _ in rest)
    scan = Scan(slide)
    for number in (0, BATCH - 1, BATCH, count - 1):
        assert (patches[number] == scan.patch(*coordinates[number].tolist())).all()


def test_closing_the_iterator_ends_the_process(slide):
    messages = read_slide(str(slide), None, 30)
    next(messages)
    assert len(children()) == 1
    messages.close()
    assert not children()


def test_problems_are_sent_as_messages(tmp_path):
    file = write_tiff(tmp_path / "a.tiff", [flat(600, 600, (240, 240, 240))], 0.5)
    ((message, picture),) = read_slide(str(file), None, 30)
    assert message["kind"] == "failed"
    assert message["problem"].startswith("no tissue found. Fix: check its overview")
    assert picture.startswith(b"\xff\xd8")
    ((message, picture),) = read_slide(str(tmp_path / "absent.svs"), None, 30)
    assert "cannot be opened" in message["problem"]
    assert picture == b""


def hanging(folder):
    """A slide of two files. Reading the second blocks forever: it is a pipe without a writer."""
    (folder / "TCGA-AA-0009-01Z-00-DX1").mkdir(parents=True)
    os.mkfifo(folder / "TCGA-AA-0009-01Z-00-DX1" / "Slidedat.ini")
    file = folder / "TCGA-AA-0009-01Z-00-DX1.mrxs"
    file.write_bytes(b"\xff\xd8\xff\xd9")
    return file


def test_a_hanging_slide_fails_after_the_timeout_and_its_process_is_killed(tmp_path):
    start = time.monotonic()
    ((message, _),) = read_slide(str(hanging(tmp_path)), None, timeout=2)
    assert message["problem"].startswith("no data for 2 seconds. Fix: ")
    assert 2 <= time.monotonic() - start < 20
    assert not children()


def test_a_slow_consumer_does_not_trigger_the_timeout(slide):
    messages = read_slide(str(slide), None, timeout=8)
    kinds = []
    for message, _ in messages:
        kinds.append(message["kind"])
        time.sleep(9 if len(kinds) == 1 else 0)
    assert "failed" not in kinds
    assert kinds.count("patches") >= 2


def test_a_dead_reader_process_is_reported_with_its_exit_code(slide):
    messages = read_slide(str(slide), None, 30)
    next(messages)
    children()[0].send_signal(signal.SIGSEGV)  # as a damaged slide may cause
    *_, (message, _) = messages
    assert "its reader process died (exit code -11). Fix: " in message["problem"]


def test_a_hanging_reader_process_ends_with_its_parent(tmp_path):
    code = "import sys; from survq.slides.reader import read_slide; list(read_slide(sys.argv[1], None, 600))"
    parent = subprocess.Popen([sys.executable, "-c", code, str(hanging(tmp_path))])
    until = time.monotonic() + 30
    while not (found := psutil.Process(parent.pid).children()) and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1)
    assert found[0].is_running()
    parent.kill()
    parent.wait()
    found[0].wait(timeout=20)


def test_output_of_libraries_does_not_corrupt_the_messages(slide):
    code = (
        "import sys, os, survq.slides.reader as r, survq.slides.tissue as t; original = t.tissue_mask\n"
        "def noisy_mask(view): print('hello'); os.write(1, b'{\"kind\"'); return original(view)\n"
        "t.tissue_mask = noisy_mask\n"
        "answers = os.fdopen(os.dup(1), 'wb'); os.dup2(2, 1)\n"
        "r.main({'file': sys.argv[1], 'mpp': None}, answers); answers.close()"
    )
    output = subprocess.run([sys.executable, "-c", code, str(slide)], capture_output=True).stdout
    assert output.splitlines()[1].startswith(b'{"kind": "found"')
