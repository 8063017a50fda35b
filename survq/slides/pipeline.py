"""Slides to features, over all nodes of a cluster: readers on CPUs feed encoders, on GPUs where there are any.

One Ray Data pipeline. A row is a message of a slide's reader (survq/slides/reader.py): how many patches were found, a
batch of them, or what went wrong. The encoders turn batches into features; what comes out is put together here, slide
by slide. Pixels exist for a few batches at a time only.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from survq.ray_session import connect, ray, resources, silence
from survq.slides.encoder import load_encoder
from survq.slides.reader import read_slide
from survq.slides.slide import PATCH
from survq.slides.sources import Source

MESSAGE = pa.schema([("slide", pa.int32()), ("facts", pa.string()), ("payload", pa.large_binary())])
IN_FLIGHT = 1 << 27  # bytes of messages in the object store for each reader and encoder: a dozen batches


def encode_slides(
    sources: Sequence[Source], *, encoder: str, weights: Path | None, identity: str, timeout: float
) -> Iterator[tuple[Source, dict, bytes]]:
    """The messages of all slides, in no order but that every slide's are whole; patches have become features.

    `identity` is the name that the encoder must turn out to have on every node.
    """
    connect()
    _, cpus, gpus = resources()
    encoders = gpus or max(1, cpus - max(1, cpus // 8))  # an encoder without a GPU is far slower than a reader
    readers = max(1, cpus - encoders)
    share = 1.0 if cpus > 1 else 0.5
    context = ray.data.DataContext.get_current().copy()
    silence()
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")  # of few slides, it is right
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # every message a block of its own: it goes on as soon as it is there
    half = ray.cluster_resources().get("object_store_memory", 0) / 2  # what Ray Data would take by itself
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        object_store_memory=min(half, IN_FLIGHT * (readers + encoders))
    )
    with ray.data.DataContext.current(context):
        rows = [{"slide": number, "file": source.file, "mpp": source.mpp} for number, source in enumerate(sources)]
        messages = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _read,
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs={"timeout": timeout},
            compute=ray.data.TaskPoolStrategy(size=readers),
            # Ray puts what asks for the same into one process, where reading would wait for encoding
            num_cpus=share if gpus else share / 2,
        )
        features = messages.map_batches(
            _Encoder,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(encoder, weights, identity),
            compute=ray.data.ActorPoolStrategy(size=encoders, max_tasks_in_flight_per_actor=2),
            num_cpus=share,
            num_gpus=1 if gpus else 0,
        )
        try:
            for batch in features.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    yield sources[row["slide"]], json.loads(row["facts"]), row["payload"]
        except ray.exceptions.RayError as error:
            raise OSError(f"Ray: {str(error).strip().splitlines()[-1]}") from error


def _read(slides: pa.Table, timeout: float) -> Iterator[pa.Table]:
    for slide in slides.to_pylist():
        try:
            for facts, payload in read_slide(slide["file"], slide["mpp"], timeout):
                yield _message(slide["slide"], facts, payload)
        except Exception as error:  # one slide's failure never ends the run
            yield _message(
                slide["slide"],
                {"kind": "failed", "problem": f"{type(error).__name__}: {error}. Fix: please report it."},
                b"",
            )


class _Encoder:
    def __init__(self, encoder: str, weights: Path | None, identity: str):
        self.encode = load_encoder(encoder, weights)
        if self.encode.name != identity:
            raise ValueError(f"this node's encoder is {self.encode.name!r}, not {identity!r}: other weights lie there")

    def __call__(self, messages: pa.Table) -> pa.Table:
        (number,), facts = messages["slide"].to_pylist(), json.loads(messages["facts"][0].as_py())
        if facts["kind"] != "patches":
            return messages
        patches = np.frombuffer(messages["payload"][0].as_buffer(), np.uint8).reshape(-1, PATCH, PATCH, 3)
        try:
            return _message(number, facts, self.encode(patches).tobytes())
        except Exception as error:
            problem = f"its patches could not be encoded ({type(error).__name__}: {error}). Fix: please report it."
            return _message(number, {"kind": "failed", "problem": problem}, b"")


def _message(slide: int, facts: dict, payload: bytes) -> pa.Table:
    return pa.table([[slide], [json.dumps(facts)], [payload]], schema=MESSAGE)
