"""Folds are partitions that respect sites and do not depend on row order; intervals contain their times."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survq.data.cohort import Cohort
from survq.data.folds import Fold, TimeIntervals, fold_problems, given_folds, make_folds
from survq.data.problems import DataError

TIME = np.arange(1, 13)
EVENT = np.array([1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0], dtype=bool)


def cases(count=60, sites=12, events=30):
    return pd.DataFrame(
        {
            "time": np.linspace(1, 50, count),
            "event": np.arange(count) * events % count < events,
            "site": [f"S{number % sites}" for number in range(count)],
        },
        index=pd.Index([f"C{number:03d}" for number in range(count)], name="case_id"),
    )


def test_intervals_by_hand():
    """Quartiles of the times of death, left-closed: month 6 belongs to the third interval."""
    intervals = TimeIntervals.fit(TIME, EVENT)
    assert intervals.edges == (3.5, 6.0, 8.5)
    assert intervals.interval(TIME).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert intervals.interval(np.array([0.001, 1e9])).tolist() == [0, 3]
    assert len(intervals) == 4


def test_published_edges_and_counts(real_data):
    """Edges and (events, censored) of the whole cohorts, including cases without expression."""
    from survq.importing.labels import read_labels

    expected = {
        "blca": ([8.2, 13.7667, 21.7], [(28, 34), (28, 42), (28, 60), (29, 110)]),
        "coadread": ([10.2, 16.4667, 28.6], [(9, 22), (9, 62), (9, 79), (10, 98)]),
        "brca": ([18.5167, 32.5833, 63.5], [(15, 265), (15, 180), (15, 181), (15, 185)]),
    }
    for name, (edges, counts) in expected.items():
        file = real_data / f"survpath/datasets_csv/metadata/tcga_{name}.csv"
        labels = read_labels(file).cases
        time, event = labels["time"].to_numpy(), labels["event"].to_numpy()
        intervals = TimeIntervals.fit(time, event)
        np.testing.assert_allclose(intervals.edges, edges, atol=1e-4)
        index = intervals.interval(time)
        assert [(sum(event[index == k]), sum(~event[index == k])) for k in range(4)] == counts


@given(st.lists(st.tuples(st.floats(0.01, 500), st.booleans()), min_size=8, max_size=60), st.integers(2, 6))
@settings(max_examples=100, deadline=None)
def test_every_time_is_in_its_interval(labels, count):
    time, event = np.array([t for t, _ in labels]), np.array([e for _, e in labels])
    try:
        intervals = TimeIntervals.fit(time, event, count)
    except DataError:
        assert len(np.unique(time[event])) < 2 * count  # too few times of death, or most of them tied
        return
    bounds = np.array([-np.inf, *intervals.edges, np.inf])
    index = intervals.interval(time)
    assert ((bounds[index] <= time) & (time < bounds[index + 1])).all()


@pytest.mark.parametrize("deaths", [[], [3], [3, 3, 3, 3, 3, 3]])
def test_too_few_times_of_death_are_refused(deaths):
    time = np.array([*deaths, 10.0, 20.0])
    event = np.array([True] * len(deaths) + [False, False])
    with pytest.raises(DataError, match="too few for 4 time intervals"):
        TimeIntervals.fit(time, event)


def test_made_folds_are_disjoint_complete_and_separate_sites():
    table = cases()
    folds = make_folds(table, k=5, repeats=2, seed=3)
    assert [(fold.repeat, fold.index) for fold in folds] == [(r, k) for r in range(2) for k in range(5)]
    for repeat in range(2):
        held_out = [case for fold in folds if fold.repeat == repeat for case in fold.validation]
        assert sorted(held_out) == list(table.index)
    for fold in folds:
        assert set(fold.training) | set(fold.validation) == set(table.index)
        assert not set(table.loc[list(fold.training), "site"]) & set(table.loc[list(fold.validation), "site"])
        assert table.loc[list(fold.validation), "event"].any()
    assert folds[0] != folds[5]


def test_made_folds_depend_on_the_seed_only():
    table = cases()
    assert make_folds(table, seed=1) == make_folds(table.sample(frac=1, random_state=0), seed=1)
    assert make_folds(table, seed=1) != make_folds(table, seed=2)


def test_sites_may_be_missing_or_few():
    table = cases()
    table.loc[table.index[:3], "site"] = None
    assert len(make_folds(table)) == 5
    assert len(make_folds(cases(sites=2))) == 5  # too few to be separated
    assert len(make_folds(cases().drop(columns="site"))) == 5


@pytest.mark.parametrize(("k", "events"), [(1, 30), (5, 4), (61, 60)])
def test_impossible_numbers_of_folds_are_refused(k, events):
    with pytest.raises(DataError, match=f"{k} folds of 60 cases with {events} events cannot be made"):
        make_folds(cases(events=events), k=k)


def test_given_folds_do_not_depend_on_row_order_and_exclude_unknown_cases(small):
    splits, known = small["splits"], list(small["cases"].index[1:])
    folds = given_folds(splits, known)
    assert folds == given_folds(splits.sample(frac=1, random_state=0), known)
    assert [len(fold.validation) for fold in folds] == [7, 8, 8]
    with pytest.raises(DataError, match="both must be above 0"):
        given_folds(splits, known[:1])


def test_a_case_with_both_roles_is_refused():
    with pytest.raises(DataError, match="'B' are both training and held-out cases"):
        Fold(0, 0, ("A", "B"), ("B",))


def test_folds_without_a_comparable_pair_are_listed():
    table = pd.DataFrame(
        {"time": [5.0, 1, 2, 3, 3, 3, 3], "event": [True, False, False, True, True, True, False]},
        index=list("ABCDEFG"),
    )

    def problems(*validation):
        training = tuple(set(table.index) - set(validation))
        return "".join(fold_problems([Fold(0, 0, training, validation)], table))

    assert "none of its 2 held-out cases has an event" in problems("B", "C")
    assert "no two of its 3 held-out cases can be compared" in problems(
        "B", "C", "A"
    )  # the death is later than all other times
    assert "no two of its 2 held-out cases can be compared" in problems("D", "E")  # died at the same time
    assert problems("D", "G") == ""  # one censored at the time of the other's death
    assert "none of its 2 training cases has an event" in problems("A", "D", "E", "F", "G")


@pytest.mark.parametrize(("name", "events"), [("BLCA", [25, 24, 23, 25, 16]), ("COADREAD", [5, 13, 5, 9, 5])])
def test_published_folds(real_folder, name, events):
    cohort = Cohort.load(real_folder, name)
    folds = given_folds(cohort.splits, list(cohort.cases.index))
    assert sorted(case for fold in folds for case in fold.validation) == list(cohort.cases.index)
    for fold in folds:
        assert set(fold.training) | set(fold.validation) == set(cohort.cases.index)
        sites = [set(cohort.cases.loc[list(ids), "site"]) for ids in (fold.training, fold.validation)]
        assert not sites[0] & sites[1]
    assert [cohort.cases.loc[list(fold.validation), "event"].sum() for fold in folds] == events
    assert fold_problems(folds, cohort.cases) == []


def skewed(seed: int, sites: int = 5, n: int = 60) -> pd.DataFrame:
    """A cohort of few sites, most of its cases from two of them."""
    draws = np.random.default_rng(seed)
    share = np.array([8.0, 4, 1, 1, 1])[:sites]
    return pd.DataFrame(
        {
            "time": draws.exponential(30, n),
            "event": draws.random(n) < 0.3,
            "site": draws.choice(list("ABCDE")[:sites], n, p=share / share.sum()),
        },
        index=[f"P{number:03d}" for number in range(n)],
    )


def test_made_folds_satisfy_a_study_or_the_message_says_what_would_do():
    for seed in range(8):
        table = skewed(seed)
        try:
            folds = make_folds(table)
        except DataError as error:
            (problem,) = error.problems
            assert "5 sites cannot be made" in problem and len(problem) < 350
            if number := re.search(r"Fix: use (\d) folds", problem):
                folds = make_folds(table, k=int(number[1]))
            else:
                assert "leave out the column site, so that 5 folds" in problem
            assert fold_problems(make_folds(table.drop(columns="site")), table) == []
        assert fold_problems(folds, table) == []


def test_the_first_draw_is_kept_where_it_is_usable():
    """So that finished results of other cohorts stay valid."""
    from sklearn.model_selection import StratifiedGroupKFold

    table = cases()
    parts = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(table.index, table["event"], table["site"])
    assert [list(fold.validation) for fold in make_folds(table)] == [list(table.index[held]) for _, held in parts]


def test_other_folds_are_drawn_where_the_first_are_unusable():
    draws = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "time": draws.exponential(30, 60),
            "event": draws.random(60) < 0.2,
            "site": draws.choice(list("ABCDEFGHIJ"), 60),
        },
        index=[f"P{number:03d}" for number in range(60)],
    )
    from sklearn.model_selection import StratifiedGroupKFold

    parts = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(table.index, table["event"], table["site"])
    first = [Fold(0, n, tuple(table.index[one]), tuple(table.index[other])) for n, (one, other) in enumerate(parts)]
    assert fold_problems(first, table)
    assert fold_problems(make_folds(table), table) == []
