"""A download ends whole or not at all, whatever the server does; and goes on where it was cut."""

import fcntl
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from web import Web

from survq.data.lock import InUse, locked
from survq.data.problems import DataError
from survq.importing.download import ATTEMPTS, download

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def web():
    with Web({"/hub/a": CONTENT, "/hub/a.gz": gzip.compress(CONTENT)}) as web:
        yield web


@pytest.fixture
def fetch(web, tmp_path):
    def fetch(name="a", **options) -> bool:
        return download(f"{web.url}/hub/{name}", tmp_path / "raw" / name, pause=0.001, **options)

    return fetch


def check_whole(tmp_path, name="a", content=CONTENT):
    raw = tmp_path / "raw"
    assert (raw / name).read_bytes() == content
    facts = json.loads((raw / f"{name}.json").read_text())
    assert (facts["bytes"], facts["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert sorted(os.listdir(raw)) == [name, f"{name}.json"]
    return facts


def test_a_file_comes_once(web, fetch, tmp_path):
    seen = []
    assert fetch(progress=lambda *progress: seen.append(progress))
    facts = check_whole(tmp_path)
    assert facts["etag"] == f'"{hashlib.md5(CONTENT).hexdigest()}"'
    assert facts["url"] == f"{web.url}/hub/a"
    assert seen[-1] == ("a", len(CONTENT), len(CONTENT))
    assert not fetch()
    assert len(web.asked) == 1


def test_a_file_that_was_changed_since_is_fetched_again(web, fetch, tmp_path):
    fetch()
    (tmp_path / "raw" / "a").write_bytes(CONTENT[:-1])
    assert fetch()
    check_whole(tmp_path)


@pytest.mark.parametrize(
    "faults",
    [
        ["cut"],
        ["cut", "cut", "cut", "cut", "cut", "cut", "cut"],  # more often than attempts, yet each brings something
        ["cut", "dead", 503, "cut", 429],
        [500, 502, 504],
        ["cut", "no ranges"],
        ["cut", "wrong range"],
        ["cut", "wrong range", "cut", "no ranges", "cut"],
        ["says more"],
        ["cut", "says more"],
    ],
    ids=str,
)
def test_it_ends_whole(web, fetch, tmp_path, faults):
    web.faults = list(faults)
    assert fetch()
    check_whole(tmp_path)


def test_it_goes_on_where_it_was_cut(web, fetch, tmp_path):
    web.faults = ["cut"]
    fetch()
    assert web.asked == [("/hub/a", None), ("/hub/a", f"bytes={len(CONTENT) // 2}-")]


def test_another_run_goes_on_too(web, fetch, tmp_path):
    web.faults = ["cut", *["dead"] * ATTEMPTS]
    with pytest.raises(ConnectionError, match=r"the connection ended early; 5 attempts, 512,000 bytes so far\)"):
        fetch()
    assert sorted(os.listdir(tmp_path / "raw")) == ["a.part", "a.part.json"]
    web.asked.clear()
    assert fetch()
    assert web.asked == [("/hub/a", f"bytes={len(CONTENT) // 2}-")]
    check_whole(tmp_path)


def test_a_file_that_changed_on_the_server_is_not_glued_together(web, fetch, tmp_path):
    web.faults = ["cut", *["dead"] * ATTEMPTS]
    with pytest.raises(ConnectionError):
        fetch()
    web.files["/hub/a"] = other = CONTENT[::-1]
    assert fetch()
    check_whole(tmp_path, content=other)


def test_without_an_etag_it_begins_again(web, fetch, tmp_path):
    web.says_etag, web.faults = False, ["cut"]
    fetch()
    assert [asked for _, asked in web.asked] == [None, None]
    check_whole(tmp_path)


@pytest.mark.parametrize(
    ("fault", "message"), [("says less", "cannot be unpacked"), ("damage", "it is not packed, as its name says")]
)
def test_a_packed_file_that_is_short_or_damaged_is_told_and_not_kept(web, fetch, tmp_path, fault, message):
    web.faults = [fault]
    with pytest.raises(DataError, match=f"a.gz: what came is damaged, {message}"):
        fetch("a.gz")
    assert not (tmp_path / "raw" / "a.gz").exists()
    assert fetch("a.gz")
    check_whole(tmp_path, "a.gz", web.files["/hub/a.gz"])


def test_the_login_page_of_a_network_is_no_table(web, fetch, tmp_path):
    web.faults = ["web page"] * ATTEMPTS
    with pytest.raises(ConnectionError, match="the server sends a web page instead"):
        fetch()
    assert fetch()
    check_whole(tmp_path)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_what_is_not_there_is_a_missing_file(web, fetch, code):
    web.faults = [code]
    with pytest.raises(
        FileNotFoundError, match=rf"the server has no such file \({code}\). Fix: check the cohort's name"
    ):
        fetch()
    assert len(web.asked) == 1


def test_a_refusal_is_not_tried_again(web, fetch):
    web.faults = [401]
    with pytest.raises(ConnectionError, match="the server answers 401"):
        fetch()
    assert len(web.asked) == 1


def test_without_network_it_says_so(tmp_path):
    with Web({}) as web:
        url = web.url
    begin = time.monotonic()
    with pytest.raises(ConnectionError, match=r"cannot be had \(.*refused.*Fix: check the network and run the same"):
        download(f"{url}/a", tmp_path / "a", pause=0.001)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "url",
    ["http://example.org/a", "ftp://127.0.0.1/a", "file:///etc/passwd", "http://127.0.0.1.evil.example/a", "a", ""],
)
def test_addresses_that_are_not_safe_are_not_asked(tmp_path, url):
    with pytest.raises(ValueError, match="it is no https address"):
        download(url, tmp_path / "a")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("target", ["http://example.org/a", "file:///etc/passwd"])
def test_nor_are_they_followed(web, fetch, tmp_path, target):
    web.faults = [f"go to {target}"]
    with pytest.raises((ValueError, ConnectionError)):
        fetch()
    assert not (tmp_path / "raw" / "a").exists()


def test_a_move_within_reach_is_followed(web, fetch, tmp_path):
    web.files["/hub/b"] = CONTENT
    web.faults = ["go to /hub/b"]
    assert fetch()
    check_whole(tmp_path)


def test_two_at_once_do_not_spoil_each_other(fetch, tmp_path):
    (tmp_path / "raw").mkdir()
    message = rf"raw/a is in use by process {os.getpid()} on .* Fix: wait for it to end"
    with locked(tmp_path / "raw" / "a.lock", "it", "wait"), pytest.raises(InUse, match=message):
        fetch()
    assert fetch()
    check_whole(tmp_path)


def test_what_another_brings_just_before_the_lock_is_taken_is_kept(web, fetch, tmp_path, monkeypatch):
    take = fcntl.flock

    def take_after_another(*arguments):
        monkeypatch.setattr(fcntl, "flock", take)
        assert fetch()
        web.faults = ["dead"] * ATTEMPTS
        take(*arguments)

    monkeypatch.setattr(fcntl, "flock", take_after_another)
    assert not fetch()
    check_whole(tmp_path)
    assert len(web.asked) == 1


SLOW = """
import sys, time
from pathlib import Path
from survq.importing.download import download
download(sys.argv[1], Path(sys.argv[2]), progress=lambda *_: (print("came", flush=True), time.sleep(60)))
"""


def test_killed_and_run_again_it_is_whole(web, fetch, tmp_path):
    web.files["/hub/a"] = large = CONTENT * 4
    file = tmp_path / "raw" / "a"
    process = subprocess.Popen([sys.executable, "-c", SLOW, f"{web.url}/hub/a", str(file)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"came\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not file.exists()
    assert fetch()
    check_whole(tmp_path, content=large)
