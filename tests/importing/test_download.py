"""A download is complete or absent, whatever the server does, and it is resumed."""

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


def check_complete(tmp_path, name="a", content=CONTENT):
    raw = tmp_path / "raw"
    assert (raw / name).read_bytes() == content
    facts = json.loads((raw / f"{name}.json").read_text())
    assert (facts["bytes"], facts["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert sorted(os.listdir(raw)) == [name, f"{name}.json"]
    return facts


def test_a_file_is_downloaded_once(web, fetch, tmp_path):
    seen = []
    assert fetch(progress=lambda *progress: seen.append(progress))
    facts = check_complete(tmp_path)
    assert facts["etag"] == f'"{hashlib.md5(CONTENT).hexdigest()}"'
    assert facts["url"] == f"{web.url}/hub/a"
    assert seen[-1] == ("a", len(CONTENT), len(CONTENT))
    assert not fetch()
    assert len(web.requests) == 1


def test_a_changed_file_is_downloaded_again(web, fetch, tmp_path):
    fetch()
    (tmp_path / "raw" / "a").write_bytes(CONTENT[:-1])
    assert fetch()
    check_complete(tmp_path)


@pytest.mark.parametrize(
    "faults",
    [
        ["cut"],
        ["cut", "cut", "cut", "cut", "cut", "cut", "cut"],  # more than the number of attempts, but each makes progress
        ["cut", "dead", 503, "cut", 429],
        [500, 502, 504],
        ["cut", "no ranges"],
        ["cut", "wrong range"],
        ["cut", "wrong range", "cut", "no ranges", "cut"],
        ["too large length"],
        ["cut", "too large length"],
    ],
    ids=str,
)
def test_every_download_ends_complete(web, fetch, tmp_path, faults):
    web.faults = list(faults)
    assert fetch()
    check_complete(tmp_path)


def test_an_interrupted_download_is_resumed(web, fetch, tmp_path):
    web.faults = ["cut"]
    fetch()
    assert web.requests == [("/hub/a", None), ("/hub/a", f"bytes={len(CONTENT) // 2}-")]


def test_another_run_resumes_it(web, fetch, tmp_path):
    web.faults = ["cut", *["dead"] * ATTEMPTS]
    with pytest.raises(ConnectionError, match=r"the connection ended early; 5 attempts, 512,000 bytes so far\)"):
        fetch()
    assert sorted(os.listdir(tmp_path / "raw")) == ["a.part", "a.part.json"]
    web.requests.clear()
    assert fetch()
    assert web.requests == [("/hub/a", f"bytes={len(CONTENT) // 2}-")]
    check_complete(tmp_path)


def test_parts_of_different_versions_are_not_combined(web, fetch, tmp_path):
    web.faults = ["cut", *["dead"] * ATTEMPTS]
    with pytest.raises(ConnectionError):
        fetch()
    web.files["/hub/a"] = other = CONTENT[::-1]
    assert fetch()
    check_complete(tmp_path, content=other)


def test_without_an_etag_it_starts_again(web, fetch, tmp_path):
    web.sends_etag, web.faults = False, ["cut"]
    fetch()
    assert [wanted for _, wanted in web.requests] == [None, None]
    check_complete(tmp_path)


@pytest.mark.parametrize(
    ("fault", "message"),
    [("too small length", "cannot be decompressed"), ("damage", "it is not compressed, as its name implies")],
)
def test_a_truncated_or_damaged_compressed_file_is_refused_and_removed(web, fetch, tmp_path, fault, message):
    web.faults = [fault]
    with pytest.raises(DataError, match=f"a.gz: the download is damaged, {message}"):
        fetch("a.gz")
    assert not (tmp_path / "raw" / "a.gz").exists()
    assert fetch("a.gz")
    check_complete(tmp_path, "a.gz", web.files["/hub/a.gz"])


def test_the_login_page_of_a_network_is_not_saved(web, fetch, tmp_path):
    web.faults = ["web page"] * ATTEMPTS
    with pytest.raises(ConnectionError, match="the server sent a web page"):
        fetch()
    assert fetch()
    check_complete(tmp_path)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_file_missing_on_the_server(web, fetch, code):
    web.faults = [code]
    with pytest.raises(
        FileNotFoundError, match=rf"the server has no such file \({code}\). Fix: check the name of the cohort"
    ):
        fetch()
    assert len(web.requests) == 1


def test_a_refusal_is_not_retried(web, fetch):
    web.faults = [401]
    with pytest.raises(ConnectionError, match="the server answers 401"):
        fetch()
    assert len(web.requests) == 1


def test_without_a_network_the_message_says_so(tmp_path):
    with Web({}) as web:
        url = web.url
    begin = time.monotonic()
    with pytest.raises(ConnectionError, match=r"cannot be downloaded \(.*refused.*Fix: run the same"):
        download(f"{url}/a", tmp_path / "a", pause=0.001)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "url",
    ["http://example.org/a", "ftp://127.0.0.1/a", "file:///etc/passwd", "http://127.0.0.1.evil.example/a", "a", ""],
)
def test_unsafe_urls_are_refused(tmp_path, url):
    with pytest.raises(ValueError, match="it is not an https URL"):
        download(url, tmp_path / "a")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("target", ["http://example.org/a", "file:///etc/passwd"])
def test_redirects_to_unsafe_urls_are_refused(web, fetch, tmp_path, target):
    web.faults = [f"go to {target}"]
    with pytest.raises((ValueError, ConnectionError)):
        fetch()
    assert not (tmp_path / "raw" / "a").exists()


def test_safe_redirects_are_followed(web, fetch, tmp_path):
    web.files["/hub/b"] = CONTENT
    web.faults = ["go to /hub/b"]
    assert fetch()
    check_complete(tmp_path)


def test_concurrent_downloads_of_one_file_are_refused(fetch, tmp_path):
    (tmp_path / "raw").mkdir()
    message = rf"raw/a is in use by process {os.getpid()} on .* Fix: wait for it to end"
    with locked(tmp_path / "raw" / "a.lock", "it", "wait"), pytest.raises(InUse, match=message):
        fetch()
    assert fetch()
    check_complete(tmp_path)


def test_a_file_completed_by_another_process_before_the_lock_is_kept(web, fetch, tmp_path, monkeypatch):
    take = fcntl.flock

    def take_after_another(*arguments):
        monkeypatch.setattr(fcntl, "flock", take)
        assert fetch()
        web.faults = ["dead"] * ATTEMPTS
        take(*arguments)

    monkeypatch.setattr(fcntl, "flock", take_after_another)
    assert not fetch()
    check_complete(tmp_path)
    assert len(web.requests) == 1


SLOW = """
import sys, time
from pathlib import Path
from survq.importing.download import download
download(sys.argv[1], Path(sys.argv[2]), progress=lambda *_: (print("received", flush=True), time.sleep(60)))
"""


def test_a_killed_download_is_completed_by_the_next_run(web, fetch, tmp_path):
    web.files["/hub/a"] = large = CONTENT * 4
    file = tmp_path / "raw" / "a"
    process = subprocess.Popen([sys.executable, "-c", SLOW, f"{web.url}/hub/a", str(file)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"received\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not file.exists()
    assert fetch()
    check_complete(tmp_path, content=large)
