"""Download a file: resumed after interruptions, verified, and visible only when complete.

FILE             appears when it is complete
FILE.json        its URL, ETag, size and sha256; a file that matches them is not downloaded again
FILE.part        the bytes received so far; FILE.part.json describes the file they belong to
FILE.lock        the process that is downloading it
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from survq.data.location import replace_file
from survq.data.lock import locked
from survq.data.problems import DataError
from survq.exits import UsageError
from survq.importing.decompress import GZIP, OnBytes, decompress, sha256

CHUNK = 1 << 20
ATTEMPTS = 5  # in a row without progress
TIMEOUT = 60  # seconds without a byte
RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504}  # temporary HTTP errors


def download(url: str, file: Path, *, progress: OnBytes | None = None, pause: float = 1.0) -> bool:
    """Download `url` to `file`. Returns False if the file exists already, complete and unchanged.

    Resumes an interrupted download if the file on the server is still the same. Retries after `pause` seconds, doubled
    each time. Raises FileNotFoundError if the server has no such file, ConnectionError if it cannot be downloaded,
    DataError if it is damaged, UsageError for an unsafe URL, and InUse if another process is downloading it.
    """
    _refuse_unsafe(url)
    if _is_complete(file, url):
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(_beside(file, ".lock"), file, "wait for it to end"):
        if _is_complete(file, url):  # another process has downloaded it meanwhile
            return False
        _download(url, file, progress, pause)
    return True


def _download(url: str, file: Path, progress: OnBytes | None, pause: float) -> None:
    part, about = _beside(file, ".part"), _beside(file, ".part.json")
    with part.open("ab") as stream:
        failures, last_error = 0, ""
        while failures < ATTEMPTS:
            if failures:
                time.sleep(pause * 2 ** (failures - 1))
            before = stream.tell()
            try:
                if _receive(url, stream, about, lambda total: progress and progress(file.name, stream.tell(), total)):
                    break
                last_error = "the connection ended early"
            except urllib.error.HTTPError as error:
                if error.code in (403, 404, 410):  # buckets answer 403 for missing files if listing is not allowed
                    raise FileNotFoundError(
                        f"{url}: the server has no such file ({error.code}). Fix: check the name of the cohort, or "
                        f"whether the hub has moved the file (https://xenabrowser.net/datapages)."
                    ) from error
                if error.code not in RETRY_STATUSES:
                    raise ConnectionError(f"{url}: the server answers {error.code} {error.reason}.") from error
                last_error = f"the server answers {error.code}"
            except (OSError, http.client.HTTPException) as error:
                last_error = str(getattr(error, "reason", error)) or type(error).__name__
            failures = 0 if stream.tell() > before else failures + 1
        else:
            raise ConnectionError(
                f"{url}: cannot be downloaded ({last_error}; {ATTEMPTS} attempts, {stream.tell():,} bytes so far). "
                f"Fix: run the same command again to resume, or download it with a browser and use `survq import`."
            )
        stream.flush()
        os.fsync(stream.fileno())
        try:
            _verify_compression(part, file.name)
        except DataError as error:
            part.unlink()
            raise DataError([f"{url}: the download is damaged, {error.problems[0].partition(': ')[2]}"]) from error
        facts = {**_facts(about), "bytes": stream.tell(), "sha256": sha256(part)}
        os.replace(part, file)
    replace_file(_beside(file, ".json"), json.dumps(facts, indent=1).encode())
    about.unlink(missing_ok=True)


def _receive(url: str, stream, about: Path, progress: Callable[[int | None], object]) -> bool:
    """Append what the server sends to the stream. Returns whether the file is then complete."""
    known = _facts(about)
    validator = known.get("etag") or known.get("last_modified")
    headers = {"User-Agent": "survq", "Accept-Encoding": "identity"}
    if stream.tell() and known.get("url") == url and validator:
        headers |= {"Range": f"bytes={stream.tell()}-", "If-Range": validator}
    else:
        stream.truncate(0)
        stream.seek(0)
    try:
        answer = _opener(url).open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        stream.truncate(0)  # more bytes than the server has: start again
        stream.seek(0)
        return False
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise http.client.HTTPException("the server sent a web page, perhaps the login page of this network")
        start, total = _span(answer)
        if start != stream.tell():  # the server ignored the requested range
            if start != 0:
                raise http.client.HTTPException(f"the server sent bytes from {start}, not from {stream.tell()}")
            stream.truncate(0)
            stream.seek(0)
        etag = answer.headers.get("ETag", "")
        facts = {
            "url": url,
            "etag": "" if etag.startswith("W/") else etag,
            "last_modified": answer.headers.get("Last-Modified", ""),
        }
        replace_file(about, json.dumps(facts).encode())
        while chunk := answer.read(CHUNK):
            stream.write(chunk)
            progress(total)
    return total is None or stream.tell() == total


def _span(answer) -> tuple[int, int | None]:
    """The position of the first byte of an answer, and the size of the file, if stated."""
    length = answer.headers.get("Content-Length")
    if answer.status != 206:
        return 0, int(length) if length and length.isdigit() else None
    unit, _, span = answer.headers.get("Content-Range", "").partition(" ")
    first, _, total = span.replace("/", "-").partition("-")
    if unit != "bytes" or not first.isdigit():
        raise http.client.HTTPException("the server sent a part without stating its range")
    total = total.partition("-")[2]
    return int(first), int(total) if total.isdigit() else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, stream, code, message, headers, url):
        _refuse_unsafe(url)
        return super().redirect_request(request, stream, code, message, headers, url)


def _opener(url: str) -> urllib.request.OpenerDirector:
    proxies = [urllib.request.ProxyHandler({})] if _is_loopback(url) else []
    return urllib.request.build_opener(_Redirects, *proxies)


def _refuse_unsafe(url: str) -> None:
    try:
        scheme = urlsplit(url).scheme
    except ValueError:  # not a URL
        scheme = ""
    if scheme != "https" and not (scheme == "http" and _is_loopback(url)):
        raise UsageError(f"{url[:200]}: not downloaded, because it is not an https URL. Fix: use an https URL.")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_complete(file: Path, url: str) -> bool:
    facts = _facts(_beside(file, ".json"))
    return file.is_file() and facts.get("url") == url and facts.get("sha256") == sha256(file)


def _verify_compression(part: Path, name: str) -> None:
    """Raises DataError if a compressed file is truncated or damaged, as some servers state a wrong length."""
    with decompress(part) as stream:
        while stream.read(CHUNK):
            pass
    if name.endswith(".gz"):
        with part.open("rb") as raw:
            if not raw.read(2) == GZIP:
                raise DataError([f"{part}: it is not compressed, as its name implies"])


def _facts(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)
