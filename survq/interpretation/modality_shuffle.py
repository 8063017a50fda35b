"""The risks that the kept models of a run give to held-out cases with the slides, or the genes, of other cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from survq.data.batch import CaseTable
from survq.data.cohort import Cohort
from survq.data.streams import generator
from survq.evaluation.modality_shuffle import donors
from survq.interpretation.held_out import bag_of
from survq.text import preview
from survq.training.ensemble import load_run
from survq.training.fold import FittedFold
from survq.training.identity import data_of
from survq.training.loop import best_device
from survq.training.record import Record

MODALITIES = ("histology", "genomics")
TOLERANCE = 0.05  # of a risk that is predicted again: other machines round differently
Shuffled = dict[str, Float[np.ndarray, "shuffle row"]]


class CannotShuffle(ValueError):
    """Why cases cannot be shuffled, in a sentence without ids."""


@dataclass(frozen=True, eq=False)
class ShuffledRisks:
    """Held-out predictions of kept models, with the own modalities and with those of other cases."""

    own: pd.DataFrame  # case_id, repeat, fold, time, event, risk
    shuffled: Shuffled  # by modality: the risks of the same rows


def shuffled_risks(records: Sequence[Record], cohort: Cohort, *, shuffles: int = 10, seed: int = 0) -> ShuffledRisks:
    """Predict the held-out cases of these runs, whose folds differ, by the model of the fold that held them out.

    Cases are shuffled within their fold. A case without the modality gets none, and gives none.

    Raises CannotShuffle if the data are not those of the runs, if the weights do not give their risks, or if a fold has
    too few cases; DataError or FileNotFoundError if weights or data cannot be read.
    """
    parts = []
    for record in records:
        _refuse_other_data(record, cohort)
        parts += [_of_fold(fold, record, cohort, shuffles, seed) for fold in load_run(record.folder)[1]]
    return ShuffledRisks(
        pd.concat([part.own for part in parts], ignore_index=True),
        {modality: np.hstack([part.shuffled[modality] for part in parts]) for modality in MODALITIES},
    )


def _refuse_other_data(record: Record, cohort: Cohort) -> None:
    used, now = record.config["data"], data_of(record.model, cohort.parts)
    if changed := [part for part in {*used, *now} if used.get(part) != now.get(part)]:
        raise CannotShuffle(f"the data have changed since the run: {preview(sorted(changed), 9)}")


def _of_fold(fold: FittedFold, record: Record, cohort: Cohort, shuffles: int, seed: int) -> ShuffledRisks:
    predictions = record.predictions
    assert predictions is not None
    mine = (predictions["repeat"] == fold.repeat) & (predictions["fold"] == fold.index)
    own = predictions.loc[mine, ["case_id", "repeat", "fold", "time", "event", "risk"]].sort_values("case_id")
    cases, device = list(own["case_id"]), best_device()
    fold.model.to(device)
    table = fold.preprocessing.table(cohort).to(device)
    bags = {case: bag_of(cohort, case) for case in cases if case in cohort.slides_by_case}

    def risks(table: CaseTable, bags: dict[str, torch.Tensor]) -> Float[np.ndarray, " case"]:
        return fold.predict_cases(table, bags, cases)["risk"].to_numpy(float)

    again = risks(table, bags)
    if not np.abs(again - own["risk"].to_numpy(float)).max() <= TOLERANCE:
        raise CannotShuffle(f"the kept model of fold {fold.index} gives other risks than those of the run")
    measured = [case for case in cases if table.has_expression[table.row[case]]]
    having = {"histology": [case for case in cases if case in bags], "genomics": measured}
    shuffled: Shuffled = {}
    for modality in MODALITIES:
        if len(having[modality]) < 2:
            raise CannotShuffle(f"fewer than two held-out cases of fold {fold.index} have {modality}")
        random = generator(seed, "modality shuffle", modality, fold.repeat, fold.index)
        rows = []
        for donor in donors(len(having[modality]), shuffles, random):
            given = {case: having[modality][place] for case, place in zip(having[modality], donor, strict=True)}
            if modality == "histology":
                rows.append(risks(table, {case: bags[giver] for case, giver in given.items()}))
            else:
                rows.append(risks(_with_genes_of(table, given), bags))
        shuffled[modality] = np.array(rows)
    fold.model.to("cpu")
    return ShuffledRisks(own.assign(risk=again), shuffled)


def _with_genes_of(table: CaseTable, given: dict[str, str]) -> CaseTable:
    rows = np.arange(len(table.row))
    rows[[table.row[case] for case in given]] = [table.row[giver] for giver in given.values()]
    return replace(table, expression=table.expression[torch.from_numpy(rows).to(table.expression.device)])
