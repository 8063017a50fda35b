"""All metrics of held-out predictions: each against its own function, fold by fold; and what cannot be computed."""

import math

import numpy as np
import pandas as pd
import pytest
from held_out_table import EDGES, predictions

from survq.evaluation.brier import gain, integrated_brier_score
from survq.evaluation.calibration_by_risk import calibration_by_risk, risk_thirds
from survq.evaluation.censoring import censoring_survival, kaplan_meier
from survq.evaluation.dynamic_auc import dynamic_auc
from survq.evaluation.held_out import GRID, METRICS, NO_HAZARDS, NO_TRAINING, HeldOut, held_out_metrics
from survq.evaluation.measure import measure
from survq.evaluation.predicted_survival import hazards_of, stepwise_survival, survival_at_edges
from survq.evaluation.uno import uno_concordance


def method(table: pd.DataFrame) -> HeldOut:
    places = table[["repeat", "fold"]].drop_duplicates().itertuples(index=False)
    return HeldOut(table, {(repeat, fold): EDGES for repeat, fold in places})


def metrics(table: pd.DataFrame) -> pd.DataFrame:
    return held_out_metrics(method(table)).set_index("metric")


def test_metrics_are_those_of_their_functions_averaged_over_folds():
    table = predictions()
    found, at = metrics(table), table.loc[table["event"], "time"].median()
    by_fold = []
    for fold, cases in table.groupby("fold"):
        training = table[table["fold"] != fold]
        seen = training["time"].to_numpy(), training["event"].to_numpy()
        risk, time, event = (cases[name].to_numpy() for name in ("risk", "time", "event"))
        G, tau = censoring_survival(*seen), float(np.quantile(seen[0], 0.8))
        grid = np.linspace(0, tau, GRID + 1)[1:]
        ibs = []
        for at_edges in (
            survival_at_edges(hazards_of(cases)),
            np.tile(kaplan_meier(*seen).at(np.array(EDGES)), (len(cases), 1)),
        ):
            survival = stepwise_survival(at_edges, np.array(EDGES), grid)
            ibs.append(integrated_brier_score(survival, time, event, G, grid))
        by_fold.append((uno_concordance(risk, time, event, G, tau), dynamic_auc(risk, time, event, G, at), *ibs))
    uno, auc, ibs, reference = (np.mean([score.value for score in scores]) for scores in zip(*by_fold, strict=True))
    expected = {"uno_c": uno, "auc": auc, "ibs": ibs, "ibs_gain": 1 - ibs / reference}
    assert {name: found.loc[name, "value"] for name in expected} == pytest.approx(expected, abs=1e-12)
    measured = measure(table)
    c_index = found.loc["c_index"]
    assert (c_index["value"], c_index["low"], c_index["high"]) == pytest.approx(
        (measured.mean, measured.low, measured.high)
    )
    assert gain(by_fold[0][2], by_fold[0][3]).value > 0, "true hazards beat Kaplan-Meier"
    assert list(found.index) == list(METRICS) and (found["reason"] == "").all() and (found["folds"] == 3).all()
    assert found.loc["months_gained", "low"] > 0
    assert found.loc[["d_calibration_p", "one_calibration_p"], "value"].min() > 0.01


def test_a_case_of_several_repeats_is_one_case():
    """Of calibration: hazards that do not depend on the fold have the same calibration in one repeat and in three."""
    once, thrice = metrics(predictions()), metrics(predictions(repeats=3))
    pooled = [name for name in METRICS if "calibration" in name]
    assert once.loc[pooled, "value"].to_numpy() == pytest.approx(thrice.loc[pooled, "value"].to_numpy())


def test_sharpened_hazards_lose_calibration_but_not_their_ranks():
    table, sharp = predictions(400), predictions(400)
    columns = [f"hazard_{k}" for k in range(4)]
    rate = -np.log(1 - sharp[columns])
    sharp[columns] = 1 - np.exp(-rate * (rate[["hazard_0"]].to_numpy() / 0.25) ** 1.5)
    true, found = metrics(table), metrics(sharp)
    assert found.loc["c_index", "value"] == true.loc["c_index", "value"]
    assert found.loc["d_calibration_p", "value"] < 1e-6 < true.loc["d_calibration_p", "value"]
    assert found.loc["ibs_gain", "value"] < true.loc["ibs_gain", "value"]
    assert found.loc["calibration_high", "high"] < 0 < found.loc["calibration_low", "low"]


def test_what_cannot_be_computed_is_nan_with_a_reason():
    table = predictions(60)
    bare = metrics(table.drop(columns=[f"hazard_{k}" for k in range(4)]))
    assert bare.loc["ibs", "reason"] == bare.loc["d_calibration_p", "reason"] == NO_HAZARDS
    assert bare.loc["uno_c", "value"] > 0.5 and math.isnan(bare.loc["ibs_gain", "value"])
    alone = metrics(table[table["fold"] == 0])
    assert alone.loc["uno_c", "reason"] == NO_TRAINING and math.isnan(alone.loc["uno_c", "value"])
    assert alone.loc["c_index", "value"] > 0.5
    silent = metrics(table.assign(event=False))
    assert silent["value"].drop("ibs").isna().all() and (silent["reason"].drop("ibs") != "").all()
    # one fold without events is left out, and said so
    some = metrics(table.assign(event=table["event"] & (table["fold"] != 1)))
    assert some.loc["c_index", "folds"] == 2 and some.loc["c_index", "reason"] == "no events"


def test_thirds_by_hand():
    survival, time = np.array([0.9, 0.1, 0.5, 0.8, 0.2, 0.6]), np.array([9.0, 1, 9, 1, 9, 1])
    assert risk_thirds(survival).tolist() == [0, 2, 1, 0, 2, 1]
    low, middle, high = calibration_by_risk(survival, time, np.array([True, True, False, False, True, True]), 5.0)
    assert (low.third, low.cases, low.predicted, low.observed) == ("low", 2, pytest.approx(0.85), 1.0)
    assert (high.predicted, high.observed) == (pytest.approx(0.15), 0.5)
    assert middle.low == 0 and middle.high == 1, "cut at 0 and 1"
    late = calibration_by_risk(survival, time, np.zeros(6, bool), 20.0)[0]
    assert math.isnan(late.observed) and late.reason == "no case was observed until this time"
    assert calibration_by_risk(survival[:1], time[:1], np.ones(1, bool), 5.0)[2].reason == "fewer than three cases"
