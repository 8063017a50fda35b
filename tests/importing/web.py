"""A server on loopback that fails as configured and records its requests."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Web:
    """Files by path. `faults` are used in order, one per request; afterwards the server works correctly."""

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self.faults: list[str | int] = []
        self.requests: list[tuple[str, str | None]] = []  # path, Range
        self.sends_etag = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Web:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(web):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                path = unquote(urlsplit(self.path).path)
                wanted = self.headers.get("Range")
                web.requests.append((path, wanted))
                fault = web.faults.pop(0) if web.faults else None
                if isinstance(fault, int):
                    return self.refuse(fault)
                if isinstance(fault, str) and fault.startswith("go to "):
                    self.send_response(302)
                    self.send_header("Location", fault.removeprefix("go to "))
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                content = web.files.get(path)
                if content is None:
                    return self.refuse(404)
                etag = f'"{hashlib.md5(content).hexdigest()}"'
                start = 0
                if wanted and fault != "no ranges" and self.headers.get("If-Range", etag) == etag:
                    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content) and start:
                    return self.refuse(416)
                body = content[start:]
                self.send_response(206 if start else 200)
                if start:
                    first = 0 if fault == "wrong range" else start
                    self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
                if fault == "web page":
                    self.send_header("Content-Type", "text/html; charset=utf-8")
                if web.sends_etag:
                    self.send_header("ETag", etag)
                wrong = {"too small length": len(body) - 7, "too large length": len(body) + 7}
                length = wrong.get(str(fault), len(body))
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.close_connection = True
                if fault == "cut":
                    body = body[: len(body) // 2]
                elif fault == "dead":
                    body = b""
                elif fault == "damage":
                    body = bytes(len(body))
                self.wfile.write(body[:length])

            def refuse(self, code):
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

        return Handler
