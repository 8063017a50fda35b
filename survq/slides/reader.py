"""A slide read in a process of its own, which can be stopped: some files hang or crash the libraries that read them.

The process answers with messages: a line of JSON, and as many bytes of payload as it says.

    started
    found     the number of patches and their size; the coordinates and the overview
    patches   up to 64 patches, in the order of the coordinates: (patch, 224, 224, 3), uint8
    failed    what is wrong, where something is; the overview, where it came that far
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

STARTING = 120.0  # seconds that a process may take to start on a busy machine, whatever it then reads
BATCH = 64  # patches of a message, and of one step of an encoder: features do not depend on what else is read


def read_slide(file: str, mpp: float | None, timeout: float) -> Iterator[tuple[dict, bytes]]:
    """The messages of a slide but for the end, each as soon as it is asked for.

    When the process dies, or sends nothing for `timeout` seconds, it is stopped, and the last message says so.
    """
    # -P: the folder one happens to stand in holds no modules
    command = [sys.executable, "-P", "-m", "survq.slides.reader", json.dumps({"file": file, "mpp": mpp})]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdout is not None
    channel = process.stdout.fileno()
    try:
        _line(channel, max(timeout, STARTING))
        while True:
            message = json.loads(_line(channel, timeout))
            if message["kind"] == "end":
                return
            yield message, _exactly(channel, message["bytes"], timeout)
            if message["kind"] == "failed":
                return
    except TimeoutError:
        problem = f"nothing could be read for {timeout:g} seconds. Fix: copy it to a faster disk, or raise --timeout."
        yield {"kind": "failed", "problem": problem}, b""
    except EOFError:
        process.kill()
        problem = f"the process that read it died (exit {process.wait()}). Fix: fetch it again; it may be damaged."
        yield {"kind": "failed", "problem": problem}, b""
    finally:
        process.kill()
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()
        # a process that a broken disk holds may outlive even that; it is not waited for
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


def _line(channel: int, timeout: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _exactly(channel, 1, timeout)
    return line


def _exactly(channel: int, size: int, timeout: float) -> bytes:
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
    """What the process does."""

    def send(kind: str, payload: bytes = b"", **facts: object) -> None:
        answers.write(json.dumps({"kind": kind, "bytes": len(payload), **facts}).encode() + b"\n")
        answers.write(payload)
        answers.flush()

    from survq.slides.overview import overview
    from survq.slides.slide import Scan
    from survq.slides.tissue import MPP, patch_grid, small, tissue_mask

    send("started")
    picture = b""
    try:
        slide = Scan(request["file"], request["mpp"])
        # no coarser than the mask, and fine enough that a small slide is worth a look
        view = slide.view(max(slide.mpp, min(MPP, max(slide.width, slide.height) * slide.mpp / 1600)))
        picture = overview(slide, view)
        mask = tissue_mask(small(slide, view))
        coordinates = patch_grid(slide, mask)
        picture = overview(slide, view, mask, coordinates)
        if not len(coordinates):
            raise DataError(["no tissue was found. Fix: look at its overview; if it holds some, please report it."])
        del view, mask
        facts = {
            "mpp": slide.mpp,
            "mpp_given": slide.mpp_given,
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
    except Exception as error:  # whatever a damaged slide brings about is the slide's
        send("failed", picture, problem=f"{type(error).__name__}: {error}. Fix: please report it.")


def _end_with_parent() -> None:
    """The other end of stdin closes when whoever asked is gone, however it went."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        main(json.loads(sys.argv[1]), answers)
