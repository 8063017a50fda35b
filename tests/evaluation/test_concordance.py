import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.metrics import concordance_index_censored

from survq.evaluation.concordance import (
    comparable_pairs,
    concordance_index,
    fold_concordance,
    summarise,
    undefined_concordance,
)

# time, event, risk, C-index; computed with lifelines and scikit-survival, which agree on all but H
GOLDEN = {
    "A all in order": ([2, 4, 6, 8, 10], [1, 1, 1, 1, 1], [5, 4, 3, 2, 1], 1.0),
    "B one pair wrong": ([2, 4, 6, 8, 10], [1, 1, 1, 1, 1], [5, 3, 4, 2, 1], 0.9),
    "C censored": ([1, 3, 5, 7, 9], [0, 1, 0, 1, 1], [0.9, 0.8, 0.3, 0.5, 0.1], 1.0),
    "D tied risks": ([1, 2, 3, 4], [1, 1, 1, 1], [0.5, 0.5, 0.2, 0.2], 0.83333333),
    "E two deaths at once": ([3, 3, 5, 6], [1, 1, 1, 0], [0.9, 0.1, 0.4, 0.2], 0.6),
    "F death and censoring at once": ([3, 3, 5, 6], [1, 0, 1, 0], [0.1, 0.9, 0.4, 0.2], 0.25),
    "G the same, tied risks": ([3, 3, 5], [1, 0, 1], [0.5, 0.5, 0.1], 0.75),
    "H risks nearly tied": ([1, 2, 3], [1, 1, 1], [0.5, 0.500000005, 0.1], 0.66666667),
    "I constant risk": ([1, 2, 3, 4], [1, 0, 1, 0], [0, 0, 0, 0], 0.5),
    "J everything tied": (
        [2, 2, 2, 4, 4, 5, 7],
        [1, 0, 1, 0, 1, 1, 0],
        [0.7, 0.7, 0.2, 0.9, 0.4, 0.4, 0.1],
        0.5,
    ),
}


def arrays(risk, time, event):
    return np.array(risk, float), np.array(time, float), np.array(event, bool)


@pytest.mark.parametrize(("time", "event", "risk", "expected"), GOLDEN.values(), ids=GOLDEN)
def test_reference_values(time, event, risk, expected):
    assert concordance_index(*arrays(risk, time, event)) == pytest.approx(expected, abs=1e-8)


def test_the_higher_risk_is_expected_to_die_first():
    assert concordance_index(*arrays([1, 2], [10, 1], [1, 1])) == 1.0
    assert concordance_index(*arrays([2, 1], [10, 1], [1, 1])) == 0.0


@st.composite
def cohorts(draw, tied_risks=True):
    """Small cohorts with many ties in time and by default also in risk, and at least one comparable pair."""
    n = draw(st.integers(2, 20))
    risk = draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n) if tied_risks else st.permutations(range(n)))
    time = draw(st.lists(st.integers(1, 8), min_size=n, max_size=n))
    event = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    time[0], event[0], time[1] = 1, True, 9
    return arrays(risk, time, event)


def naive_concordance(risk, time, event):
    """Harrell's definition, computed pair by pair."""
    won = pairs = 0.0
    for i in range(len(risk)):
        for j in range(len(risk)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                won += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return won / pairs


@given(cohorts())
def test_equals_the_definition(cases):
    assert concordance_index(*cases) == pytest.approx(naive_concordance(*cases), abs=1e-12)


@given(cohorts())
def test_equals_scikit_survival(cases):
    risk, time, event = cases
    concordance, concordant, discordant, tied_risk, _ = concordance_index_censored(event, time, risk)
    assert concordance_index(risk, time, event) == pytest.approx(concordance, abs=1e-12)
    assert comparable_pairs(time, event).sum() == concordant + discordant + tied_risk


@given(cohorts())
def test_only_the_order_of_the_risks_matters(cases):
    risk, time, event = cases
    expected = concordance_index(risk, time, event)
    for transform in (lambda r: 3 * r + 1, lambda r: np.exp(r / 2), np.arctan, lambda r: r.astype(np.float32)):
        assert concordance_index(transform(risk), time, event) == expected


@given(cohorts(tied_risks=False))
def test_the_opposite_risk_has_the_complement(cases):
    risk, time, event = cases
    assert concordance_index(-risk, time, event) == pytest.approx(1 - concordance_index(risk, time, event), abs=1e-12)


@given(cohorts(), st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(cases, random):
    shuffled = list(range(len(cases[0])))
    random.shuffle(shuffled)
    assert concordance_index(*(values[shuffled] for values in cases)) == concordance_index(*cases)


@given(cohorts(), st.floats(-1e6, 1e6))
def test_a_constant_risk_has_a_c_index_of_one_half(cases, constant):
    _, time, event = cases
    assert concordance_index(np.full(len(time), constant), time, event) == 0.5


@pytest.mark.parametrize(
    ("time", "event", "reason"),
    [
        ([1, 2, 3], [0, 0, 0], "no events"),
        ([3, 3], [1, 1], "no comparable pair"),
        ([1, 2, 3], [0, 0, 1], "no comparable pair"),
        ([1], [1], "no comparable pair"),
        ([], [], "no events"),
    ],
)
def test_undefined_is_nan_with_a_reason(time, event, reason):
    risk, time, event = arrays(range(len(time)), time, event)
    assert np.isnan(concordance_index(risk, time, event))
    assert undefined_concordance(time, event) == reason


def test_a_defined_c_index_has_no_reason():
    assert undefined_concordance(*arrays([], [1, 2], [1, 0])[1:]) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_risks_of_a_diverged_model_are_refused(bad):
    with pytest.raises(ValueError, match="1 of 3 risks are not finite: the model has diverged"):
        concordance_index(*arrays([1, bad, 2], [1, 2, 3], [1, 1, 1]))


def predictions(*folds):
    """Each fold as (repeat, fold, time, event, risk)."""
    return pd.concat(
        pd.DataFrame({"repeat": repeat, "fold": fold, "time": time, "event": event, "risk": risk}).assign(
            case_id=lambda cases, fold=fold: [f"{fold}-{i}" for i in range(len(cases))],
            event=lambda cases: cases["event"].astype(bool),
            time=lambda cases: cases["time"].astype(float),
        )
        for repeat, fold, time, event, risk in folds
    )


def test_folds_are_averaged_and_never_pooled():
    # each fold is in perfect order, but all risks of the second model are higher than those of the first
    folds = fold_concordance(predictions((0, 0, [1, 2, 3], [1, 1, 1], [3, 2, 1]), (0, 1, [4, 5], [1, 0], [9.0, 8.0])))
    assert folds["c_index"].tolist() == [1.0, 1.0]
    assert folds[["repeat", "fold", "cases", "events", "pairs"]].to_numpy().tolist() == [
        [0, 0, 3, 3, 3],
        [0, 1, 2, 1, 1],
    ]
    assert folds["reason"].isna().all()


def test_the_summary_excludes_and_counts_undefined_folds():
    folds = fold_concordance(
        predictions(
            (0, 0, [1, 2, 3], [1, 1, 1], [3, 2, 1]),  # 1
            (0, 1, [1, 2], [0, 0], [1, 2]),  # undefined
            (1, 0, [1, 2, 3, 4], [1, 0, 0, 0], [2, 1, 3, 2]),  # (1 + 0 + 1/2) / 3
        )
    )
    assert folds["reason"].tolist() == [None, "no events", None]
    summary = summarise(folds)
    assert (summary.folds, summary.undefined) == (2, 1)
    assert summary.c_index == pytest.approx(0.75)
    assert summary.deviation == pytest.approx(0.25)  # population deviation; the sample deviation would be 0.354


def test_the_summary_of_only_undefined_folds_is_nan():
    summary = summarise(fold_concordance(predictions((0, 0, [1, 2], [0, 0], [1, 2]))))
    assert np.isnan(summary.c_index) and np.isnan(summary.deviation)
    assert (summary.folds, summary.undefined) == (0, 1)


def test_bad_predictions_are_refused_with_all_their_problems():
    table = predictions((0, 0, [1, 2, np.nan], [1, 1, 1], [3, np.nan, 1]), (0, 0, [1], [1], [1]))
    with pytest.raises(ValueError) as refused:
        fold_concordance(table)
    message = str(refused.value)
    assert "1 rows repeat a case" in message
    assert "time are not finite; the first is that of '0-2'" in message
    assert "risk are not finite; the first is that of '0-1' in repeat 0, fold 0 (the model has diverged)" in message
    with pytest.raises(ValueError, match=r"lack the columns \['fold', 'risk'\]"):
        fold_concordance(table.drop(columns=["risk", "fold"]))
    with pytest.raises(ValueError, match="they have no cases"):
        fold_concordance(table.iloc[:0])


@settings(max_examples=20)
@given(st.integers(100, 200), st.integers(0, 99))
def test_a_fold_of_realistic_size(n, seed):
    rng = np.random.default_rng(seed)
    cases = rng.normal(size=n), rng.exponential(30, n).round(), rng.random(n) < 0.3
    assert concordance_index(*cases) == pytest.approx(naive_concordance(*cases), abs=1e-12)
