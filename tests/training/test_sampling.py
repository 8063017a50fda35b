from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survq.data.folds import Fold, TimeIntervals, make_folds
from survq.training.sampling import epoch_batches, parts_of


def cases_of(n: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    index = pd.Index([f"C{number:03d}" for number in range(n)], name="case_id")
    return pd.DataFrame({"time": random.exponential(20, n) + 1, "event": random.random(n) < 0.4}, index=index)


def k_folds(n: int, k: int) -> list[Fold]:
    ids = [f"C{number:03d}" for number in range(n)]
    return [
        Fold(0, f, tuple(c for i, c in enumerate(ids) if i % k != f), tuple(c for i, c in enumerate(ids) if i % k == f))
        for f in range(k)
    ]


@st.composite
def any_folds(draw) -> list[Fold]:
    """Folds as they may be published: a case is training, held out, or in neither."""
    n = draw(st.integers(2, 40))
    folds = []
    for number in range(draw(st.integers(1, 6))):
        roles = draw(st.lists(st.sampled_from("tvn"), min_size=n, max_size=n))
        roles[0], roles[1] = "t", "v"
        chosen = {role: tuple(f"C{i:03d}" for i in range(n) if roles[i] == role) for role in "tv"}
        folds.append(Fold(0, number, chosen["t"], chosen["v"]))
    return folds


def own(batches: list[list[str]], fold: Fold) -> list[list[str]]:
    """The training cases of a fold in each global batch."""
    training = set(fold.training)
    return [[case for case in batch if case in training] for batch in batches]


def test_parts_of_k_folds_are_the_held_out_parts():
    folds = k_folds(23, 5)
    assert sorted(parts_of(folds)) == sorted(sorted(fold.validation) for fold in folds)


@settings(max_examples=100, deadline=None)
@given(any_folds())
def test_a_part_is_in_or_out_of_each_fold_as_a_whole(folds):
    parts = parts_of(folds)
    cases = [case for part in parts for case in part]
    assert sorted(cases) == sorted({case for fold in folds for case in fold.training})
    for part in parts:
        assert part == sorted(part)
        assert all(len({case in fold.training for case in part}) == 1 for fold in folds)


@settings(max_examples=100, deadline=None)
@given(any_folds(), st.integers(1, 12), st.integers(0, 5), st.integers(1, 3))
def test_each_fold_sees_each_training_case_once_per_epoch(folds, batch_size, seed, epoch):
    batches = epoch_batches(folds, pd.DataFrame(), batch_size=batch_size, seed=seed, epoch=epoch)
    for fold in folds:
        assert sorted(case for batch in own(batches, fold) for case in batch) == sorted(fold.training)


@settings(max_examples=100, deadline=None)
@given(any_folds(), st.integers(1, 12), st.integers(0, 5))
def test_every_part_is_distributed_evenly(folds, batch_size, seed):
    """The batches of a fold exceed the batch size by at most one case per part."""
    batches = epoch_batches(folds, pd.DataFrame(), batch_size=batch_size, seed=seed, epoch=1)
    assert len(batches) == max(-(-len(fold.training) // batch_size) for fold in folds)
    parts = [set(part) for part in parts_of(folds)]
    for part in parts:
        sizes = [len(part.intersection(batch)) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        its_parts = sum(part <= set(fold.training) for part in parts)
        sizes = [len(batch) for batch in own(batches, fold)]
        assert max(sizes) < batch_size + its_parts
        assert max(sizes) - min(sizes) <= its_parts


@pytest.mark.parametrize(("n", "k", "batch_size"), [(160, 5, 32), (120, 3, 8), (300, 5, 8), (100, 5, 80)])
def test_equal_parts_give_batches_of_exactly_the_batch_size(n, k, batch_size):
    folds = k_folds(n, k)
    for seed in range(5):
        batches = epoch_batches(folds, pd.DataFrame(), batch_size=batch_size, seed=seed, epoch=1)
        assert {len(batch) for batch in batches} == {batch_size * k // (k - 1)}
        for fold in folds:
            assert {len(batch) for batch in own(batches, fold)} == {batch_size}


def test_batches_are_ordered_by_part():
    folds = k_folds(40, 4)
    part_of = {case: number for number, part in enumerate(parts_of(folds)) for case in part}
    for batch in epoch_batches(folds, pd.DataFrame(), batch_size=8, seed=0, epoch=1):
        parts = [part_of[case] for case in batch]
        assert parts == sorted(parts)


def test_the_order_depends_on_seed_and_epoch():
    folds = k_folds(40, 4)

    def order(seed, epoch, folds=folds):
        return epoch_batches(folds, pd.DataFrame(), batch_size=8, seed=seed, epoch=epoch)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    shuffled = [Fold(f.repeat, f.index, f.training[::-1], f.validation[::-1]) for f in folds]
    assert order(0, 1, shuffled) == order(0, 1)


def test_the_remainder_falls_on_other_batches_in_each_epoch():
    folds = k_folds(43, 2)
    sizes = [
        tuple(len(batch) for batch in epoch_batches(folds, pd.DataFrame(), batch_size=5, seed=0, epoch=epoch))
        for epoch in range(12)
    ]
    assert len(set(sizes)) > 3


def test_repeated_folds_have_more_parts():
    cases = cases_of(60)
    folds = make_folds(cases, k=3, repeats=2)
    batches = epoch_batches(folds, cases, batch_size=8, seed=0, epoch=1)
    for fold in folds:
        assert sorted(case for batch in own(batches, fold) for case in batch) == sorted(fold.training)
    assert len(parts_of(folds)) == 9


def test_balanced_sampling_draws_inside_each_part():
    """A fold never trains on its held-out cases, and every part keeps its share of the epoch."""
    cases, folds = cases_of(120), k_folds(120, 4)
    batches = epoch_batches(folds, cases, batch_size=16, seed=0, epoch=1, balanced=4)
    for part in parts_of(folds):
        drawn = Counter(case for batch in batches for case in batch if case in set(part))
        assert drawn.total() == len(part)
    assert max(Counter(case for batch in batches for case in batch).values()) > 1


@pytest.mark.parametrize("intervals", [3, 4])
def test_balanced_sampling_balances_deaths_and_censorings(intervals):
    """Deaths and censorings of each interval are drawn equally often, even rare ones."""
    cases, folds = cases_of(400), k_folds(400, 2)
    for part in parts_of(folds):
        chosen = cases.loc[part]
        time, event = chosen["time"].to_numpy(), chosen["event"].to_numpy()
        group = dict(zip(part, 2 * TimeIntervals.fit(time, event, intervals).interval(time) + event, strict=True))
        assert max(Counter(group.values()).values()) > 1.5 * min(Counter(group.values()).values())
        drawn = Counter(
            group[case]
            for epoch in range(20)
            for batch in epoch_batches(folds, cases, batch_size=32, seed=0, epoch=epoch, balanced=intervals)
            for case in batch
            if case in group
        )
        expected = drawn.total() / len(drawn)
        assert len(drawn) == 2 * intervals
        assert all(abs(count - expected) < 5 * expected**0.5 for count in drawn.values())


def test_balanced_sampling_works_with_too_few_deaths_for_intervals():
    cases, folds = cases_of(24), k_folds(24, 4)
    cases["event"] = [number < 5 for number in range(24)]
    batches = epoch_batches(folds, cases, batch_size=6, seed=0, epoch=1, balanced=4)
    assert sum(map(len, batches)) == 24
