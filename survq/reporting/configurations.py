"""Settings in which runs differ: short labels of runs, and the index of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from survq.training.record import Record
from survq.training.run import Run


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names with more than one value among the settings that have them, in order of appearance."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({repr(one[name]) for one in settings if name in one}) > 1]


def short_labels(runs: Iterable[Run]) -> Callable[[str], str]:
    """A label for each path: cohort, group, model, and the settings that differ among runs of one model."""
    runs = list(runs)
    places = {
        run.path: {"cohort": run.cohort, "group": run.group.replace("/", " "), "model": run.model} for run in runs
    }
    plain = differing(list(places.values()))
    models = dict.fromkeys(run.model for run in runs)
    by_model = [differing([run.settings for run in runs if run.model == model]) for model in models]
    named = list(dict.fromkeys(name for names in by_model for name in names))

    def label(run: Run) -> str:
        parts = [places[run.path][name] for name in plain]
        parts += [f"{name} {brief(run.settings[name])}" for name in named if name in run.settings]
        return " ".join(filter(None, parts)) or f"{run.cohort} {run.model}"

    labels = {run.path: label(run) for run in runs}
    return lambda path: labels.get(path, path)


def brief(value: object) -> str:
    """A setting as printed: floats with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def index_table(records: Sequence[Record], runs: Path) -> pd.DataFrame:
    """A row per run: path below `runs`, cohort, group, model, seed, state, C-index, and the settings that differ."""
    varying = [name for name in differing([record.settings for record in records]) if name not in ("model", "seed")]
    rows = []
    for record in records:
        measured = record.report.c_index
        rows.append(
            {"path": record.folder.relative_to(runs).as_posix(), "cohort": record.cohort, "group": record.group}
            | {"model": record.model, "seed": record.training["seed"], "state": record.state}
            | {name: getattr(measured, name, None) for name in ("mean", "deviation", "low", "high")}
            | {name: record.settings.get(name) for name in varying}
        )
    return pd.DataFrame(rows).rename(columns={"mean": "c_index"})
