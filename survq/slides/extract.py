"""Extract the slides of a folder into the feature store of a cohort.

    DIR/<COHORT>/features/<slide>.parquet    see survq/data/feature_store.py; with its source file and encoder
    DIR/<COHORT>/features/skipped.csv        skipped and failed slides, with the reason
    DIR/<COHORT>/overviews/<slide>.jpg       the slide with its tissue mask and patch grid, for inspection

Slides already in the store, from the same file and the same encoder, are not extracted again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from survq.data.barcodes import DIAGNOSTIC, PRIMARY
from survq.data.equal_bags import withdraw_copies
from survq.data.feature_import import (
    SlideResult,
    case_ids,
    conflicts,
    contains,
    list_skipped,
    locked_store,
    readable_index,
    record_features,
    unlabelled_cases,
)
from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any
from survq.data.write import Slide, file_name, write_slide
from survq.importing.slide_names import SlideTable, Wanted, by_barcode
from survq.importing.slide_progress import SlideProgress
from survq.slides.encoder import PatchEncoder
from survq.slides.sources import Source, find_files, name_sources
from survq.text import preview

READER_VERSION = 2  # increase it when a change affects which patches are read, or their pixels

Message = tuple[Source, dict, bytes]
"""A message of a slide's reader (survq/slides/reader.py); the payload of `patches` is (patch, feature), float16."""

Encode = Callable[[Sequence[Source]], Iterator[Message]]
"""From slides to their messages, in any order."""


def extract(
    slides: Path,
    root: str | Path | Location,
    cohort: str,
    encoder: PatchEncoder,
    encode: Encode,
    *,
    table: Path | None = None,
    mpp: float | None = None,
    sample_types: tuple[str, ...] = PRIMARY,
    slide_types: tuple[str, ...] = DIAGNOSTIC,
) -> list[SlideResult]:
    """Extract the slides of a cohort's cases into its feature store. Returns one result per slide, ordered by its id.

    `encoder` is the one that `encode` applies. `table` maps slides to cases. Slides whose barcode states another sample
    type or slide type are skipped. `mpp`, micrometres per level-0 pixel, and those of the table overrule what the files
    state. A failed slide does not stop the others. Raises DataError where the store holds features of another encoder;
    FileNotFoundError; InUse.
    """
    root = Location.at(root)
    name_of = by_barcode if table is None else SlideTable.read(table)
    cases = case_ids(root, cohort)
    sources, results = name_sources(find_files(slides), name_of, Wanted(cases, sample_types, slide_types), mpp)
    with locked_store(root / cohort) as features:
        overviews = root / cohort / "overviews"
        overviews.sweep()
        index = readable_index(features)
        _refuse_conflicts(index, [source.slide_id for source in sources], encoder, features)
        todo = []
        for source in sources:
            if contains(index, source.slide_id, source.case_id, made_from(source, encoder)):
                patches = int(index.loc[source.slide_id, "patches"])
                results.append(SlideResult(source.slide_id, source.case_id, source.file, "found", patches=patches))
            else:
                todo.append(source)
        if todo:
            todo.sort(key=lambda source: -source.bytes)  # largest first, so that none is left running alone at the end
            results += _write_slides(features, overviews, todo, encoder, encode)
        results = [_note_kept_features(result, index) for result in withdraw_copies(features, results)]
        list_skipped(features, results)
        record_features(root / cohort, unlabelled_cases(results, cases))
    return sorted(results, key=lambda result: result.slide_id)


def made_from(source: Source, encoder: PatchEncoder) -> str:
    """Everything the features of a slide depend on, as JSON. The store keeps it with them."""
    facts = {"file": Path(source.file).name, "bytes": source.bytes, "fingerprint": source.fingerprint}
    return json.dumps(
        {**facts, "mpp_given": source.mpp, "reading": READER_VERSION, "encoder": encoder.description}, sort_keys=True
    )


def _refuse_conflicts(index: pd.DataFrame, slide_ids: list[str], encoder: PatchEncoder, features: Location) -> None:
    problems = conflicts(index, slide_ids)
    if others := sorted(set(index["encoder"]) - {encoder.name}):
        problems.append(
            f"{features}: holds features of {preview(others)}; this encoder is {encoder.name!r}. "
            f"Fix: use that of the store, or move the folder away."
        )
    raise_if_any(problems)


@dataclass
class _PartialSlide:
    """A slide whose messages have arrived in part."""

    found: dict = field(default_factory=dict)
    coordinates: np.ndarray | None = None
    parts: dict[int, bytes] = field(default_factory=dict)  # index of the first patch -> features
    patches: int = 0
    closed: bool = False


def _write_slides(
    features: Location, overviews: Location, sources: Sequence[Source], encoder: PatchEncoder, encode: Encode
) -> Iterator[SlideResult]:
    """Write each slide as soon as all its messages have arrived."""
    progress = SlideProgress(len(sources))
    slides: dict[str, _PartialSlide] = {}
    for source, facts, payload in encode(sources):
        slide = slides.setdefault(source.slide_id, _PartialSlide())
        if slide.closed:
            continue
        result = None
        if facts["kind"] == "failed":
            _write_overview(overviews, source, payload)
            result = _failed(source, facts["problem"])
        elif facts["kind"] == "found":
            coordinates = 8 * facts["patches"]
            slide.found, slide.coordinates = facts, np.frombuffer(payload[:coordinates], np.int32).reshape(-1, 2)
            _write_overview(overviews, source, payload[coordinates:])
        elif facts["start"] not in slide.parts:  # Ray repeats messages when it retries a task
            slide.parts[facts["start"]] = payload
            slide.patches += facts["patches"]
            progress.part(source.slide_id, slide.patches, slide.found.get("patches"))
        if result is None and slide.patches == slide.found.get("patches"):
            result = _write_complete(features, source, slide, encoder)
        if result is not None:
            slides[source.slide_id] = _PartialSlide(closed=True)
            progress.add(result)
            yield result
    for source in sources:
        if not slides.get(source.slide_id, _PartialSlide()).closed:
            lost = "some of its patches were lost with a process that died. Fix: start the same command again."
            progress.add(result := _failed(source, lost))
            yield result


def _write_complete(features: Location, source: Source, slide: _PartialSlide, encoder: PatchEncoder) -> SlideResult:
    content = b"".join(part for _, part in sorted(slide.parts.items()))
    row = Slide(
        source.slide_id,
        source.case_id,
        np.frombuffer(content, np.float16).reshape(-1, encoder.width),
        slide.coordinates,
        slide.found["patch_size"],
        slide.found["magnification"],
        encoder.name,
    )
    try:
        file = write_slide(features, row, made_from(source, encoder))
    except DataError as error:
        return _failed(source, " ".join(error.problems))
    size = file.filesystem.get_file_info(file.path).size
    return SlideResult(
        *(row.slide_id, row.case_id, source.file, "written"),
        reason=_overruled(source.mpp, slide.found["mpp_stated"]),
        patches=slide.patches,
        bytes=size,
    )


def _overruled(given: float | None, stated: float | None) -> str:
    if given is None or stated is None or 0.98 < given / stated < 1.02:
        return ""
    return f"{given:g} micrometres per pixel used, as given; its file states {stated:.4g}"


def _note_kept_features(result: SlideResult, index: pd.DataFrame) -> SlideResult:
    if result.state != "failed" or result.slide_id not in index.index:
        return result
    return replace(result, reason=f"{result.reason} The store keeps its earlier features.")


def _failed(source: Source, reason: str) -> SlideResult:
    return SlideResult(source.slide_id, source.case_id, source.file, "failed", reason)


def _write_overview(overviews: Location, source: Source, picture: bytes) -> None:
    if picture:
        (overviews / file_name(source.slide_id).replace(".parquet", ".jpg")).write(picture)
