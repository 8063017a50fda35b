"""A folder of patch features: what is to be brought into a cohort, and the bringing of one slide. No Ray in here.

All that can be seen without reading features is seen first, in one pass over the folder, and nothing is written where
anything is wrong. A slide that the store has from the same file, of the same size and time, is not opened again.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from survq.data.feature_import import Kind, SlideOutcome, in_the_way, is_there, strangers
from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any
from survq.data.write import Slide, write_slide
from survq.importing.feature_layouts import HDF5, TENSORS, FileInfo, coordinate_file, inspect, read
from survq.importing.slide_names import Name, stem

READER = 1  # counts up whenever the same file would become another slide, so that all are read again
NOT_FEATURES = ("patches", "tiles")  # folders of coordinates, which are found from the features

UNSUPPORTED = {
    ".h5path": "PathML keeps pixels of tiles, not features. Fix: run a patch encoder on them",
    ".pkl": "is a pickle, which survq never loads. Fix: save the features as a tensor, a .pt file a slide",
    ".pickle": "is a pickle, which survq never loads. Fix: save the features as a tensor, a .pt file a slide",
}
"""Files that people have in place of features, and what to do about them."""


@dataclass(frozen=True)
class Job:
    """One slide that is to be read and written."""

    slide_id: str
    case_id: str
    file: str
    label: str  # the file, as seen from the folder that was given
    source: str
    encoder: str
    patches: int
    mpp: float | None


@dataclass
class Plan:
    """What will be done, what need not be done, and what people should know."""

    jobs: list[Job] = field(default_factory=list)
    outcomes: list[SlideOutcome] = field(default_factory=list)  # found, skipped, and with skip_bad failed
    unlabelled: set[str] = field(default_factory=set)  # cases that have slides here, and are none of the cohort
    layouts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass
class _File:
    """A candidate on its way into the plan."""

    path: Path
    label: str
    name: Name
    source: str
    head: FileInfo | None = None
    encoder: str = ""


def make_plan(
    folder: Path,
    case_ids: set[str],
    index: pd.DataFrame,
    name_of: Callable[[str], Name | None],
    encoder: str | None = None,
    skip_bad: bool = False,
) -> Plan:
    """Look at all files of features below `folder`, for a cohort of `case_ids` whose store has `index`.

    `name_of` says which slide and case an id out of a file's name is; None where its table does not know it.
    Raises FileNotFoundError, and DataError with everything that is wrong. With `skip_bad`, files that are wrong in
    themselves are left out and listed.
    """
    plan, bad = Plan(), dict[str, tuple[str, str, list[str]]]()
    by_slide: defaultdict[str, list[_File]] = defaultdict(list)
    for path in _files(folder):
        label, slide_id = str(path.relative_to(folder)), stem(path.name)
        try:
            if (advice := UNSUPPORTED.get(path.suffix.lower())) is not None:
                raise DataError([f"{path}: {advice}."])
            name = name_of(slide_id)
        except DataError as error:
            bad[label] = (slide_id, "", error.problems)
            continue
        if name is None or name.case_id not in case_ids:
            reason = "the slide is not in the table" if name is None else "the case is not in cases.parquet"
            plan.outcomes.append(SlideOutcome(slide_id, name.case_id if name else "", label, "skipped", reason))
            plan.unlabelled |= {name.case_id} if name else set()
            continue
        by_slide[name.slide_id.lower()].append(_File(path, label, name, source_of(path, name.mpp)))

    taken, several, beside = list[_File](), list[list[_File]](), list[str]()
    for files in by_slide.values():
        old = next((file for file in files if _is_found(file, index, encoder)), None)
        if old is not None:
            row = index.loc[old.name.slide_id]
            plan.outcomes.append(SlideOutcome(*_who(old), "found", patches=int(row["patches"])))
            beside += [file.label for file in files if file is not old]
            continue
        sound, unsound = _looked_at(files)
        best = _best(sound)
        if best is None and sound:
            several.append(sound)
        elif best is None:
            bad |= {file.label: (file.name.slide_id, file.name.case_id, problems) for file, problems in unsound}
        else:
            taken.append(best)
            beside += [file.label for file in files if file is not best]

    problems = _common_problems(taken, several, encoder)
    problems += in_the_way(index, {file.name.slide_id for file in taken})
    if not problems:
        for file, reason in _misfits(taken, index):
            taken.remove(file)
            bad[file.label] = (file.name.slide_id, file.name.case_id, [f"{file.path}: {reason}."])
    every = [sentence for _, _, sentences in bad.values() for sentence in sentences]
    raise_if_any(problems + ([] if skip_bad else every))
    if not taken and not bad and not plan.outcomes:
        raise DataError(
            [f"{folder}: holds no features; expected files {', '.join(HDF5 + TENSORS)}. Fix: name another folder."]
        )

    plan.outcomes += [SlideOutcome(slide, case, at, "failed", " ".join(why)) for at, (slide, case, why) in bad.items()]
    plan.jobs = [_job(file) for file in taken]
    plan.layouts = Counter(file.head.layout for file in taken if file.head is not None)
    plan.notes = _notes(taken, beside)
    return plan


def import_slide(job: Job, features: Location) -> SlideOutcome:
    """Read one file and write its slide. What is wrong with the file is in the outcome, with the mend.

    Raises OSError where the store cannot be written.
    """
    file, who = Path(job.file), (job.slide_id, job.case_id, job.label)
    try:
        bag = read(file, job.mpp)
        if source_of(file, job.mpp) != job.source:
            raise DataError([f"{file}: changed while it was read. Fix: import again when it is finished."])
        slide = Slide(
            *(job.slide_id, job.case_id, bag.features, bag.coordinates),
            patch_size=bag.patch_size,
            magnification=bag.magnification,
            encoder=job.encoder,
        )
        write_slide(features, slide, job.source)
    except DataError as error:
        return SlideOutcome(*who, "failed", " ".join(error.problems))
    return SlideOutcome(*who, "written", "", len(bag.features), bag.features.nbytes, bag.rounding)


def source_of(file: Path, mpp: float | None) -> str:
    """What a slide is made from, as far as a glance tells: files by name, size and time of the last change."""
    beside = coordinate_file(file)
    files = [file] if beside is None else [file, beside]
    stats = [(path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    return json.dumps({"reader": READER, "files": stats, **({} if mpp is None else {"mpp": mpp})})


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder that may hold features, in the order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder.")
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NOT_FEATURES)
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in (*HDF5, *TENSORS, *UNSUPPORTED):
                yield Path(path, name)


def _is_found(file: _File, index: pd.DataFrame, encoder: str | None) -> bool:
    slide = file.name.slide_id
    there = is_there(index, slide, file.name.case_id, file.source)
    return there and encoder in (None, index.loc[slide, "encoder"])


def _who(file: _File) -> tuple[str, str, str]:
    return file.name.slide_id, file.name.case_id, file.label


def _looked_at(files: Sequence[_File]) -> tuple[list[_File], list[tuple[_File, list[str]]]]:
    """The files of one slide that hold features, and what is wrong with the others."""
    sound, unsound = [], []
    for file in files:
        try:
            file.head = inspect(file.path, file.name.mpp)
        except DataError as error:
            unsound.append((file, error.problems))
        else:
            if file.head is None:
                what = "holds coordinates and no features. Fix: import the folder with the features"
                unsound.append((file, [f"{file.path}: {what}."]))
            else:
                sound.append(file)
    return sound, unsound


def _best(files: Sequence[_File]) -> _File | None:
    """The one file of a slide that is taken: of copies, as h5_files and pt_files are, the one with coordinates."""
    if len({(file.head.patches, file.head.width) for file in files if file.head}) > 1:
        return None
    for chosen in (files, [f for f in files if f.head and f.head.located], [f for f in files if f.path.suffix in HDF5]):
        if len(chosen) == 1:
            return chosen[0]
    return None


def _common_problems(taken: Sequence[_File], several: Sequence[list[_File]], encoder: str | None) -> list[str]:
    """What cannot be mended by leaving single files out. Gives the files their encoders."""
    problems, unnamed, others = [], [], []
    for file in taken:
        assert file.head is not None
        file.encoder = (file.head.encoder if file.head.certain else encoder or file.head.encoder) or ""
        if not file.encoder:
            unnamed.append(file)
        elif encoder not in (None, file.encoder):
            others.append(file)
    if several:
        first = ", ".join(file.label for file in several[0])
        problems.append(
            f"{len(several)} slides stand in several files, {several[0][0].name.slide_id!r} in {first}. "
            f"Fix: give the folder of one encoder."
        )
    if unnamed:
        problems.append(
            f"{len(unnamed)} files do not say which patch encoder made them, the first {unnamed[0].path}. "
            f"Fix: say it, with --encoder uni_v1 or whatever it was."
        )
    if others:
        problems.append(
            f"{len(others)} files were made with another encoder than {encoder!r}: {others[0].path} with "
            f"{others[0].encoder!r}. Fix: leave --encoder out, or give the folder that it made."
        )
    return problems


def _misfits(taken: Sequence[_File], index: pd.DataFrame) -> list[tuple[_File, str]]:
    """The files that do not go with the rest, and why. Raises DataError where there is no rest to speak of."""
    by_slide = {file.name.slide_id: file for file in taken}
    kinds = {slide: Kind(file.encoder, file.head.width) for slide, file in by_slide.items() if file.head is not None}
    found = {slide: reason for slide, reason in strangers(index, kinds).items()}
    located = [slide for slide, file in by_slide.items() if file.head is not None and file.head.located]
    if 2 * len(located) > len(taken):
        for slide in set(by_slide) - set(located) - set(found):
            found[slide] = (
                f"has no coordinates, while {len(located)} others have. Fix: give it those of its patches, "
                f"or leave it out with --skip-bad"
            )
    return [(by_slide[slide], reason) for slide, reason in sorted(found.items())]


def _notes(taken: Sequence[_File], beside: Sequence[str]) -> list[str]:
    notes = []
    if beside:
        notes.append(f"{len(beside)} more files of the same slides were not needed, the first {beside[0]}")
    heads = [file.head for file in taken if file.head is not None]
    if nowhere := sum(not head.located for head in heads):
        notes.append(
            f"{nowhere} slides come without coordinates in level-0 pixels: models run, maps of patches cannot be drawn"
        )
        if any(head.layout == "STAMP" for head in heads):
            notes.append("STAMP's coordinates are micrometres: a column mpp in --cases makes pixels of them")
    if unsized := sum(head.located and head.patch_size is None for head in heads):
        notes.append(f"{unsized} slides come without the size of a patch")
    return notes


def _job(file: _File) -> Job:
    assert file.head is not None
    return Job(
        *(file.name.slide_id, file.name.case_id, str(file.path), file.label, file.source),
        encoder=file.encoder,
        patches=file.head.patches,
        mpp=file.name.mpp,
    )
