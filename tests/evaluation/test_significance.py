import time as clock

import numpy as np
import pandas as pd
import pytest

from survq.evaluation.concordance import concordance_index, fold_concordance, risk_time_event, summarise
from survq.evaluation.significance import (
    bootstrap_difference,
    bootstrap_interval,
    draw_patients,
    mean_concordance,
)


def simulate(n=200, noise=1.0, seed=0, folds=5):
    """Cases whose log survival time is minus their risk plus noise; a third are censored, and times are tied."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    return pd.DataFrame(
        {
            "case_id": [f"case-{i}" for i in range(n)],
            "repeat": 0,
            "fold": np.arange(n) % folds,
            "time": np.exp(3 - risk + noise * rng.normal(size=n)).round() + 1,
            "event": rng.random(n) < 0.67,
            "risk": risk,
        }
    )


def width(interval):
    return interval.high - interval.low


def test_a_weighted_resample_equals_copied_cases():
    predictions = simulate(60)
    predictions["risk"] = predictions["risk"].round(1)  # ties
    draws = draw_patients(predictions, 20, seed=3)
    values = mean_concordance(predictions, draws)
    for resample in range(21):
        folds = []
        for _, cases in predictions.groupby("fold"):
            copies = cases.loc[cases.index.repeat(draws.loc[cases["case_id"], resample])]
            assert len(copies) == len(cases)
            folds.append(concordance_index(*risk_time_event(copies)))
        assert values[resample] == pytest.approx(np.mean(folds), abs=1e-12)


def test_the_estimate_equals_the_summary_of_folds():
    predictions = simulate()
    interval = bootstrap_interval(predictions, resamples=200)
    assert interval.estimate == pytest.approx(summarise(fold_concordance(predictions)).c_index, abs=1e-12)
    assert interval.low < interval.estimate < interval.high
    assert interval.resamples == 200


def test_the_interval_depends_on_the_seed_but_not_on_the_order_of_rows():
    predictions = simulate()
    interval = bootstrap_interval(predictions, resamples=100, seed=1)
    shuffled = bootstrap_interval(predictions.sample(frac=1, random_state=0), resamples=100, seed=1)
    assert (interval.low, interval.high) == pytest.approx((shuffled.low, shuffled.high), abs=1e-12)
    assert bootstrap_interval(predictions, resamples=100, seed=2).low != interval.low


def test_four_times_as_many_patients_halve_the_interval():
    few, many = (width(bootstrap_interval(simulate(n, seed=1))) for n in (200, 800))
    assert 0.35 < many / few < 0.65


def test_the_interval_covers_the_truth():
    truth = bootstrap_interval(simulate(5000, seed=99), resamples=1).estimate
    intervals = [bootstrap_interval(simulate(150, seed=seed), resamples=200) for seed in range(60)]
    covered = sum(interval.low <= truth <= interval.high for interval in intervals)
    assert covered >= 51  # of 60; with 95 % coverage, fewer have a probability below 1 %


def test_repeats_do_not_narrow_the_interval():
    predictions = simulate()
    repeated = pd.concat([predictions.assign(repeat=repeat) for repeat in range(4)])
    assert bootstrap_interval(repeated).low == pytest.approx(bootstrap_interval(predictions).low, abs=1e-12)
    refolded = predictions.assign(repeat=1, fold=np.random.default_rng(0).permutation(predictions["fold"]))
    both = bootstrap_interval(pd.concat([predictions, refolded]))
    assert width(both) == pytest.approx(width(bootstrap_interval(predictions)), rel=0.15)


def test_an_undefined_fold_is_excluded():
    predictions = simulate()
    empty = predictions["fold"] == 4
    predictions.loc[empty, "event"] = False
    with_it, without_it = bootstrap_interval(predictions), bootstrap_interval(predictions[~empty])
    assert (with_it.estimate, with_it.low) == (without_it.estimate, without_it.low)
    nothing = bootstrap_interval(predictions.assign(event=False), resamples=50)
    assert np.isnan([nothing.estimate, nothing.low, nothing.high]).all() and nothing.resamples == 0


def test_a_model_does_not_differ_from_itself():
    predictions = simulate()
    rescaled = predictions.assign(risk=np.exp(predictions["risk"])).sample(frac=1, random_state=1)
    same = bootstrap_difference(predictions, rescaled)
    assert (same.estimate, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_the_difference_is_signed_and_detected():
    better = simulate(400)
    worse = better.assign(risk=better["risk"] + np.random.default_rng(1).normal(0, 1.5, len(better)))
    gain, loss = bootstrap_difference(better, worse), bootstrap_difference(worse, better)
    assert gain.low > 0
    assert (gain.estimate, gain.low, gain.high) == pytest.approx((-loss.estimate, -loss.high, -loss.low))
    means = [summarise(fold_concordance(table)).c_index for table in (better, worse)]
    assert gain.estimate == pytest.approx(means[0] - means[1])


def test_pairing_narrows_the_interval():
    one = simulate(300)
    other = one.assign(risk=one["risk"] + np.random.default_rng(1).normal(0, 0.2, len(one)))
    assert width(bootstrap_difference(one, other)) < 0.5 * width(bootstrap_interval(one))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.iloc[1:], "1 cases are in only one of the two tables; the first is 'case-0'"),
        (lambda table: table.assign(fold=(table["fold"] + 1) % 5), "cases are in only one"),
        (lambda table: table.assign(repeat=1), "cases are in only one"),
        (lambda table: table.assign(time=table["time"] + 1), "another time or event"),
        (lambda table: table.assign(event=~table["event"]), "another time or event"),
        (lambda table: table.assign(risk=np.nan), "diverged"),
    ],
)
def test_unpaired_predictions_are_refused(change, message):
    predictions = simulate()
    for pair in [(predictions, change(predictions)), (change(predictions), predictions)]:
        with pytest.raises(ValueError, match=message):
            bootstrap_difference(*pair)


def test_the_bootstrap_is_fast():
    predictions = simulate(500)
    start = clock.perf_counter()
    bootstrap_interval(predictions, resamples=1000)
    assert clock.perf_counter() - start < 3  # measured: 0.1 s
