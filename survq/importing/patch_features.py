"""Import the patch features of other tools into the feature store of a cohort, with Ray Data.

A task reads a file, converts it, writes its slide and returns a row of metadata. Features never travel between
processes, and each running task holds one slide in memory.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from survq.data.barcodes import DIAGNOSTIC, PRIMARY
from survq.data.equal_bags import withdraw_copies
from survq.data.feature_import import (
    SlideResult,
    case_ids,
    list_skipped,
    locked_store,
    readable_index,
    record_features,
    unlabelled_cases,
)
from survq.data.location import Location
from survq.importing.feature_folder import Job, Plan, import_slide, make_plan
from survq.importing.slide_names import SlideTable, Wanted, by_barcode
from survq.importing.slide_progress import SlideProgress
from survq.ray_session import connect, quiet_data_context, ray, resources
from survq.text import clock, itemised

TASKS_PER_CPU = 16  # few enough for a low overhead, enough to balance the load


@dataclass(frozen=True)
class Imported:
    """The result of an import."""

    cohort: str
    features: Location
    plan: Plan
    results: list[SlideResult]
    skipped: Location | None  # the list of skipped and failed slides
    cases: tuple[int, int]  # numbers of cases in the cohort: with slides, and all
    kind: str
    seconds: float

    @property
    def failed(self) -> list[SlideResult]:
        return [result for result in self.results if result.state == "failed"]

    @property
    def empty(self) -> bool:
        """Whether no slide was imported, and none was there before."""
        return not any(result.state in ("written", "found") for result in self.results)

    def summary(self) -> list[str]:
        """Lines for people."""
        written = [result for result in self.results if result.state == "written"]
        states = Counter(result.state for result in self.results)
        size = sum(result.bytes for result in written)
        layouts = ", ".join(f"{count} {layout}" for layout, count in self.plan.layouts.most_common())
        lines = [f"{self.cohort}: nothing new; {states['found']} slides already stored"]
        if self.empty:
            lines = [f"{self.cohort}: no slide was imported; {states['failed']} failed, {states['skipped']} skipped"]
        if written:
            lines = [
                f"{self.cohort}: {len(written)} slides written, {sum(o.patches for o in written):,} patches, "
                f"{_bytes(size)} in {clock(self.seconds)} ({_bytes(size / self.seconds)}/s)"
                + (f"; {states['found']} already stored" if states["found"] else "")
            ]
        lines += [f"layouts: {layouts}"] if layouts else []
        lines.append(f"{self.kind}; {self.cases[0]} of {self.cases[1]} cases have slides")
        if rounding := max((result.rounding for result in written), default=0.0):
            lines.append(f"converted to half precision; largest rounding error {rounding:.2g}")
        lines += self.plan.notes
        for reason, count in Counter(o.reason for o in self.results if o.state == "skipped").items():
            lines.append(f"skipped, {reason}: {count}")
        if self.failed:
            lines.append(f"failed: {len(self.failed)}")
            lines += itemised([result.reason for result in self.failed])
        return lines


def import_features(
    source: str | Path,
    data: str | Path | Location,
    cohort: str,
    *,
    table: str | Path | None = None,
    encoder: str | None = None,
    skip_bad: bool = False,
    sample_types: tuple[str, ...] = PRIMARY,
    slide_types: tuple[str, ...] = DIAGNOSTIC,
) -> Imported:
    """Import the patch features below `source` into DATA/COHORT/features. Slides already stored are not read again.

    Slides whose barcode states another sample type or slide type are skipped. Raises FileNotFoundError, InUse, OSError;
    and DataError with all problems that are visible without reading features: then nothing has been written. Problems
    of the features themselves, such as NaN, fail only their own slide.
    """
    root = Location.at(data)
    cases = case_ids(root, cohort)
    name_of = by_barcode if table is None else SlideTable.read(table)
    with locked_store(root / cohort) as features:
        index = readable_index(features)
        wanted = Wanted(cases, sample_types, slide_types)
        plan = make_plan(Path(source).expanduser().absolute(), wanted, index, name_of, encoder, skip_bad)
        if plan.jobs:
            connect()
        results = list(plan.results)
        progress = SlideProgress(len(plan.jobs), sum(job.patches for job in plan.jobs))
        for result in run_jobs(plan.jobs, features) if plan.jobs else ():
            progress.add(result)
            results.append(result)
        results = withdraw_copies(features, results)
        skipped = list_skipped(features, results)
        slides = record_features(root / cohort, unlabelled_cases(results, cases))
    kinds = slides[["encoder", "width"]].drop_duplicates().to_numpy()
    kind = ", ".join(f"{encoder} features, {width} wide" for encoder, width in kinds) or "no slides"
    with_slides = len(cases.intersection(slides["case_id"]))
    return Imported(cohort, features, plan, results, skipped, (with_slides, len(cases)), kind, progress.elapsed)


def run_jobs(jobs: Sequence[Job], features: Location) -> Iterator[SlideResult]:
    """Run the jobs as tasks on all nodes; yields the result of each slide.

    If a process dies, all slides of its task are retried once, each in its own task. A slide whose process dies again
    fails. Raises OSError if the store cannot be written.
    """
    waiting = {job.file: job for job in jobs}
    for tasks in (TASKS_PER_CPU * resources()[1], len(jobs)):
        ordered = sorted(waiting.values(), key=lambda job: -job.patches)
        # deal the jobs out in turn, so that every task gets large and small slides
        batches = [[asdict(job) for job in ordered[start::tasks]] for start in range(min(tasks, len(ordered)))]
        for row in _run_batches(batches, features):
            if row["state"] == "unwritten":
                raise OSError(row["reason"])
            waiting.pop(row.pop("path"))
            yield SlideResult(**row)
    for job in waiting.values():
        reason = f"{job.file}: its reader process died repeatedly. Fix: check whether the file is damaged or too large."
        yield SlideResult(job.slide_id, job.case_id, job.label, "failed", reason)


def _run_batches(batches: list[list[dict]], features: Location) -> Iterator[dict]:
    if not batches:
        return
    with quiet_data_context(max_errored_blocks=-1):  # the caller retries the jobs of processes that died
        tasks = ray.data.from_items([{"jobs": batch} for batch in batches], override_num_blocks=len(batches))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")  # no alternative yet
            tasks = tasks.flat_map(_import_batch, fn_kwargs={"features": features}, ray_remote_args_fn=_few_retries)
        yield from tasks.iter_rows()


def _few_retries() -> dict:
    """Ray Data's default is to retry forever, and a malicious file could crash its process every time."""
    return {"max_retries": 1}


def _import_batch(row: dict, features: Location) -> list[dict]:
    rows = []
    for job in (Job(**job) for job in row["jobs"]):
        try:
            rows.append({"path": job.file, **import_slide(job, features).row()})
        except OSError as error:
            reason = f"{features}: cannot be written ({error})."
            return [{"path": job.file, **SlideResult(job.slide_id, job.case_id, job.label, "unwritten", reason).row()}]
    return rows


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
