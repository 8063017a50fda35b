"""Patch features that other tools made, into the feature store of a cohort, with Ray Data.

A task reads one file, converts it, writes its slide and hands back a row of facts: features never travel between
processes, and no more slides are in memory than tasks run.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from survq.data.feature_import import (
    SlideOutcome,
    case_ids,
    list_skipped,
    locked_store,
    readable_index,
    record_features,
)
from survq.data.location import Location
from survq.importing.feature_folder import Job, Plan, import_slide, make_plan
from survq.importing.slide_names import SlideTable, by_barcode
from survq.importing.slide_progress import SlideProgress
from survq.ray_session import connect, ray, resources, silence
from survq.text import clock, itemised

TASKS = 16  # for a CPU: few enough to cost little, enough to share the work out evenly


@dataclass(frozen=True)
class Imported:
    """What came of an import."""

    cohort: str
    features: Location
    plan: Plan
    outcomes: list[SlideOutcome]
    skipped: Location | None  # the list of those left out
    cases: tuple[int, int]  # of the cohort: with slides, in all
    kind: str
    seconds: float

    @property
    def failed(self) -> list[SlideOutcome]:
        return [outcome for outcome in self.outcomes if outcome.state == "failed"]

    def summary(self) -> list[str]:
        """Lines for people."""
        written = [outcome for outcome in self.outcomes if outcome.state == "written"]
        states = Counter(outcome.state for outcome in self.outcomes)
        size = sum(outcome.bytes for outcome in written)
        layouts = ", ".join(f"{count} {layout}" for layout, count in self.plan.layouts.most_common())
        lines = [f"{self.cohort}: nothing new; {states['found']} slides were there"]
        if written:
            lines = [
                f"{self.cohort}: {len(written)} slides written, {sum(o.patches for o in written):,} patches, "
                f"{_bytes(size)} in {clock(self.seconds)} ({_bytes(size / self.seconds)}/s)"
                + (f"; {states['found']} were there" if states["found"] else "")
            ]
        lines += [f"layouts: {layouts}"] if layouts else []
        lines.append(f"{self.kind}; {self.cases[0]} of {self.cases[1]} cases have slides")
        if rounding := max((outcome.rounding for outcome in written), default=0.0):
            lines.append(f"made half floats of wider ones, which moved no value by more than {rounding:.2g}")
        lines += self.plan.notes
        for reason, count in Counter(o.reason for o in self.outcomes if o.state == "skipped").items():
            lines.append(f"left out, {reason}: {count}")
        if self.failed:
            lines.append(f"left out, as something is wrong with them: {len(self.failed)}")
            lines += itemised([outcome.reason for outcome in self.failed])
        return lines


def import_features(
    source: str | Path,
    data: str | Path | Location,
    cohort: str,
    *,
    table: str | Path | None = None,
    encoder: str | None = None,
    skip_bad: bool = False,
) -> Imported:
    """Bring the patch features below `source` into DATA/COHORT/features; what is there already is not read again.

    Raises FileNotFoundError, InUse, OSError; and DataError with all that can be seen to be wrong before features are
    read: then nothing has been written. What shows only then, such as NaN, fails its slide alone.
    """
    root = Location.at(data)
    cases = case_ids(root, cohort)
    name_of = by_barcode if table is None else SlideTable.read(table)
    with locked_store(root / cohort) as features:
        index = readable_index(features)
        plan = make_plan(Path(source).expanduser().absolute(), cases, index, name_of, encoder, skip_bad)
        if plan.jobs:
            connect()
        outcomes = list(plan.outcomes)
        progress = SlideProgress(len(plan.jobs), sum(job.patches for job in plan.jobs))
        for outcome in spread(plan.jobs, features) if plan.jobs else ():
            progress.add(outcome)
            outcomes.append(outcome)
        skipped = list_skipped(features, outcomes)
        slides = record_features(root / cohort, plan.unlabelled)
    kinds = slides[["encoder", "width"]].drop_duplicates().to_numpy()
    kind = ", ".join(f"{encoder} features, {width} wide" for encoder, width in kinds) or "no slides"
    having = len(cases.intersection(slides["case_id"]))
    return Imported(cohort, features, plan, outcomes, skipped, (having, len(cases)), kind, progress.elapsed)


def spread(jobs: Sequence[Job], features: Location) -> Iterator[SlideOutcome]:
    """Do the jobs as tasks over all nodes; yields what became of each slide when its task has ended.

    A process that ends in the middle takes the slides of its task with it: those are done once more, each by itself,
    and the one that ends it again fails. Raises OSError where the store cannot be written.
    """
    waiting = {job.file: job for job in jobs}
    for tasks in (TASKS * resources()[1], len(jobs)):
        ordered = sorted(waiting.values(), key=lambda job: -job.patches)
        # dealt out like cards, so that every task gets large slides and small ones
        hands = [[asdict(job) for job in ordered[start::tasks]] for start in range(min(tasks, len(ordered)))]
        for row in _rows(hands, features):
            if row["state"] == "unwritten":
                raise OSError(row["reason"])
            waiting.pop(row.pop("path"))
            yield SlideOutcome(**row)
    for job in waiting.values():
        reason = f"{job.file}: the process that read it ended, several times. Fix: is it damaged, or too large?"
        yield SlideOutcome(job.slide_id, job.case_id, job.label, "failed", reason)


def _rows(hands: list[list[dict]], features: Location) -> Iterator[dict]:
    if not hands:
        return
    context = ray.data.DataContext.get_current().copy()
    silence()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # what a lost process was to do is left to the caller
    with ray.data.DataContext.current(context):
        tasks = ray.data.from_items([{"jobs": hand} for hand in hands], override_num_blocks=len(hands))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")  # there is no other way yet
            tasks = tasks.flat_map(_bring, fn_kwargs={"features": features}, ray_remote_args_fn=_few_retries)
        yield from tasks.iter_rows()


def _few_retries() -> dict:
    """Ray Data would start a task over for ever whose process ends, and a forged file can end it each time."""
    return {"max_retries": 1}


def _bring(row: dict, features: Location) -> list[dict]:
    rows = []
    for job in (Job(**job) for job in row["jobs"]):
        try:
            rows.append({"path": job.file, **import_slide(job, features).row()})
        except OSError as error:
            reason = f"{features}: cannot be written ({error})."
            return [{"path": job.file, **SlideOutcome(job.slide_id, job.case_id, job.label, "unwritten", reason).row()}]
    return rows


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
