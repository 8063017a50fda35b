"""The fusion audit of all methods of a study: which of them read both modalities, and against what they are audited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from survq.evaluation.concordance import fold_concordance
from survq.evaluation.fusion_audit import KEYS, FusionAudit, fusion_audit
from survq.evaluation.late_fusion import late_fusion, weight_curve
from survq.evaluation.significance import Interval, bootstrap_difference
from survq.models import MODELS
from survq.reporting.figures import BLUE, VERMILION
from survq.reporting.methods import Method
from survq.reporting.report_figures import literal

HISTOLOGY, GENES = "histology", "genomics"
SMALL_P = 0.05


@dataclass(frozen=True)
class Audited:
    """A fused method of a cohort, the unimodal methods beside it, and what the audit found."""

    method: Method
    histology: Method
    genes: Method
    c_index: float
    late_fusion: float  # C-index; its weight was chosen on the other folds
    difference: Interval  # of the C-index from that of late fusion
    audit: FusionAudit

    @property
    def verdict(self) -> str:
        p = {found.question: found.p_value for found in self.audit.dependence}
        said = [f"nothing of {name} beyond the other" for name in ("histology", "genes") if p[name] >= SMALL_P]
        said += ["an interaction"] if p["interaction"] < SMALL_P else []
        low, high = self.difference.low, self.difference.high
        said.append(f"{'above' if low > 0 else 'below' if high < 0 else 'not distinct from'} late fusion")
        return ", ".join(said)


def audited(methods: Sequence[Method]) -> list[Audited]:
    """The audits of the methods of one cohort that read both modalities; none without a method of each modality alone.

    A fused method is audited against the unimodal methods of the same folds with the highest C-index. This choice is
    optimistic for them, and therefore strict with the fused method.
    """
    found = []
    for method in methods:
        if not is_fused(method):
            continue
        same = [other for other in methods if keys(other) == keys(method)]
        alone = [[other for other in same if reads(other) == {modality}] for modality in (HISTOLOGY, GENES)]
        if not all(alone) or method.held_out.predictions["fold"].nunique() < 2:
            continue
        histology, genes = (max(group, key=c_index) for group in alone)
        fused, h, g = (one.held_out.predictions for one in (method, histology, genes))
        baseline, _ = late_fusion({histology.title: h}, {genes.title: g})
        found.append(
            Audited(
                method=method,
                histology=histology,
                genes=genes,
                c_index=c_index(method),
                late_fusion=float(fold_concordance(baseline)["c_index"].mean()),
                difference=bootstrap_difference(fused, baseline),
                audit=fusion_audit(fused, h, g),
            )
        )
    return found


def is_fused(method: Method) -> bool:
    return reads(method) >= {HISTOLOGY, GENES}


def reads(method: Method) -> frozenset[str]:
    """The modalities of a method's model; none for a model that this survq does not have."""
    kind = MODELS.get(method.records[0].model)
    return kind.reads if kind else frozenset()


def keys(method: Method) -> frozenset[tuple[int, int, str]]:
    return frozenset(method.held_out.predictions[KEYS].itertuples(index=False, name=None))


def c_index(method: Method) -> float:
    return float(fold_concordance(method.held_out.predictions)["c_index"].mean())


def audit_table(audits: Sequence[Audited]) -> pd.DataFrame:
    """A row per fused method: its C-index, that of late fusion, and the partial correlations with their p values."""
    rows = []
    for one in audits:
        row = named(one) | {"histology": one.histology.title, "genes": one.genes.title, "c_index": one.c_index}
        row |= {"late_fusion": one.late_fusion} | interval("minus_late_fusion", one.difference)
        for found in one.audit.dependence:
            row |= interval(f"{found.question}_correlation", found.correlation) | {f"{found.question}_p": found.p_value}
        rows.append(row | {"verdict": one.verdict})
    return pd.DataFrame(rows)


def pairs_table(audits: Sequence[Audited]) -> pd.DataFrame:
    """A row per fused method and kind of pairs: its share of all pairs, and how many the fused model ranks rightly."""
    return pd.DataFrame(
        [
            named(one)
            | {"pairs_right_by": pair.kind}
            | interval("share", pair.share)
            | interval("fused_right", pair.right)
            | {"null_low": pair.null_low, "null_high": pair.null_high}
            for one in audits
            for pair in one.audit.pairs
        ]
    )


def named(one: Audited) -> dict[str, str | int]:
    return {"cohort": one.method.cohort, "method": one.method.name, "seed": one.method.seed}


def interval(name: str, value: Interval) -> dict[str, float]:
    return {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}


def fusion_figure(audits: Sequence[Audited], title: str) -> Figure:
    """Left: the late-fusion weight curve of the first audit, and the C-index of each fused method. Right: which pairs
    each fused method ranks rightly, by what the unimodal models do.
    """
    figure = Figure(figsize=(10, 2.6 + 0.34 * len(audits)), layout="constrained")
    figure.suptitle(literal(title))
    curve_axes, pairs_axes = figure.subplots(1, 2)
    first = audits[0]
    curve = weight_curve(first.histology.held_out.predictions, first.genes.held_out.predictions)
    curve_axes.plot(curve["weight"], curve["c_index"], "o-", color=BLUE, label="weighted mean of the two alone")
    for number, one in enumerate(audits):
        label = "fused models" if number == 0 else None
        curve_axes.axhline(one.c_index, color=VERMILION, linewidth=1, alpha=0.7, label=label)
    curve_axes.set(
        xlabel=literal(f"weight of histology ({first.histology.title}) beside genes ({first.genes.title})"),
        ylabel="C-index, mean over folds",
    )
    curve_axes.legend(frameon=False, fontsize="small")
    for number, (kind, colour) in enumerate(zip(first.audit.pairs, ("0.55", BLUE, "#009E73", VERMILION), strict=True)):
        for y, one in enumerate(audits):
            pair = one.audit.pairs[number]
            height = y + 0.17 * (number - 1.5)
            label = f"{kind.kind} right ({kind.share.estimate:.0%} of pairs)" if y == 0 else None
            pairs_axes.plot([pair.right.low, pair.right.high], [height] * 2, color=colour, linewidth=1.6)
            pairs_axes.plot(pair.right.estimate, height, "o", color=colour, markersize=4, label=label)
    pairs_axes.axvline(0.5, color="0.8", linewidth=0.9, zorder=0)
    pairs_axes.set_yticks(range(len(audits)), [literal(one.method.title) for one in audits])
    pairs_axes.set(
        xlabel="share that the fused model ranks rightly", ylim=(len(audits) - 0.4, -0.6), xlim=(-0.02, 1.02)
    )
    figure.legend(*pairs_axes.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    for axes in (curve_axes, pairs_axes):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
