"""Maps of a trained model on a simulated cohort, whose truth is known."""

import numpy as np
import pandas as pd
import pytest
import torch

from survq.data.problems import DataError
from survq.interpretation.query_maps import QueryMaps, correlations, maps_of
from survq.interpretation.relevance import gradients
from survq.interpretation.truth import EFFECTS, auroc, hottest_planted, patch_auroc
from survq.simulation.data_folder import read_simulation


def maps(setting, case, **how) -> QueryMaps:
    return maps_of(setting.fold, setting.cohort, setting.bags[case], case, **how)


@pytest.fixture(scope="module")
def shown(setting) -> list[tuple[QueryMaps, QueryMaps, np.ndarray]]:
    """Maps of held-out cases: of the trained model, of the untrained one, and the truth."""
    return [(maps(setting, c), maps(setting, c, trained=False), setting.morphology[c]) for c in setting.held_out[:12]]


@pytest.mark.parametrize("kind", EFFECTS.values(), ids=EFFECTS.keys())
def test_the_gradient_finds_planted_patches_only_after_training(shown, kind):
    trained, untrained = (
        np.nanmean([patch_auroc(pair[role].patch_gradient, pair[2], kind) for pair in shown]) for role in (0, 1)
    )
    assert trained >= 0.85 and trained - untrained > 0.2, (trained, untrained)


def test_the_hottest_patches_are_planted_ones(shown):
    hottest = np.mean([hottest_planted(trained.patch_gradient, truth) for trained, _, truth in shown])
    everywhere = np.mean([np.isin(truth, list(EFFECTS.values())).mean() for _, _, truth in shown])
    assert hottest >= 0.85 and everywhere < 0.5


OTHER = "a pathway without effect has the largest gradient of this model, in all 88 held-out cases, too"


@pytest.mark.parametrize(
    "values",
    ["pathway_occlusion", pytest.param("pathway_gradient", marks=pytest.mark.xfail(strict=True, reason=OTHER))],
)
def test_the_planted_pathway_is_found(setting, shown, values):
    (planted,) = read_simulation(setting.cohort.folder)["planted_pathways"]
    mean = np.mean([getattr(trained, values) for trained, _, _ in shown], axis=0)
    assert shown[0][0].pathways[int(mean.argmax())] == planted


def test_occlusion_is_the_risk_without_the_patches(setting):
    """One region per patch here, as the case has few: each value is a prediction that can be made by hand."""
    case = setting.held_out[0]
    found, bag = maps(setting, case), setting.bags[case]
    table = setting.fold.preprocessing.table(setting.cohort)

    def risk(rows) -> float:
        with torch.no_grad():
            return float(setting.fold.model(table.batch([case], [rows])).risk)

    for patch in (0, len(bag) // 2, len(bag) - 1):
        without = torch.cat([bag[:patch], bag[patch + 1 :]])
        assert found.patch_occlusion[patch] == pytest.approx(abs(risk(without) - risk(bag)), abs=1e-6)


def test_gradients_are_those_of_the_risk(setting):
    """In double precision, against a difference quotient."""
    case = setting.held_out[1]
    table = setting.fold.preprocessing.table(setting.cohort)
    (of_patches,), of_genes = gradients(setting.fold.model, table.batch([case], [setting.bags[case]]))
    step, bag = 0.01, setting.bags[case].float()
    patch, feature = divmod(int(of_patches.abs().argmax()), bag.shape[1])
    risks = []
    for sign in (1, -1):
        moved = bag.clone()
        moved[patch, feature] += sign * step
        with torch.no_grad():
            risks.append(float(setting.fold.model(table.batch([case], [moved])).risk))
    assert (risks[0] - risks[1]) / (2 * step) == pytest.approx(float(of_patches[patch, feature]), rel=0.1)
    assert of_genes.shape == (1, setting.cohort.spec.genes) and of_genes.abs().max() > 0


def test_the_cross_modal_rule_by_hand():
    fusion = np.array(  # two histology queries, then two genomic ones
        [[0.1, 0.2, 0.3, 0.4], [0.3, 0.3, 0.4, 0.0], [0.5, 0.25, 0.15, 0.1], [0.2, 0.6, 0.1, 0.1]]
    )
    histology = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    none = np.zeros(3)
    found = QueryMaps("A", histology, np.eye(3)[:2], fusion, none, none, none, none, pd.DataFrame(), ("p", "q", "r"))
    assert found.cross_modal_query() == 0  # 0.3 + 0.4 against 0.4 + 0.0
    assert found.cross_modal_heat(0) == pytest.approx(0.5 * histology[0] + 0.25 * histology[1])
    assert found.related_queries(0, 2) == [0, 1] and found.related_queries(1, 2) == [1, 0]
    assert found.leading("histology") == [1, 0]  # the received attention is 0.275 and 0.3375
    assert found.leading("genomics", 9) == [0, 1]


def test_attention_sums_to_one_and_differs_from_the_untrained(setting, shown):
    for trained, untrained, truth in shown:
        for map_of in (trained.histology, trained.genomics, trained.fusion):
            assert map_of.sum(axis=1) == pytest.approx(1, abs=1e-4)
        assert trained.histology.shape == (16, len(truth)) and trained.fusion.shape == (24, 24)
        assert not np.allclose(trained.histology, untrained.histology)
    again = maps(setting, shown[0][0].case_id, trained=False)
    assert (again.histology == shown[0][1].histology).all(), "the untrained model depends on the seed alone"


def test_a_case_without_a_modality_is_refused(setting):
    lacking = next(case for case in setting.cohort.cases.index if case not in setting.bags)
    with pytest.raises(DataError, match="maps need slides and expression"):
        maps_of(setting.fold, setting.cohort, torch.empty(0, 64), lacking)


def test_rank_correlation_and_auroc_on_small_examples():
    other = np.array([1.0, 2.0, 3.0, 4.0])
    found = correlations(np.array([[4.0, 6.0, 8.0, 9.0], [3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), other)
    assert found[:2] == pytest.approx([1, -1]) and np.isnan(found[2])
    planted = np.array([True, False, True, False])
    assert auroc(np.array([[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), planted) == pytest.approx([1, 0.5])
    assert np.isnan(auroc(other, np.zeros(4, dtype=bool)))
    assert hottest_planted(np.array([0.1, 0.9, 0.2]), np.array([2, 1, 2])) == 1.0
