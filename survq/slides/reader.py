"""Read a slide in a separate process, which can be killed: some files hang or crash the libraries that read them.

The process sends messages. Each is a line of JSON, followed by a payload of the stated number of bytes.

    started
    found     the number of patches and their size; payload: the coordinates and the overview
    patches   up to 64 patches in the order of the coordinates; payload: (patch, 224, 224, 3), uint8
    failed    the problem; payload: the overview, if one was made
    end
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import numpy as np

from survq.data.problems import DataError

START_TIMEOUT = 120.0  # seconds for the process to start, even on a busy machine
BATCH = 64  # patches per message, and per step of the encoder, so that features do not depend on other slides


def read_slide(file: str, mpp: float | None, timeout: float) -> Iterator[tuple[dict, bytes]]:
    """Yield the messages of a slide, without `started` and `end`.

    If the process dies or sends nothing for `timeout` seconds, it is killed and the last message is `failed`.
    """
    # -P: import nothing from the current folder
    command = [sys.executable, "-P", "-m", "survq.slides.reader", json.dumps({"file": file, "mpp": mpp})]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdout is not None
    channel = process.stdout.fileno()
    try:
        _read_line(channel, max(timeout, START_TIMEOUT))
        while True:
            message = json.loads(_read_line(channel, timeout))
            if message["kind"] == "end":
                return
            yield message, _read_bytes(channel, message["bytes"], timeout)
            if message["kind"] == "failed":
                return
    except TimeoutError:
        problem = f"no data for {timeout:g} seconds. Fix: copy the slide to a faster disk, or raise --timeout."
        yield {"kind": "failed", "problem": problem}, b""
    except EOFError:
        process.kill()
        problem = (
            f"its reader process died (exit code {process.wait()}). Fix: download the slide again; it may be damaged."
        )
        yield {"kind": "failed", "problem": problem}, b""
    finally:
        process.kill()
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()
        # a process blocked by a broken disk may survive even the kill: do not wait for it
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


def _read_line(channel: int, timeout: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _read_bytes(channel, 1, timeout)
    return line


def _read_bytes(channel: int, size: int, timeout: float) -> bytes:
    content = bytearray()
    while len(content) < size:
        ready, _, _ = select.select([channel], [], [], timeout)
        if not ready:
            raise TimeoutError
        part = os.read(channel, min(size - len(content), 1 << 20))
        if not part:
            raise EOFError
        content += part
    return bytes(content)


def main(request: dict, answers: BinaryIO) -> None:
    """The reader process: send the messages of one slide to `answers`."""

    def send(kind: str, payload: bytes = b"", **facts: object) -> None:
        answers.write(json.dumps({"kind": kind, "bytes": len(payload), **facts}).encode() + b"\n")
        answers.write(payload)
        answers.flush()

    from survq.slides.overview import overview
    from survq.slides.slide import Scan
    from survq.slides.tissue import MPP, mask_view, patch_grid, tissue_mask

    send("started")
    picture = b""
    try:
        slide = Scan(request["file"], request["mpp"])
        # no coarser than the mask, and fine enough for a useful overview of a small slide
        view = slide.view(max(slide.mpp, min(MPP, max(slide.width, slide.height) * slide.mpp / 1600)))
        picture = overview(slide, view)
        mask = tissue_mask(mask_view(slide, view))
        coordinates = patch_grid(slide, mask)
        picture = overview(slide, view, mask, coordinates)
        if not len(coordinates):
            raise DataError(["no tissue found. Fix: check its overview; if it shows tissue, please report it."])
        del view, mask
        facts = {
            "mpp": slide.mpp,
            "mpp_stated": slide.mpp_stated,
            "magnification": slide.magnification,
            "patch_size": slide.patch_size,
            "patches": len(coordinates),
        }
        send("found", coordinates.tobytes() + picture, **facts)
        for start in range(0, len(coordinates), BATCH):
            patches = [slide.patch(x, y) for x, y in coordinates[start : start + BATCH].tolist()]
            send("patches", np.stack(patches).tobytes(), start=start, patches=len(patches))
        send("end")
    except DataError as error:
        send("failed", picture, problem=" ".join(error.problems))
    except Exception as error:  # a damaged slide can raise anything
        send("failed", picture, problem=f"{type(error).__name__}: {error}. Fix: please report it.")


def _exit_with_parent() -> None:
    """Exit when stdin closes: the parent process has ended, for whatever reason."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # libraries that print must not corrupt the messages
        main(json.loads(sys.argv[1]), answers)
