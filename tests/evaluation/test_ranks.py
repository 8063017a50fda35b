import numpy as np
import pandas as pd
import pytest

from survq.evaluation.concordance import concordance_index, risk_time_event
from survq.evaluation.ranks import mean_ranks


def cases(n: int, noise: float, seed: int, draw: int = 0) -> pd.DataFrame:
    """Two folds of cases with a predicted risk that is the true one and noise; the cases do not depend on the noise."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=n)
    table = pd.DataFrame({"case_id": [f"C{i}" for i in range(n)], "repeat": 0, "fold": np.arange(n) % 2})
    return table.assign(
        time=np.exp(-truth), event=True, risk=truth + noise * np.random.default_rng((seed, 7 + draw)).normal(size=n)
    )


def test_the_best_model_has_rank_one_and_ties_share_their_rank():
    cohort = {name: [cases(60, noise, 0)] for name, noise in [("good", 0.1), ("bad", 3), ("same", 3)]}
    ranks = mean_ranks([cohort])
    assert {name: found.estimate for name, found in ranks.items()} == {"good": 1, "bad": 2.5, "same": 2.5}
    assert ranks["good"].low == ranks["good"].high == 1


def test_ranks_are_averaged_over_cohorts_and_their_interval_holds_the_mean():
    cohorts = [{"a": [cases(80, a, seed)], "b": [cases(80, b, seed)]} for seed, a, b in [(0, 0.1, 2), (1, 2, 0.1)]]
    ranks = mean_ranks(cohorts)
    assert ranks["a"].estimate == ranks["b"].estimate == 1.5
    assert all(found.low <= found.estimate <= found.high for found in ranks.values())


def test_of_several_seeds_the_mean_counts():
    one, other, steady = cases(60, 0.1, 0), cases(60, 9, 0), cases(60, 0.8, 0)

    def c_index(table):
        return np.mean([concordance_index(*risk_time_event(own)) for _, own in table.groupby("fold")])

    assert c_index(one) > c_index(steady) > (c_index(one) + c_index(other)) / 2
    assert mean_ranks([{"lucky": [one, other], "steady": [steady]}])["steady"].estimate == 1


def test_a_model_that_lacks_a_cohort_has_no_rank():
    full = {"a": [cases(40, 0.1, 0)], "b": [cases(40, 1, 0)]}
    assert list(mean_ranks([full, {"a": full["a"]}])) == ["a"]
    assert mean_ranks([]) == {} and mean_ranks([full, {}]) == {}


def test_the_interval_is_that_of_patients():
    """Two models of equal quality: either may be first on other patients."""
    ranks = mean_ranks([{"a": [cases(60, 1, 0)], "b": [cases(60, 1, 0, draw=1)]}], resamples=300)
    assert all((found.low, found.high) == (1, 2) for found in ranks.values())
    assert ranks["a"].estimate + ranks["b"].estimate == pytest.approx(3)
