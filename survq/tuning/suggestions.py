"""What Optuna suggested for the trials of a study, kept on disk: a search that starts again asks only for new ones.

TPE looks at all earlier trials for each suggestion: of a finished search, it would take longer than all else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = ".suggestions.jsonl"


class Suggestions:
    """Parameters by everything that they depend on: Optuna suggests the same again for the same.

    A line of the file is a JSON list and its checksum; another line, such as a torn one, is not used.
    """

    def __init__(self, file: Path | None = None):
        """Without a file, they are not kept."""
        self._file = file
        lines = file.read_bytes().splitlines() if file is not None and file.is_file() else []
        pairs = (line.partition(b" ")[::2] for line in lines)
        self._known = dict(json.loads(entry) for digest, entry in pairs if _digest(entry) == digest)

    def get(self, depends_on: str) -> Mapping[str, Any] | None:
        return self._known.get(_digest(depends_on.encode()).decode())

    def add(self, depends_on: str, parameters: Mapping[str, Any]) -> None:
        key = _digest(depends_on.encode()).decode()
        self._known[key] = parameters
        if self._file is not None:
            entry = json.dumps([key, parameters]).encode()
            with self._file.open("ab") as file:
                file.write(_digest(entry) + b" " + entry + b"\n")


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
