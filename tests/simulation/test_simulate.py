"""The simulated cohort: does it have the documented properties, and can its truth be learned from its data?"""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from slide_store import SlideStore

import survq.demo
from survq.data.cohort import Cohort
from survq.data.cohort_files import cohort_folder, update_cohort
from survq.data.folds import given_folds
from survq.data.problems import DataError
from survq.data.streams import generator
from survq.data.write import write_cohort, write_features
from survq.demo import demo_data
from survq.evaluation.concordance import concordance_index
from survq.simulation.cohort import SimulatedCohort, World
from survq.simulation.data_folder import read_simulation, write_simulated
from survq.simulation.gene_sets import draw_gene_sets
from survq.simulation.tissue import tissue_cells
from survq.simulation.worlds import PRESETS, PROGNOSTIC, WorldConfig


@pytest.fixture(scope="module")
def demo() -> SimulatedCohort:
    return World(PRESETS["demo"]).cohort(240, seed=0)


@pytest.fixture(scope="module")
def easy() -> SimulatedCohort:
    return World(PRESETS["test"]).cohort(1000, seed=0)


@pytest.mark.parametrize("world", [0, 1, 2])
@pytest.mark.parametrize(("preset", "low", "high"), [("test", 0.81, 0.87), ("rare", 0.79, 0.85)])
def test_the_oracle_is_within_bounds(preset, world, low, high):
    oracle = World(replace(PRESETS[preset], world=world)).cohort(800, seed=1).oracle()
    assert low < oracle["eta"] < high
    assert 0.6 < oracle["h"] < oracle["eta"] - 0.05
    assert 0.6 < oracle["g"] < oracle["eta"] - 0.05
    assert oracle["additive"] == oracle["eta"]


def test_the_demo_is_easy(demo):
    assert demo.oracle()["eta"] > 0.8


def test_stage_tells_much_about_the_risk_age_little_and_sex_nothing(easy):
    cases, eta = easy.cases, easy.truth["eta"]
    assert 0.4 < cases["stage"].corr(eta, method="spearman") < 0.7
    assert 0.2 < cases["age"].corr(eta) < 0.4
    assert abs((cases["sex"] == "male").astype(float).corr(eta)) < 0.1
    assert set(cases["stage"].dropna()) == {1, 2, 3, 4} and 0.02 < cases["stage"].isna().mean() < 0.08


def test_an_interaction_exceeds_any_sum():
    oracle = World(PRESETS["interaction"]).cohort(600, seed=0).oracle()
    assert oracle["eta"] - oracle["additive"] > 0.02


@pytest.mark.parametrize("preset", ["demo", "test", "severity"])
def test_censoring_is_near_its_target(preset):
    cohort = World(PRESETS[preset]).cohort(800, seed=2)
    censored = 1 - cohort.cases["event"].mean()
    assert censored == pytest.approx(PRESETS[preset].censoring, abs=0.06)
    assert (cohort.cases["time"] > 0).all() and (cohort.cases["time"] <= 120).all()


def test_the_truth_can_be_learned_from_the_data(easy):
    """A regression on realised quantities approaches the oracle on held-out cases."""
    genes = easy.world.transcriptome
    of_pathways = np.stack([easy.expression.to_numpy()[:, row != 0] @ np.sign(row[row != 0]) for row in genes.loading])
    seen = pd.DataFrame(np.log(easy.shares[:, PROGNOSTIC]), columns=["worse", "better"], index=easy.cases.index)
    for pathway in genes.planted:
        seen[genes.pathways.names[pathway]] = of_pathways[pathway]
    seen = (seen - seen.mean()) / seen.std()
    table = seen.assign(time=easy.cases["time"], event=easy.cases["event"])

    training, unseen = table.index[:600], table.index[600:]
    risk = CoxPHFitter().fit(table.loc[training], "time", "event").predict_partial_hazard(table.loc[unseen])
    reached = concordance_index(
        risk.to_numpy(), table.loc[unseen, "time"].to_numpy(), table.loc[unseen, "event"].to_numpy()
    )
    assert reached > easy.oracle(list(unseen))["eta"] - 0.03


def test_the_truth_is_computed_from_realised_shares(easy):
    ratio = np.log(easy.shares[:, 0] / easy.shares[:, 1])
    assert np.corrcoef(ratio, easy.truth["h"])[0, 1] > 0.98
    assert (easy.shares[:, PROGNOSTIC] > 0).all()
    assert easy.truth["h"].std() == pytest.approx(1, abs=0.1)
    assert easy.truth["g"].std() == pytest.approx(1, abs=0.1)


def test_prognostic_patches_can_be_classified(easy):
    """By a linear rule fitted to slides of other cases, despite stain and nuisance variation."""
    slides = list(easy.sections)[:400]
    features = [easy.slide(slide).features.astype(np.float32) for slide in slides]
    morphology = [easy.sections[slide].morphology for slide in slides]
    for prognostic in PROGNOSTIC:
        rule = LinearDiscriminantAnalysis()
        rule.fit(np.concatenate(features[:200]), np.concatenate(morphology[:200]) == prognostic)
        score = rule.decision_function(np.concatenate(features[200:]))
        assert roc_auc_score(np.concatenate(morphology[200:]) == prognostic, score) > 0.97


def test_severity_shows_in_patches_and_not_in_shares():
    cohort = World(PRESETS["severity"]).cohort(200, seed=0)
    ratio = np.log(cohort.shares[:, 0] / cohort.shares[:, 1])
    assert abs(np.corrcoef(ratio, cohort.truth["h"])[0, 1]) < 0.25

    axis = cohort.world.patch_space.severity_axis
    shown = {}
    for slide_id, section in cohort.sections.items():
        along = cohort.slide(slide_id).features.astype(np.float32) @ axis
        kinds = [along[section.morphology == kind] for kind in PROGNOSTIC]
        if all(len(kind) for kind in kinds):
            shown[cohort.cases.index[section.case]] = kinds[0].mean() - kinds[1].mean()
    scores = pd.Series(shown)
    assert np.corrcoef(scores, cohort.truth.loc[scores.index, "h"])[0, 1] > 0.8


def test_equal_seeds_draw_equal_cohorts(demo):
    again = World(PRESETS["demo"]).cohort(240, seed=0)
    pd.testing.assert_frame_equal(again.cases, demo.cases)
    pd.testing.assert_frame_equal(again.truth, demo.truth)
    pd.testing.assert_frame_equal(again.expression, demo.expression)
    for slide, same in zip(demo.slides(), again.slides(), strict=True):
        assert slide.slide_id == same.slide_id
        np.testing.assert_array_equal(slide.features, same.features)
        np.testing.assert_array_equal(slide.coordinates, same.coordinates)


def test_other_seeds_draw_other_cohorts_of_the_same_world(demo):
    other = demo.world.cohort(240, seed=1)
    assert not np.allclose(other.truth["eta"], demo.truth["eta"])
    another_world = World(replace(PRESETS["demo"], world=1))
    assert not np.allclose(another_world.patch_space.centroids, demo.world.patch_space.centroids)


def test_missing_modalities_change_no_other_draw(demo):
    config = replace(PRESETS["demo"], missing_slides=0.0, missing_expression=0.0)
    whole = World(config).cohort(240, seed=0)
    pd.testing.assert_frame_equal(whole.cases, demo.cases)
    pd.testing.assert_frame_equal(whole.expression.loc[demo.expression.index], demo.expression)
    slide_id = next(iter(demo.sections))
    np.testing.assert_array_equal(whole.slide(slide_id).features, demo.slide(slide_id).features)


def test_bags_are_ragged_and_cases_have_several_slides(demo):
    of_case = pd.Series([section.case for section in demo.sections.values()]).value_counts()
    assert set(of_case) == {1, 2, 3}
    patches = pd.Series({slide: len(section.cells) for slide, section in demo.sections.items()})
    bags = patches.groupby(patches.index.str[:11]).sum()
    assert bags.min() >= 30 and bags.max() <= 90 and bags.nunique() > 20


def test_some_cases_lack_a_modality_and_none_lacks_both(demo):
    has_slides, has_expression = demo.truth["has_slides"], demo.truth["has_expression"]
    assert (~has_slides).sum() == (~has_expression).sum() == 7
    assert (has_slides | has_expression).all()
    assert set(demo.expression.index) == set(demo.truth.index[has_expression])
    assert {slide.case_id for slide in demo.slides()} == set(demo.truth.index[has_slides])


def test_missing_may_depend_on_age():
    config = replace(PRESETS["demo"], missing_slides=0.3, missing_expression=0.3, missing_by_age=2.0)
    cohort = World(config).cohort(300, seed=0)
    age = cohort.cases["age"]
    for modality in ("has_slides", "has_expression"):
        present = cohort.truth[modality]
        assert present.mean() == pytest.approx(0.7)
        if modality == "has_slides":  # expression is missing among the remaining, younger cases
            assert age[~present].mean() > age[present].mean() + 5
    with_slides = cohort.truth["has_slides"]
    lacking = with_slides & ~cohort.truth["has_expression"]
    assert age[lacking].mean() > age[with_slides & ~lacking].mean() + 5


def test_ids_look_like_tcga_but_cannot_be_real(demo):
    assert demo.cases.index.is_unique
    assert demo.cases.index.str.fullmatch(r"SIM-\d\d-\d{4}").all()
    assert (demo.cases.index.str.split("-").str[1] == demo.cases["site"]).all()
    assert demo.cases["site"].nunique() == 8
    assert all(slide.slide_id.startswith(slide.case_id) for slide in demo.slides())


def test_coordinates_are_a_grid_of_level_zero_pixels(demo):
    of_site = {}
    for slide in demo.slides():
        assert slide.coordinates.dtype == np.int32 and slide.coordinates.min() >= 0
        assert slide.patch_size == {20.0: 224, 40.0: 448}[slide.magnification]
        assert (slide.coordinates % slide.patch_size == 0).all()
        assert len(np.unique(slide.coordinates, axis=0)) == len(slide.features)
        of_site.setdefault(slide.case_id.split("-")[1], set()).add(slide.magnification)
    assert all(len(scanners) == 1 for scanners in of_site.values())
    assert set.union(*of_site.values()) == {20.0, 40.0}


def test_tissue_is_contiguous():
    cells = {tuple(cell) for cell in tissue_cells(500, generator("test"))}
    neighbours = [sum((x + dx, y + dy) in cells for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))) for x, y in cells]
    assert len(cells) == 500 and np.mean(neighbours) > 3


def test_wide_features_fit_half_floats():
    world = World(replace(PRESETS["test"], width=1024, centroid_norm=12.0))
    features = next(world.cohort(2, seed=0).slides()).features
    assert features.dtype == np.float16 and features.shape[1] == 1024 and np.isfinite(features).all()


def test_an_invalid_world_is_refused_with_all_reasons():
    with pytest.raises(ValueError, match=r"cases=0.*morphologies=2.*width=4000.*planted_pathways=0.*sites=0"):
        WorldConfig(cases=0, morphologies=2, width=4000, planted_pathways=0, sites=0)
    with pytest.raises(ValueError, match="outlive the study"):
        World(replace(PRESETS["test"], censoring=0.01))


def test_round_trip_through_the_data_folder(tmp_path, demo):
    folder = write_simulated(tmp_path, "demo")
    cohort = Cohort.load(tmp_path, "SIM")

    assert folder == tmp_path / "SIM" and cohort.dropped.empty
    pd.testing.assert_frame_equal(cohort.cases, demo.cases.sort_index())
    pd.testing.assert_frame_equal(cohort.expression, demo.expression.sort_index())
    assert cohort.pathways == demo.world.transcriptome.pathways
    assert cohort.gene_sets == draw_gene_sets(PRESETS["demo"], demo.world.transcriptome)
    assert "24 of 24 pathways, 8 of 8 eight_families, 12 of 12 hallmarks, 6 of 6 six_groups" in cohort.summary()
    assert set(cohort.slides["slide_id"]) == set(demo.sections)
    np.testing.assert_array_equal(cohort.has_slides, demo.truth["has_slides"].sort_index())
    store = SlideStore(cohort.features)
    for slide in list(demo.slides())[::25]:
        np.testing.assert_array_equal(store.read(slide.slide_id), slide.features)
        np.testing.assert_array_equal(store.coordinates(slide.slide_id), slide.coordinates)

    truth = pd.read_parquet(folder / "truth.parquet").set_index("case_id")
    pd.testing.assert_frame_equal(truth, demo.truth)
    folds = given_folds(cohort.splits, list(cohort.cases.index))
    assert len(folds) == 3
    for fold in folds:
        assert not {case[:6] for case in fold.training} & {case[:6] for case in fold.validation}

    stored = json.loads((folder / "simulation.json").read_text())
    assert WorldConfig(**stored["config"]) == PRESETS["demo"] and stored["seed"] == 0
    assert tuple(stored["planted_pathways"]) == demo.planted_pathways
    by_fold = np.mean([demo.oracle(fold.validation)["eta"] for fold in folds])
    assert stored["oracle"]["eta"] == pytest.approx(by_fold, abs=1e-5)
    assert stored["oracle_all_cases"]["h"] == pytest.approx(demo.oracle()["h"], abs=1e-5)


def test_held_out_cases_form_one_fold(tmp_path):
    folder = write_simulated(tmp_path, replace(PRESETS["test"], world=2), cases=60, held_out=40, seed=3, name="HELD")
    cohort = Cohort.load(tmp_path, "HELD")
    (fold,) = given_folds(cohort.splits, list(cohort.cases.index))
    drawn = World(replace(PRESETS["test"], world=2)).cohort(100, seed=3)
    assert (fold.repeat, fold.index) == (0, 0)
    assert sorted(fold.training) == sorted(drawn.cases.index[:60])
    assert sorted(fold.validation) == sorted(drawn.cases.index[60:])
    stored = json.loads((folder / "simulation.json").read_text())
    assert stored["oracle"]["eta"] == pytest.approx(drawn.oracle(fold.validation)["eta"], abs=1e-5)
    assert (stored["config"]["world"], stored["config"]["cases"], stored["config"]["held_out"]) == (2, 60, 40)


def test_an_unknown_preset_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'demmo'.*demo, test, rare"):
        write_simulated(tmp_path, "demmo")


def test_a_cohort_that_was_not_simulated_is_not_replaced(tmp_path, small, tree):
    """Nor a simulated one with an imported part; a purely simulated one is replaced."""
    demo = tmp_path / "demo"
    write_simulated(demo, "demo", cases=30)
    write_simulated(demo, "demo", cases=40)
    assert len(Cohort.load(demo, "SIM").cases) == 40

    write_cohort(tmp_path / "real", "BLCA", **small)
    write_features(tmp_path / "features alone" / "BLCA" / "features", small["slides"][:2])
    mixed = cohort_folder(tmp_path / "mixed", "BLCA")
    write_simulated(tmp_path / "mixed", "demo", cases=30, name="BLCA")
    update_cohort(mixed, {"labels": {"file": "real.csv"}}, cases=small["cases"])
    for root in ("real", "features alone", "mixed"):
        before = tree(tmp_path)
        with pytest.raises(DataError, match=f"{root}/BLCA: contains data that were not simulated .*Fix: give the"):
            write_simulated(tmp_path / root, "demo", cases=30, name="BLCA")
        assert tree(tmp_path) == before


def test_the_truth_is_given_only_for_simulated_labels(tmp_path, small):
    folder = cohort_folder(tmp_path, "SIM")
    assert read_simulation(folder) is None
    write_simulated(tmp_path, "demo", cases=30)
    assert 0.5 < read_simulation(folder)["oracle"]["eta"] <= 1
    update_cohort(folder, {"expression": {"file": "real.csv"}}, expression=small["expression"])
    assert read_simulation(folder) is not None
    update_cohort(folder, {"labels": {"file": "real.csv"}}, cases=small["cases"])
    assert (folder / "simulation.json").is_file() and read_simulation(folder) is None


def test_the_demo_is_written_once_per_simulator(tmp_path, monkeypatch):
    def made() -> int:
        folder = demo_data(tmp_path)
        return os.stat(folder.local / "SIM" / "cases.parquet").st_ino

    first = made()
    assert made() == first
    monkeypatch.setattr(survq.demo, "simulator", lambda: "another")
    assert made() != first
