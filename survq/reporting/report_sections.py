"""The sections of the report of a study. Each function takes the material, and returns nothing if there is none."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from survq.evaluation.held_out import METRICS
from survq.evaluation.kaplan_meier import LOG_RANK_CAVEAT
from survq.reporting.document import Block, Details, Grid, Heading, Items, Paragraph, Picture
from survq.reporting.figures import learning_curves_figure, survival_figure
from survq.reporting.methods import TRIAL, Method
from survq.reporting.report_figures import calibration_figure, folds_figure, literal
from survq.reporting.report_material import Material
from survq.reporting.saved import saved_grid
from survq.reporting.tripod import KNOWN, QUESTIONS
from survq.text import clock

SHOWN_METHODS, DRAWN_METHODS = 40, 2  # per cohort: in tables and the fold figure, and with figures of their own
SHOWN_ROWS, SHOWN_FIGURES = 60, 12
OWN_FIGURES = ("kaplan_meier_",)  # names of figures of studies that the report draws itself
ABSENT = "–"
EXPLAINED = {
    "fusion_shuffled": "Each held-out case gets the slides, or the genes, of another case of its fold. Drop: what the "
    "C-index loses; p by permutation. A rank agreement of 1 means that the model does not read the modality.",
    "fusion_audit": "Beside the best models of one modality: C-index minus that of their weighted mean, and partial "
    "correlations of the fused risk with each of theirs. Correlation is not use: see Fusion shuffled.",
    "fusion_pairs": "Pairs of cases by which models of one modality rank them rightly: the share of each kind, and how "
    "many of it the fused model ranks rightly; null: 95 % of permutations of its risks.",
    "importance": "How much each setting mattered in a search, by Optuna's PED-ANOVA; they sum to 1.",
    "trials_nested": "Scores of trials are on inner folds, of selection, and no result.",
}
"""What tables of studies mean, where the table itself does not say it."""


def missing(material: Material) -> list[Block]:
    if not material.incomplete:
        return []
    rows = [[label, f"{done} of {planned}"] for label, done, planned in material.incomplete]
    done, planned = (sum(numbers) for numbers in list(zip(*material.incomplete, strict=True))[1:])
    text = (
        f"{planned - done} runs have no result: the study was stopped, is still running, or they failed. All numbers "
        "below are of the other runs. The same command continues the study."
    )
    if any(file.name != "metrics.csv" for file in (material.results.folder / "tables").glob("*")):
        text += " The section What the study found is of its last end."
    return [Paragraph(text), Grid(["runs", "ended"], rows[:SHOWN_ROWS])]


def asked(material: Material) -> list[Block]:
    protocol = material.about.get("protocol")
    given = {name: value for name, value in material.settings.items() if value not in (None, [], False)}
    rows = [[name.replace("_", " "), without_secrets(_value(value))] for name, value in given.items()]
    blocks: list[Block] = [Paragraph(f"Protocol: {protocol}." if protocol else "The protocol is not on disk.")]
    blocks.append(
        Paragraph(
            "Every case is predicted by models that did not train on it. The C-index of each fold is computed on its "
            "own cases and averaged; intervals resample patients within folds."
        )
    )
    if not rows:
        return blocks
    return [*blocks, Grid(["setting", "value"], rows, "Settings that are off or empty are not listed.")]


def cohorts(material: Material) -> list[Block]:
    known, rows, excluded = material.about.get("cohorts", {}), [], []
    for cohort in material.cohorts:
        methods = material.of(cohort)
        counts, folds = known.get(cohort, {}), ABSENT
        if methods:
            table = methods[0].held_out.predictions
            by_fold = table.groupby(["repeat", "fold"])["event"].sum()
            folds = f"{len(by_fold)} with {by_fold.min()} to {by_fold.max()} events"
            follow_up = f"{methods[0].held_out.outcomes['time'].median():.1f}"
            outcomes = methods[0].held_out.outcomes
            evaluated = f"{len(outcomes)} / {int(outcomes['event'].sum())}"
        else:
            follow_up = evaluated = ABSENT
        loaded = f"{counts['cases']} / {counts['events']}" if counts else ABSENT
        rows.append([cohort, loaded, evaluated, follow_up, folds])
        for reason, count in counts.get("excluded", {}).items():
            excluded.append([cohort, reason, str(count)])
        for model, reason in counts.get("not_applicable", {}).items():
            excluded.append([cohort, f"{model} is not applicable: {reason}", ABSENT])
    header = ["cohort", "cases / events in the data", "held-out cases / events", "median months observed", "folds"]
    blocks: list[Block] = [Grid(header, rows)]
    if excluded:
        blocks.append(Grid(["cohort", "excluded", "cases"], excluded))
    elif not known:
        blocks.append(Paragraph("Exclusions are not on disk: this study ran with an older survq."))
    return blocks


def estimates(material: Material) -> list[Block]:
    blocks: list[Block] = []
    for number, cohort in enumerate(material.cohorts):
        methods = material.of(cohort)
        if not methods:
            continue
        shown = methods[:SHOWN_METHODS]
        columns = {
            "c_index": "C-index",
            "uno_c": "Uno's C",
            "auc": "AUC",
            "ibs": "Brier",
            "ibs_gain": "gain over\nKaplan-Meier",
            "months_gained": "months\ngained",
        }
        rows = [[method.title, *(_estimate(material.metric(method, name)) for name in columns)] for method in shown]
        caption = _caption(material, shown, columns)
        if len(methods) > len(shown):
            caption += f" {len(shown)} of {len(methods)} methods are shown; tables/metrics.csv has all."
        blocks += [Heading(cohort), Grid(["method", *columns.values()], rows, caption)]
        metrics = pd.DataFrame([material.metric(method, "c_index") for method in shown])
        figure = folds_figure(
            [(method.title, method.held_out) for method in shown], metrics, f"C-index by fold, {literal(cohort)}"
        )
        blocks.append(
            Picture.of(
                f"folds-{number}", figure, f"{cohort}: C-index of every fold; larger dots have more comparable pairs."
            )
        )
    states = Counter(record.state for record in material.records)
    unfinished = [record for record in material.records if record.state == "diverged"]
    if unfinished:
        lines = [f"{record.folder.name}: {record.state}, {record.report.reason}" for record in unfinished]
        blocks.append(Details(f"{len(unfinished)} runs diverged", [Items(lines[:SHOWN_ROWS])]))
    if states["stopped"]:
        blocks.append(Paragraph(f"{states['stopped']} trials of searches were stopped early."))
    if not material.methods:
        blocks.append(Paragraph("No run with held-out predictions has finished."))
    return blocks


def _caption(material: Material, methods: Sequence[Method], names: Mapping[str, str]) -> str:
    reasons = {
        f"{METRICS[name]}: {metric['reason']}"
        for method in methods
        for name in names
        if (metric := material.metric(method, name))["reason"]
    }
    labels = {name: " ".join(label.split()) for name, label in names.items() if name != "c_index"}
    what = "; ".join(
        METRICS[name] if METRICS[name].startswith(label) else f"{label}: {METRICS[name]}"
        for name, label in labels.items()
    )
    text = f"Estimate and 95 % interval. {what}."
    return f"{text} Undefined, in all or in some folds: {'; '.join(sorted(reasons))}." if reasons else text


def findings(material: Material) -> list[Block]:
    blocks: list[Block] = []
    tables = material.results.folder / "tables"
    stems = {path.stem for path in tables.glob("*.*")} - {"metrics"} if tables.is_dir() else set()
    for stem in sorted(stems, key=lambda stem: (not (tables / f"{stem}.md").is_file(), stem)):
        grid = saved_grid(tables / stem, SHOWN_ROWS)
        if grid is not None:
            caption = " ".join(filter(None, [EXPLAINED.get(stem), grid.caption]))
            blocks += [Heading(_sentence(stem)), replace(grid, caption=caption)]
    figures = sorted((material.results.folder / "figures").glob("*.png"))
    figures = [file for file in figures if not file.stem.startswith(OWN_FIGURES)]
    for number, file in enumerate(figures[:SHOWN_FIGURES]):
        blocks.append(Picture(f"study-{number}", file.read_bytes(), _sentence(file.stem)))
    if len(figures) > SHOWN_FIGURES:
        blocks.append(Paragraph(f"{len(figures) - SHOWN_FIGURES} more figures are in the folder figures."))
    return blocks


def _drawn(material: Material) -> list[tuple[str, Method]]:
    """The methods with figures of their own, and a name for their files."""
    return [
        (f"{number}-{place}", method)
        for number, cohort in enumerate(material.cohorts)
        for place, method in enumerate(material.of(cohort)[:DRAWN_METHODS])
    ]


def survival(material: Material) -> list[Block]:
    blocks: list[Block] = [
        Picture.of(
            f"survival-{name}",
            survival_figure(method.held_out.groups, literal(f"{method.cohort}, {method.title}")),
            f"{method.cohort}, {method.title}: Kaplan-Meier of cases above and below {method.held_out.cut}.",
        )
        for name, method in _drawn(material)
    ]
    chosen = "The first methods of each cohort are drawn, whatever their result."
    return [*blocks, Paragraph(f"{LOG_RANK_CAVEAT} {chosen}")] if blocks else []


def calibration(material: Material) -> list[Block]:
    columns = {
        "d_calibration_p": "D-calibration p",
        "one_calibration_p": "1-calibration p",
        "calibration_low": "low risk",
        "calibration_middle": "middle",
        "calibration_high": "high risk",
    }
    blocks: list[Block] = []
    for cohort in material.cohorts:
        shown = material.of(cohort)[:SHOWN_METHODS]
        if shown:
            rows = [[m.title, *(_estimate(material.metric(m, name)) for name in columns)] for m in shown]
            blocks += [Heading(cohort), Grid(["method", *columns.values()], rows, _caption(material, shown, columns))]
    for name, method in _drawn(material):
        if method.held_out.has_hazards and not math.isnan(method.held_out.median_event_time):
            figure = calibration_figure(method.held_out, literal(f"{method.cohort}, {method.title}"))
            caption = (
                f"{method.cohort}, {method.title}: observed and predicted survival of each third by predicted risk."
            )
            blocks.append(Picture.of(f"calibration-{name}", figure, caption))
    text = "A small p means that predicted survival is not what happened, even where cases are ranked well."
    return [Paragraph(text), *blocks] if blocks else []


def curves(material: Material) -> list[Block]:
    found: list[Block] = []
    for name, method in _drawn(material):
        record = method.records[0]
        if len(record.epochs) > 1:
            title = f"{method.cohort}, {method.title}"
            figure = learning_curves_figure(record.epochs, literal(title))
            found.append(
                Picture.of(f"learning-{name}", figure, f"{title}: losses and C-index by epoch, a line per fold.")
            )
    return found


def search(material: Material) -> list[Block]:
    searches: dict[tuple[str, str], Counter[str]] = {}
    for record in material.records:
        search, _, trial = record.group.partition("/")
        if trial.startswith(TRIAL):
            searches.setdefault((record.cohort, search), Counter())[record.state] += 1
    if not searches:
        return []
    rows = [
        [cohort, name, str(sum(n.values())), str(n["finished"]), str(n["stopped"]), str(n["diverged"])]
        for (cohort, name), n in searches.items()
    ]
    text = (
        "Trials select a setting and an epoch; their scores are optimistic and no result. The setting that each search "
        "chose is trained on all training cases of its outer fold and evaluated there once."
    )
    return [Paragraph(text), Grid(["cohort", "search", "trials", "finished", "stopped early", "diverged"], rows)]


def provenance(material: Material) -> list[Block]:
    records = material.records
    if not records:
        return []
    reports = [record.report for record in records]
    machines = Counter(
        f"{report.device or 'unknown'}, {report.precision or 'unknown'}, {report.parts} process(es)"
        for report in reports
    )
    versions = Counter(f"{name} {version}" for report in reports for name, version in report.versions.items())
    seconds = sum(report.seconds for report in reports if not math.isnan(report.seconds))
    seeds = sorted({int(record.training["seed"]) for record in records})
    lines = [
        f"Machines: {'; '.join(f'{name} ({count} runs)' for name, count in machines.items())}.",
        f"Versions: {', '.join(f'{name} ({count} runs)' for name, count in sorted(versions.items())) or 'unknown'}.",
        f"Seeds: {', '.join(map(str, seeds))}. Training took {clock(seconds)} in all.",
    ]
    shown = [record for method in material.methods for record in method.records][:SHOWN_ROWS]
    rows = [
        [
            record.folder.relative_to(material.results.runs).as_posix(),
            f"{record.report.parameters:,}",
            str(record.training["seed"]),
            _digest(record.config.get("folds")),
            _digest(record.config.get("data")),
            _digest(record.config.get("code")),
        ]
        for record in shown
    ]
    header = ["run", "parameters", "seed", "folds", "data", "code"]
    note = "First digits of SHA-256. config.json of each run has them in full, by part of the cohort and of the code."
    hashes = Details(f"Hashes of {len(rows)} of {len(records)} runs", [Grid(header, rows, note)])
    return [Items(lines), hashes]


def checklist() -> list[Block]:
    text = (
        "Items of TRIPOD+AI (Collins et al., BMJ 2024), in our words. The first table is answered by this report; "
        "the second has the questions that only authors can answer."
    )
    known = Grid(["item", "topic", "where"], KNOWN)
    return [Paragraph(text), known, Grid(["item", "topic", "question"], QUESTIONS)]


def without_secrets(address: object) -> str:
    """An address without the user, password and options that a URI may hold."""
    return re.sub(r"://[^/@]*@", "://", str(address)).split("?", 1)[0] if "://" in str(address) else str(address)


def _estimate(metric: pd.Series) -> str:
    value = metric["value"]
    if math.isnan(value):
        return ABSENT
    if metric.name[-1].endswith("_p"):
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    digits = 1 if metric.name[-1] == "months_gained" else 3
    known = "" if math.isnan(metric["low"]) else f"\n[{metric['low']:z.{digits}f}, {metric['high']:z.{digits}f}]"
    return f"{value:z.{digits}f}{known}"


def _sentence(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _digest(part: object) -> str:
    if isinstance(part, Mapping) and isinstance(part.get("sha256"), str):
        return part["sha256"][:12]
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:12] if part else ABSENT
