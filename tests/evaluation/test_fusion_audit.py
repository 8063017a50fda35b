"""The fusion audit in worlds with a known truth: what a fused model does not see, it is not said to use."""

import json

import numpy as np
import pandas as pd
import pytest
from held_out_table import save_run
from study_files import run

from survq.evaluation.fusion_audit import QUESTIONS, fusion_audit, partial_correlation
from survq.training.results import Results

WORLDS = 20


def world(seed, histology=0.0, genes=0.0, interaction=0.0, cases=300):
    """Tables of a fused and two unimodal models. The fused risk is the true one up to noise; coefficients as stated."""
    random = np.random.default_rng(seed)
    h, g, *noise = random.normal(size=(5, cases))
    eta = histology * h + genes * g + interaction * h * g
    death, end = random.exponential(30 * np.exp(-eta)), random.exponential(60, cases)
    table = pd.DataFrame({"case_id": [f"C{i:03}" for i in range(cases)], "repeat": 0, "fold": np.arange(cases) % 5})
    table = table.assign(time=np.minimum(death, end), event=death <= end)
    risks = (eta + 0.3 * noise[0], h + 0.3 * noise[1], g + 0.3 * noise[2])
    return [table.assign(risk=risk) for risk in risks]


def p_values(**truth):
    """By question: the p value in each world."""
    audits = [fusion_audit(*world(seed, **truth), resamples=20, permutations=99) for seed in range(WORLDS)]
    return {
        question: np.array([audit.dependence[i].p_value for audit in audits]) for i, question in enumerate(QUESTIONS)
    }


def test_a_model_of_one_modality_is_told_so():
    p = p_values(histology=1.0)
    assert (p["histology"] <= 0.01).all()
    assert (p["genes"] < 0.05).sum() <= 4 and (p["interaction"] < 0.05).sum() <= 4


def test_a_model_of_both_uses_both_without_an_interaction():
    p = p_values(histology=1.0, genes=1.0)
    assert (p["histology"] <= 0.01).all() and (p["genes"] <= 0.01).all()
    assert (p["interaction"] < 0.05).sum() <= 4


def test_a_planted_interaction_is_found():
    assert (p_values(histology=0.9, genes=0.9, interaction=1.2)["interaction"] <= 0.01).all()


def test_pairs_of_a_weighted_mean_and_of_a_model_that_knows_more():
    fused, histology, genes = world(0, histology=1.0, genes=1.0)
    mean = fused.assign(risk=histology["risk"] + genes["risk"])
    kinds = {pair.kind: pair for pair in fusion_audit(mean, histology, genes, resamples=50, permutations=50).pairs}
    assert kinds["both"].right.estimate == 1 and kinds["neither"].right.estimate == 0
    assert sum(pair.share.estimate for pair in kinds.values()) == pytest.approx(1)
    assert all(pair.null_low < 0.5 < pair.null_high for pair in kinds.values())
    assert all(pair.right.low <= pair.right.estimate <= pair.right.high for pair in kinds.values())
    other = fusion_audit(fused.assign(risk=-fused["time"]), histology, genes, resamples=5, permutations=5)
    assert [pair.right.estimate for pair in other.pairs] == [1, 1, 1, 1]


def test_pairs_by_hand():
    """Four cases that die at 1, 2, 3 and 4: six pairs. Histology ranks all rightly except (1, 2), genes only (1, 2)."""
    table = pd.DataFrame({"case_id": list("abcd"), "repeat": 0, "fold": 0, "time": [1.0, 2.0, 3.0, 4.0], "event": True})
    fused, histology, genes = (table.assign(risk=risk) for risk in ([4, 3, 1, 2], [3, 4, 2, 1], [2, 1, 3, 4]))
    pairs = {p.kind: p for p in fusion_audit(fused, histology, genes, resamples=5, permutations=5).pairs}
    assert [pairs[kind].share.estimate * 6 for kind in pairs] == [0, 5, 1, 0]
    assert pairs["histology only"].right.estimate == 4 / 5 and pairs["genes only"].right.estimate == 1
    assert np.isnan(pairs["both"].right.estimate)


def test_partial_correlation_is_that_of_residuals():
    random = np.random.default_rng(0)
    x, y, z = random.normal(size=(3, 50))
    y, x = y + z, x + z + y
    design = np.column_stack([np.ones(50), z])
    residuals = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    found = partial_correlation(np.stack([x, y, z]), np.ones((1, 50)))
    assert found[0] == pytest.approx(np.corrcoef(residuals)[0, 1])
    assert np.isnan(partial_correlation(np.stack([x, z, z]), np.ones((1, 50)))[0])


def test_other_folds_are_refused():
    fused, histology, genes = world(0, histology=1.0)
    with pytest.raises(ValueError, match="same folds"):
        fusion_audit(fused, histology, genes.assign(fold=0))


def test_the_study_audits_every_fused_model_beside_the_best_of_each_modality(tmp_path, capsys):
    results = Results(tmp_path / "study")
    fused, histology, genes = world(0, histology=1.0, genes=1.0, cases=120)
    worse = genes.assign(risk=genes["risk"] + np.random.default_rng(1).normal(size=len(genes)))
    tables = {"survq": fused, "mcat": histology, "abmil": histology, "snn": genes, "mlp": worse, "kaplan_meier": worse}
    for model, table in tables.items():
        save_run(results, model, table, model=model)
    save_run(results, "other", fused.assign(fold=fused["fold"] // 2), model="motcat")
    (results.folder / "study.json").write_text("{}")
    assert run("fusion_audit", results.folder) == 0
    found = pd.read_csv(results.folder / "tables/fusion_audit.csv").set_index("method")
    assert sorted(found.index) == ["mcat", "survq"]
    assert set(found["histology"]) == {"abmil"} and set(found["genes"]) == {"snn"}
    assert (
        found.loc["mcat", "verdict"].startswith("nothing of genes beyond the other")
        and "below" in found.loc["mcat", "verdict"]
    )
    assert found.loc["survq", "genes_p"] < 0.01
    pairs = pd.read_csv(results.folder / "tables/fusion_pairs.csv").set_index(["method", "pairs_right_by"])
    assert (
        pairs.loc[("mcat", "histology only"), "fused_right"] == 1
        and pairs.loc[("mcat", "genes only"), "fused_right"] == 0
    )
    assert (results.folder / "figures/fusion_SIM.png").stat().st_size > 5000
    assert "Fusion audit" in (results.folder / "report.md").read_text()
    assert "late fusion" in capsys.readouterr().out
    shuffled = pd.read_csv(results.folder / "tables/fusion_shuffled.csv")
    assert len(shuffled) == 6 and shuffled["drop"].isna().all()
    assert set(shuffled["reason"]) == {"the weights were not kept; --keep-weights keeps them"}


def test_results_without_unimodal_models_are_refused(tmp_path, capsys):
    save_run(Results(tmp_path), "run", world(0, histology=1.0)[0])
    (tmp_path / "study.json").write_text(json.dumps({}))
    assert run("fusion_audit", tmp_path) == 64
    assert "one of slides alone" in capsys.readouterr().err
