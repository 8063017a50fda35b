"""A bucket: the part of S3's protocol that reading needs, for the one key that is allowed.

    python s3_server.py FOLDER ADDRESS PORT LOG [FAULT]

It serves s3://bucket/... at PORT, 0 for a free one, which it prints; and writes a line a request: method, path, bytes.
Whoever does not name the key `reader` is refused. Signatures are not checked. FAULT: `busy` answers every third request
with 503, `down` all of them, and `stalled` none; after SIGUSR1, none is answered either. Those are logged as SILENT.
"""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

FOLDER, ADDRESS, PORT, LOG = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
FAULT, NUMBERS = sys.argv[5] if len(sys.argv) > 5 else "", itertools.count(1)
BUSY = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
SILENT = threading.Event()
MISSING = "<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"


class Bucket(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on the console."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if SILENT.is_set():
            self.log("SILENT")
            threading.Event().wait()
        if FAULT == "down" or (FAULT == "busy" and next(NUMBERS) % 3 == 0):
            self.answer(503, BUSY.encode())
            return
        address = urlsplit(self.path)
        _, bucket, key = (unquote(address.path) + "/").split("/", 2)
        file = FOLDER / key.strip("/")
        if "Credential=reader/" not in self.headers.get("Authorization", ""):
            self.answer(403, DENIED.encode())
        elif bucket == "bucket" and not key:
            self.answer(200, self.listing({name: values[0] for name, values in parse_qs(address.query).items()}))
        elif bucket != "bucket" or not file.is_file():
            self.answer(404, MISSING.encode())
        else:
            content, asked = file.read_bytes(), self.headers.get("Range")
            if asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                first, last = int(first), min(int(last or len(content)), len(content) - 1)
                self.answer(206, content[first : last + 1], f"bytes {first}-{last}/{len(content)}")
            else:
                self.answer(200, content)

    def listing(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        files = sorted(str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*") if file.is_file())
        found, folders = [], set()
        for name in (name for name in files if name.startswith(prefix)):
            inner, deeper, _ = name[len(prefix) :].partition(delimiter or "\0")
            if deeper:
                folders.add(prefix + inner + delimiter)
            else:
                found.append(
                    f"<Contents><Key>{escape(name)}</Key><Size>{(FOLDER / name).stat().st_size}</Size>"
                    f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
                )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)
        )
        count = f"<KeyCount>{len(found) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult><Name>bucket</Name>{count}{''.join(found)}{common}</ListBucketResult>".encode()

    def log(self, what: str, size: int = 0) -> None:
        with LOG.open("a") as log:
            log.write(f"{what} {self.path} {size}\n")

    def answer(self, code: int, content: bytes, content_range: str | None = None) -> None:
        self.log(self.command, len(content) if self.command == "GET" else 0)
        self.send_response_only(code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("ETag", '"x"')
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


if FAULT == "stalled":
    SILENT.set()
signal.signal(signal.SIGUSR1, lambda *_: SILENT.set())
server = ThreadingHTTPServer((ADDRESS, PORT), Bucket)
print(server.server_port, flush=True)
server.serve_forever()
