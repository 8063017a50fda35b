"""Slides to features on all nodes of a cluster: readers on CPUs feed encoders, which use GPUs where available.

This is one Ray Data pipeline. A row is a message of a slide's reader (survq/slides/reader.py): the number of patches, a
batch of patches, or an error. The encoders turn batches into features. Pixels of only a few batches exist at a time.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from survq.output import stderr_without
from survq.ray_session import connect, quiet_data_context, ray, resources
from survq.slides.reader import read_slide
from survq.slides.slide import PATCH
from survq.slides.sources import Source

MESSAGE = pa.schema([("slide", pa.int32()), ("facts", pa.string()), ("payload", pa.large_binary())])
IN_FLIGHT = 1 << 27  # bytes of messages in the object store for each reader and encoder: a dozen batches


def encode_slides(
    sources: Sequence[Source], *, encoder: str, weights: Path | None, identity: str, timeout: float
) -> Iterator[tuple[Source, dict, bytes]]:
    """The messages of all slides, in any order, with features in place of patches.

    `identity` is the expected `PatchEncoder.name`; a node whose encoder has another name raises ValueError.
    """
    connect()
    _, cpus, gpus = resources()
    encoders = gpus or max(1, cpus - max(1, cpus // 8))  # an encoder without a GPU is far slower than a reader
    readers = max(1, cpus - encoders)
    share = 1.0 if cpus > 1 else 0.5
    # true when there are fewer slides than encoders, and harmless
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    half = ray.cluster_resources().get("object_store_memory", 0) / 2  # Ray Data's own default
    # one block per message, so that each moves on without waiting for others
    with quiet_data_context(target_max_block_size=1) as context:
        context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
            object_store_memory=min(half, IN_FLIGHT * (readers + encoders))
        )
        rows = [{"slide": number, "file": source.file, "mpp": source.mpp} for number, source in enumerate(sources)]
        messages = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _read,
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs={"timeout": timeout},
            compute=ray.data.TaskPoolStrategy(size=readers),
            # with equal requests Ray would fuse both steps into one process, and reading would wait for encoding
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
            for batch in _started(features.iter_batches(batch_size=None, batch_format="pyarrow")):
                for row in batch.to_pylist():
                    yield sources[row["slide"]], json.loads(row["facts"]), row["payload"]
        except ray.exceptions.RayError as error:
            raise OSError(f"Ray: {str(error).strip().splitlines()[-1]}") from error


def _started(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The batches. Ray Data starts encoders in a way of which Ray's C++ warns on stderr, though nothing is wrong."""
    following = iter(batches)
    with stderr_without("has constructor arguments in the object store"):
        first = list(islice(following, 1))
    return chain(first, following)


def _read(slides: pa.Table, timeout: float) -> Iterator[pa.Table]:
    for slide in slides.to_pylist():
        try:
            for facts, payload in read_slide(slide["file"], slide["mpp"], timeout):
                yield _message(slide["slide"], facts, payload)
        except Exception as error:  # a failed slide must not end the run
            yield _message(
                slide["slide"],
                {"kind": "failed", "problem": f"{type(error).__name__}: {error}. Fix: please report it."},
                b"",
            )


class _Encoder:
    def __init__(self, encoder: str, weights: Path | None, identity: str):
        from survq.slides.encoder import load_encoder  # imports PyTorch, which readers do not need

        self.encode = load_encoder(encoder, weights)
        if self.encode.name != identity:
            raise ValueError(
                f"the encoder on this node is {self.encode.name!r}, expected {identity!r}: its weights file differs."
            )

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
