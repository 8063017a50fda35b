"""One file from the web, whole or not at all: resumed where it was cut, checked, and written down beside it.

FILE             appears when all of it is there
FILE.json        where it came from, its ETag, size and sha256; with it a file that is there is not fetched again
FILE.part        what has come so far, and FILE.part.json what it is a part of
FILE.lock        while it comes: who fetches it
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
ATTEMPTS = 5  # in a row without a byte of progress
SILENCE = 60  # seconds without a byte, after which the connection counts as lost
RETRY_HINT = {408, 425, 429, 500, 502, 503, 504}  # statuses that pass


def download(url: str, file: Path, *, progress: OnBytes | None = None, pause: float = 1.0) -> bool:
    """Fetch `url` into `file`; returns False where it was there already, whole and as it came.

    Goes on where an earlier download was cut, if it is still the same file there. Tries again after `pause` seconds,
    then twice that, and so on. Raises FileNotFoundError where the server has no such file, ConnectionError with the
    mend where it cannot be had, DataError where what came is damaged, UsageError for an address that is not safe; and
    InUse where another process fetches it.
    """
    _refuse_unsafe(url)
    if _is_whole(file, url):
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(_beside(file, ".lock"), file, "wait for it to end"):
        if _is_whole(file, url):  # another process has brought it meanwhile
            return False
        _fetch(url, file, progress, pause)
    return True


def _fetch(url: str, file: Path, progress: OnBytes | None, pause: float) -> None:
    part, about = _beside(file, ".part"), _beside(file, ".part.json")
    with part.open("ab") as stream:
        failures, error_before = 0, ""
        while failures < ATTEMPTS:
            if failures:
                time.sleep(pause * 2 ** (failures - 1))
            before = stream.tell()
            try:
                if _receive(url, stream, about, lambda total: progress and progress(file.name, stream.tell(), total)):
                    break
                error_before = "the connection ended early"
            except urllib.error.HTTPError as error:
                if error.code in (403, 404, 410):  # a bucket that may not be listed says 403 for what is not there
                    raise FileNotFoundError(
                        f"{url}: the server has no such file ({error.code}). Fix: check the cohort's name, or where "
                        f"the hub keeps it now (https://xenabrowser.net/datapages)."
                    ) from error
                if error.code not in RETRY_HINT:
                    raise ConnectionError(f"{url}: the server answers {error.code} {error.reason}.") from error
                error_before = f"the server answers {error.code}"
            except (OSError, http.client.HTTPException) as error:
                error_before = str(getattr(error, "reason", error)) or type(error).__name__
            failures = 0 if stream.tell() > before else failures + 1
        else:
            raise ConnectionError(
                f"{url}: cannot be had ({error_before}; {ATTEMPTS} attempts, {stream.tell():,} bytes so far). Fix: "
                f"check the network and run the same command again, it goes on where it stopped; or download it with "
                f"a browser and use `survq import`."
            )
        stream.flush()
        os.fsync(stream.fileno())
        try:
            _read_through(part, file.name)
        except DataError as error:
            part.unlink()
            raise DataError([f"{url}: what came is damaged, {error.problems[0].partition(': ')[2]}"]) from error
        facts = {**_facts(about), "bytes": stream.tell(), "sha256": sha256(part)}
        os.replace(part, file)
    replace_file(_beside(file, ".json"), json.dumps(facts, indent=1).encode())
    about.unlink(missing_ok=True)


def _receive(url: str, stream, about: Path, progress: Callable[[int | None], object]) -> bool:
    """Take what the server gives, after what is there; returns whether that is all of it."""
    known = _facts(about)
    validator = known.get("etag") or known.get("last_modified")
    headers = {"User-Agent": "survq", "Accept-Encoding": "identity"}
    if stream.tell() and known.get("url") == url and validator:
        headers |= {"Range": f"bytes={stream.tell()}-", "If-Range": validator}
    else:
        stream.truncate(0)
        stream.seek(0)
    try:
        answer = _opener(url).open(urllib.request.Request(url, headers=headers), timeout=SILENCE)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        stream.truncate(0)  # more is here than there: begin again
        stream.seek(0)
        return False
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise http.client.HTTPException("the server sends a web page instead, maybe the login of this network")
        start, total = _span(answer)
        if start != stream.tell():  # all of it comes, whether asked for or not
            if start != 0:
                raise http.client.HTTPException(f"the server sends from byte {start} on, not from {stream.tell()}")
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
    """The first byte that comes, and how many there are in all, where the server says."""
    length = answer.headers.get("Content-Length")
    if answer.status != 206:
        return 0, int(length) if length and length.isdigit() else None
    unit, _, span = answer.headers.get("Content-Range", "").partition(" ")
    first, _, total = span.replace("/", "-").partition("-")
    if unit != "bytes" or not first.isdigit():
        raise http.client.HTTPException("the server sends a part and does not say which")
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
    except ValueError:  # it is no address at all
        scheme = ""
    if scheme != "https" and not (scheme == "http" and _is_loopback(url)):
        raise UsageError(f"{url[:200]}: not fetched, for it is no https address. Fix: give one that is.")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_whole(file: Path, url: str) -> bool:
    facts = _facts(_beside(file, ".json"))
    return file.is_file() and facts.get("url") == url and facts.get("sha256") == sha256(file)


def _read_through(part: Path, name: str) -> None:
    """Raises DataError where a packed file is cut short or damaged: some servers say a wrong length."""
    with decompress(part) as stream:
        while stream.read(CHUNK):
            pass
    if name.endswith(".gz"):
        with part.open("rb") as raw:
            if not raw.read(2) == GZIP:
                raise DataError([f"{part}: it is not packed, as its name says"])


def _facts(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)
