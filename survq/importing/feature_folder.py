"""Plan the import of a folder of patch features into a cohort, and import one slide. Without Ray.

The plan checks everything that is visible without reading features, in one pass over the folder; if there are problems,
nothing is written. A slide that is stored already, from a file of the same name, size and time, is not opened again.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from survq.data.feature_import import FeatureKind, SlideResult, conflicts, contains, incompatible
from survq.data.location import Location
from survq.data.patch_sizes import MICROMETRES, PatchSize, other_sizes, stored_sizes
from survq.data.problems import DataError, raise_if_any
from survq.data.write import Slide, write_slide
from survq.importing.feature_layouts import HDF5, TENSORS, FileInfo, inspect, read
from survq.importing.folders import by_suffix, file_problem, suffix_of, walk
from survq.importing.patch_positions import coordinate_file
from survq.importing.slide_names import Name, Wanted, stem
from survq.text import preview, readable

READER_VERSION = 2  # increase it when a change affects the imported slides, so that all are imported again
COORDINATE_FOLDERS = ("patches", "tiles")  # their files are found from the features

UNREAD = (".npy", ".npz", ".safetensors", ".parquet", ".feather", ".h5ad", ".mat", ".tfrecord", ".tfrecords")
COMPANIONS = (".index.npz", ".coordinates.npz")  # of slideflow and hs2p

UNSUPPORTED = {
    ".h5path": "PathML stores pixels of tiles, not features. Fix: run a patch encoder on them",
    ".pkl": "is a pickle, which survq never loads. Fix: save the features as tensors, one .pt file per slide",
    ".pickle": "is a pickle, which survq never loads. Fix: save the features as tensors, one .pt file per slide",
}
"""Suffix -> message for files that are not patch features but often occur in their place."""


@dataclass(frozen=True)
class Job:
    """One slide to import."""

    slide_id: str
    case_id: str
    file: str
    label: str  # the file relative to the imported folder
    source: str
    encoder: str
    patches: int
    mpp: float | None


@dataclass
class Plan:
    """The slides to import, and the results of all other files."""

    jobs: list[Job] = field(default_factory=list)
    results: list[SlideResult] = field(default_factory=list)  # found, skipped, and with skip_bad failed
    layouts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass
class _File:
    """A file that may be imported."""

    path: Path
    label: str
    name: Name
    source: str
    info: FileInfo | None = None
    encoder: str = ""


def make_plan(
    folder: Path,
    wanted: Wanted,
    index: pd.DataFrame,
    name_of: Callable[[str], Name | None],
    encoder: str | None = None,
    skip_bad: bool = False,
) -> Plan:
    """Plan the import of all feature files below `folder` into a cohort with the store index `index`.

    `wanted` are the slides of the cohort. `name_of` maps the id in a file name to its slide and case, or to None if its
    table lacks it. Raises FileNotFoundError, and DataError with all problems. With `skip_bad`, files with problems of
    their own are skipped and listed instead.
    """
    plan, bad = Plan(), dict[str, tuple[str, str, list[str]]]()
    by_slide: defaultdict[str, list[_File]] = defaultdict(list)
    files, passed_over = _files(folder)
    for path in files:
        label, slide_id = readable(path.relative_to(folder)), readable(stem(path.name))
        try:
            if (unreadable := file_problem(path)) is not None:
                raise DataError([f"{unreadable}."])
            if (advice := UNSUPPORTED.get(path.suffix.lower())) is not None:
                raise DataError([f"{path}: {advice}."])
            name = wanted.named(slide_id, name_of)
        except DataError as error:
            bad[label] = (slide_id, "", error.problems)
            continue
        if (reason := wanted.reason_against(name)) is not None:
            plan.results.append(SlideResult(slide_id, name.case_id if name else "", label, "skipped", reason))
            continue
        assert name is not None
        by_slide[name.slide_id.lower()].append(_File(path, label, name, source_of(path, name.mpp)))

    chosen, ambiguous, unused = list[_File](), list[list[_File]](), list[str]()
    for copies in by_slide.values():
        stored = next((file for file in copies if _is_stored(file, index, encoder)), None)
        if stored is not None:
            row = index.loc[stored.name.slide_id]
            plan.results.append(SlideResult(*_identity(stored), "found", patches=int(row["patches"])))
            unused += [file.label for file in copies if file is not stored]
            continue
        valid, invalid = _inspect_all(copies)
        best = _best(valid)
        if best is None and valid:
            ambiguous.append(valid)
        elif best is None:
            bad |= {file.label: (file.name.slide_id, file.name.case_id, problems) for file, problems in invalid}
        else:
            chosen.append(best)
            unused += [file.label for file in copies if file is not best]

    problems = _common_problems(chosen, ambiguous, encoder)
    problems += conflicts(index, {file.name.slide_id for file in chosen})
    if not problems:
        for file, reason in _incompatible_files(chosen, index):
            chosen.remove(file)
            bad[file.label] = (file.name.slide_id, file.name.case_id, [f"{file.path}: {reason}."])
    file_problems = [problem for _, _, its_problems in bad.values() for problem in its_problems]
    raise_if_any(problems + ([] if skip_bad else file_problems))
    if not chosen and not bad and not plan.results:
        other = f"; it has {by_suffix(passed_over)}" if passed_over else ""
        fix = "save each slide as a tensor, SLIDE.pt" if passed_over else "name another folder"
        raise DataError(
            [f"{folder}: holds no features; expected {', '.join(HDF5 + TENSORS)} files{other}. Fix: {fix}."]
        )

    plan.results += [SlideResult(slide, case, at, "failed", " ".join(why)) for at, (slide, case, why) in bad.items()]
    plan.jobs = [_job(file) for file in chosen]
    plan.layouts = Counter(file.info.layout for file in chosen if file.info is not None)
    plan.notes = _notes(chosen, unused)
    if passed_over:
        plan.notes.append(f"passed over, as survq does not read such files: {by_suffix(passed_over)}")
    return plan


def import_slide(job: Job, features: Location) -> SlideResult:
    """Read one file and write its slide. The result states problems of the file.

    Raises OSError if the store cannot be written.
    """
    file, identity = Path(job.file), (job.slide_id, job.case_id, job.label)
    try:
        patches = read(file, job.mpp)
        if source_of(file, job.mpp) != job.source:
            raise DataError([f"{file}: changed while it was read. Fix: import again when it is complete."])
        slide = Slide(
            *(job.slide_id, job.case_id, patches.features, patches.coordinates),
            patch_size=patches.patch_size,
            magnification=patches.magnification or (None if job.mpp is None else round(MICROMETRES / job.mpp, 1)),
            encoder=job.encoder,
        )
        write_slide(features, slide, job.source)
    except DataError as error:
        return SlideResult(*identity, "failed", " ".join(error.problems))
    return SlideResult(
        *identity,
        "written",
        patches=len(patches.features),
        bytes=patches.features.nbytes,
        rounding=patches.rounding,
    )


def source_of(file: Path, mpp: float | None) -> str:
    """The files that a slide is imported from, as JSON: their names, sizes and times of the last change."""
    nearby = coordinate_file(file)
    files = [file] if nearby is None else [file, nearby]
    stats = [(path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    return json.dumps({"reader": READER_VERSION, "files": stats, **({} if mpp is None else {"mpp": mpp})})


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below a folder that may hold features; and others that may, but that survq does not read."""
    files, others = list[Path](), list[Path]()
    for path in walk(folder, without=COORDINATE_FOLDERS):
        if suffix_of(path) in (*HDF5, *TENSORS, *UNSUPPORTED):
            files.append(path)
        elif path.suffix.lower() in UNREAD and not path.name.endswith(COMPANIONS):
            others.append(path)
    return files, others


def _is_stored(file: _File, index: pd.DataFrame, encoder: str | None) -> bool:
    slide = file.name.slide_id
    stored = contains(index, slide, file.name.case_id, file.source)
    return stored and encoder in (None, index.loc[slide, "encoder"])


def _identity(file: _File) -> tuple[str, str, str]:
    return file.name.slide_id, file.name.case_id, file.label


def _inspect_all(files: Sequence[_File]) -> tuple[list[_File], list[tuple[_File, list[str]]]]:
    """The files of one slide that hold features, and the problems of the others."""
    valid, invalid = [], []
    for file in files:
        try:
            file.info = inspect(file.path, file.name.mpp)
        except DataError as error:
            invalid.append((file, error.problems))
        else:
            if file.info is None:
                problem = "holds coordinates and no features. Fix: import the folder with the features"
                invalid.append((file, [f"{file.path}: {problem}."]))
            else:
                valid.append(file)
    return valid, invalid


def _best(files: Sequence[_File]) -> _File | None:
    """The file to import, of several copies of a slide (h5_files, pt_files): one with coordinates, else HDF5.

    None if they differ in shape, or if there is no preference.
    """
    if len({(file.info.patches, file.info.width) for file in files if file.info}) > 1:
        return None
    located = [file for file in files if file.info and file.info.located]
    for candidates in (files, located, [file for file in files if file.path.suffix in HDF5]):
        if len(candidates) == 1:
            return candidates[0]
    return None


def _common_problems(chosen: Sequence[_File], ambiguous: Sequence[list[_File]], encoder: str | None) -> list[str]:
    """Problems that skipping single files does not solve. Also sets the encoder of each file."""
    problems, unnamed, others = [], [], []
    for file in chosen:
        assert file.info is not None
        file.encoder = (file.info.encoder if file.info.certain else encoder or file.info.encoder) or ""
        if not file.encoder:
            unnamed.append(file)
        elif encoder not in (None, file.encoder):
            others.append(file)
    if ambiguous:
        first = ", ".join(file.label for file in ambiguous[0])
        problems.append(
            f"{len(ambiguous)} slides have several files, such as {ambiguous[0][0].name.slide_id!r} in {first}. "
            f"Fix: import the folder of one encoder."
        )
    if unnamed:
        problems.append(
            f"{len(unnamed)} files do not state their patch encoder; the first is {unnamed[0].path}. "
            f"Fix: state it, for example with --encoder uni_v1."
        )
    if others:
        problems.append(
            f"{len(others)} files were made with another encoder than {encoder!r}: {others[0].path} with "
            f"{others[0].encoder!r}. Fix: omit --encoder, or import the folder of that encoder."
        )
    return problems


def _incompatible_files(chosen: Sequence[_File], index: pd.DataFrame) -> list[tuple[_File, str]]:
    """The files that do not match the others, with reasons. Raises DataError if there is no majority."""
    by_slide = {file.name.slide_id: file for file in chosen}
    infos = {slide: (file.encoder, file.info) for slide, file in by_slide.items() if file.info is not None}
    kinds = {slide: FeatureKind(encoder, info.width) for slide, (encoder, info) in infos.items()}
    reasons = incompatible(index, kinds)
    sizes = {slide: _size(file) for slide, file in by_slide.items()}
    known = {slide: size for slide, size in sizes.items() if size is not None and slide not in reasons}
    reasons |= other_sizes(stored_sizes(index), known)
    located = [slide for slide, (_, info) in infos.items() if info.located]
    if 2 * len(located) > len(chosen):
        for slide in set(by_slide) - set(located) - set(reasons):
            reasons[slide] = (
                f"has no coordinates, but {len(located)} others have. Fix: add the coordinates of its patches, "
                f"or skip it with --skip-bad"
            )
    return [(by_slide[slide], reason) for slide, reason in sorted(reasons.items())]


def _size(file: _File) -> PatchSize | None:
    """The physical size of the patches of a slide; what level 0 says of it goes before what the tool says."""
    assert file.info is not None
    size = PatchSize.of(file.info.patch_size, file.info.magnification, file.name.mpp)
    stated = file.info.micrometres and PatchSize(file.info.micrometres, nominal=True)
    if size is None or not stated:
        return size or stated or None
    return stated if PatchSize(size.side, nominal=True).like(stated) else size


def _notes(chosen: Sequence[_File], unused: Sequence[str]) -> list[str]:
    notes = []
    if unused:
        notes.append(f"{len(unused)} further files of the same slides were not used; the first is {unused[0]}")
    infos = [file.info for file in chosen if file.info is not None]
    if unlocated := sum(not info.located for info in infos):
        notes.append(
            f"{unlocated} slides have no coordinates in level-0 pixels: models can be trained, but maps of patches "
            f"cannot be drawn"
        )
        if any(info.layout == "STAMP" for info in infos):
            notes.append("STAMP's coordinates are in micrometres; a column mpp in the table of --cases converts them")
    scaleless = {
        file.info.patch_size for file in chosen if file.info and not (file.info.magnification or file.name.mpp)
    }
    if len(pixels := sorted(filter(None, scaleless))) > 1:
        notes.append(
            f"patches of {preview(pixels, 5)} level-0 pixels: their size in micrometres is unknown, so it was not "
            f"compared; a column mpp in the table of --cases states it"
        )
    if unsized := sum(info.located and info.patch_size is None for info in infos):
        notes.append(f"{unsized} slides do not state the size of their patches")
    return notes


def _job(file: _File) -> Job:
    assert file.info is not None
    return Job(
        *(file.name.slide_id, file.name.case_id, str(file.path), file.label, file.source),
        encoder=file.encoder,
        patches=file.info.patches,
        mpp=file.name.mpp,
    )
