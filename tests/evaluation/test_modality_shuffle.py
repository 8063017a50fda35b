"""Shuffled modalities in worlds with a known truth. A model is a function of slides and genes, one number each."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from survq.evaluation.fusion_audit import fusion_audit
from survq.evaluation.modality_shuffle import donors, shuffle_effect

WORLDS = 8


def cohort(seed, eta, correlation=0.0, cases=300, folds=5):
    """Slides h, genes g with this correlation, and outcomes by the log hazard eta(h, g)."""
    random = np.random.default_rng(seed)
    h, other = random.normal(size=(2, cases))
    g = correlation * h + np.sqrt(1 - correlation**2) * other
    death, end = random.exponential(30 * np.exp(-eta(h, g))), random.exponential(60, cases)
    table = pd.DataFrame({"case_id": [f"C{i:03}" for i in range(cases)], "repeat": 0, "fold": np.arange(cases) % folds})
    return table.assign(time=np.minimum(death, end), event=death <= end), h, g


def shuffled(table, model, values, place, seed=0, shuffles=10):
    """The risks of a model whose modality at `place` comes from other cases of the fold."""
    random = np.random.default_rng(seed)
    risks = np.empty((shuffles, len(table)))
    for rows in table.groupby(["repeat", "fold"]).indices.values():
        for number, donor in enumerate(donors(len(rows), shuffles, random)):
            given = [one[rows][donor] if place == modality else one[rows] for modality, one in enumerate(values)]
            risks[number, rows] = model(*given)
    return risks


def effects(table, model, h, g, **options):
    own = table.assign(risk=model(h, g))
    return [shuffle_effect(own, shuffled(table, model, (h, g), place), resamples=50, **options) for place in (0, 1)]


def test_donors_are_other_cases_and_no_pair_occurs_twice():
    found = donors(12, 8, np.random.default_rng(0))
    assert all(sorted(row) == list(range(12)) for row in found)
    assert not (found == np.arange(12)).any()
    assert all(len(set(column)) == 8 for column in found.T)
    few = donors(3, 8, np.random.default_rng(0))
    assert few.shape == (8, 3) and not (few == np.arange(3)).any()
    assert donors(2, 1, np.random.default_rng(0)).tolist() == [[1, 0]]
    with pytest.raises(ValueError):
        donors(1, 8, np.random.default_rng(0))


def test_by_hand():
    """Three cases, which die in order and are ranked rightly; with the slides of others, two of six pairs are right."""
    table = pd.DataFrame({"case_id": list("abc"), "repeat": 0, "fold": 0, "time": [1.0, 2.0, 3.0], "event": True})
    own, others = table.assign(risk=[3.0, 2.0, 1.0]), np.array([[2.0, 1.0, 3.0], [1.0, 3.0, 2.0]])
    found = shuffle_effect(own, others, resamples=9)
    assert found.c_index == 1 and found.shuffled == pytest.approx(1 / 3) and found.drop.estimate == pytest.approx(2 / 3)
    assert found.p_value == pytest.approx(1 / 3, abs=0.02), "one of three is as good as the own"
    assert found.agreement == pytest.approx(-0.5)


def told_of_genes(worlds, correlation):
    """Shuffling says of a model of slides alone that it does not read genes. How often correlations say it does."""
    said = 0
    for seed in range(worlds):
        table, h, g = cohort(seed, lambda h, g: h, correlation)
        slides, genes = effects(table, lambda h, g: h, h, g, seed=seed)
        assert genes.drop.estimate == genes.drop.low == genes.drop.high == 0
        assert genes.agreement == 1 and genes.p_value == 1
        assert slides.drop.low > 0 and slides.p_value < 0.01 and slides.agreement < 0.3
        noise = 0.5 * np.random.default_rng([seed, 1]).normal(size=(2, len(h)))
        tables = [table.assign(risk=risk) for risk in (h, h + noise[0], g + noise[1])]
        said += fusion_audit(*tables, resamples=2, permutations=99).dependence[1].p_value < 0.05
    return said


def test_a_model_that_does_not_read_genes_is_told_so_also_where_they_are_correlated_with_its_risk():
    assert told_of_genes(WORLDS, correlation=0.0) <= 2
    assert told_of_genes(WORLDS, correlation=0.7) == WORLDS, "what shuffling is for"


def interactions(worlds):
    """Neither slides nor genes rank alone; a model that multiplies them loses all without either."""
    for seed in range(worlds):
        table, h, g = cohort(seed, lambda h, g: 1.5 * h * g)
        for effect in effects(table, lambda h, g: h * g, h, g, seed=seed):
            assert effect.p_value < 0.01 and effect.drop.low > 0 and abs(effect.shuffled - 0.5) < 0.05


def test_a_planted_interaction_is_found_in_either_modality():
    interactions(WORLDS)


@pytest.mark.slow
def test_a_hundred_worlds():
    assert told_of_genes(100, correlation=0.0) <= 12
    assert told_of_genes(100, correlation=0.7) == 100
    interactions(100)


def p_of_useless_genes(worlds, repeats=1):
    """p of a model that reads genes as much as slides, in worlds in which they say nothing."""
    found = []
    for seed in range(worlds):
        table, h, g = cohort(seed, lambda h, g: h, cases=150)
        random = np.random.default_rng(seed)
        parts = [table.assign(repeat=repeat, fold=random.permutation(150) % 5) for repeat in range(repeats)]
        table, h, g = pd.concat(parts, ignore_index=True), np.tile(h, repeats), np.tile(g, repeats)
        own = table.assign(risk=h + g)
        risks = shuffled(table, lambda h, g: h + g, (h, g), 1, seed)
        effect = shuffle_effect(own, risks, resamples=1, draws=999, seed=seed)
        assert effect.agreement < 0.8
        found.append(effect.p_value)
    return np.array(found)


def test_genes_that_are_read_in_vain():
    assert (p_of_useless_genes(40) < 0.05).sum() <= 6


@pytest.mark.slow
def test_the_p_value_is_uniform_under_the_null_and_strict_with_repeats():
    p = p_of_useless_genes(400)
    assert kstest(p, "uniform").pvalue > 0.01 and (p < 0.05).mean() < 0.08
    assert (p_of_useless_genes(200, repeats=3) < 0.05).mean() <= 0.05


def test_folds_without_a_comparable_pair_are_left_out():
    table, h, g = cohort(0, lambda h, g: h)
    none = table["fold"] == 3
    slides, _ = effects(table.assign(event=table["event"] & ~none), lambda h, g: h, h, g)
    assert slides.drop.low > 0 and slides.p_value < 0.01
    slides, _ = effects(table.assign(event=False), lambda h, g: h, h, g)
    assert np.isnan([slides.c_index, slides.drop.estimate, slides.p_value]).all()
