import numpy as np
import pandas as pd
import pytest

from survq.evaluation.concordance import fold_concordance
from survq.evaluation.late_fusion import late_fusion


def world(weights: tuple[float, float], n: int = 300, seed: int = 0) -> tuple[dict, dict]:
    """Predictions of two histology and two gene models in three folds; the true risk is a weighted sum of two causes.

    The first model of each modality sees its cause, the second one nothing. Every fold has another scale.
    """
    random = np.random.default_rng(seed)
    slides, genes, noise = random.normal(size=(3, n))
    risk = weights[0] * slides + weights[1] * genes
    fold = np.arange(n) % 3
    base = pd.DataFrame({"case_id": [f"C{i:03d}" for i in range(n)], "repeat": 0, "fold": fold})
    base = base.assign(time=np.exp(3 - risk + 0.3 * random.normal(size=n)), event=random.random(n) < 0.7)

    def seeing(values):
        return base.assign(risk=np.exp(fold) * values + 10 * fold)

    return {"abmil": seeing(slides), "blind": seeing(noise)}, {"snn": seeing(genes), "deaf": seeing(noise[::-1])}


def c_index(table: pd.DataFrame) -> float:
    return fold_concordance(table)["c_index"].mean()


def test_two_causes_are_better_than_one():
    histology, genomics = world((1, 1))
    fused, choices = late_fusion(histology, genomics)
    assert c_index(fused) > max(c_index(histology["abmil"]), c_index(genomics["snn"])) + 0.05
    assert choices["histology"].eq("abmil").all() and choices["genomics"].eq("snn").all()
    assert choices["weight"].between(0.3, 0.7).all()
    assert fused["risk"].between(0, 1).all() and sorted(fused["case_id"]) == sorted(histology["abmil"]["case_id"])


def test_a_modality_without_signal_gets_little_weight():
    histology, genomics = world((0.0, 1.0))
    assert late_fusion(histology, genomics)[1]["weight"].le(0.3).all()


def test_outcomes_of_a_fold_do_not_select_for_it():
    histology, genomics = world((1, 1))
    before_fused, before = late_fusion(histology, genomics)
    for table in (*histology.values(), *genomics.values()):
        own = table["fold"] == 0
        table.loc[own, "time"] = table.loc[own, "time"].to_numpy()[::-1]
    after_fused, after = late_fusion(histology, genomics)
    pd.testing.assert_series_equal(after.iloc[0], before.iloc[0])
    of_fold = [fused[fused["fold"] == 0]["risk"].tolist() for fused in (before_fused, after_fused)]
    assert of_fold[0] == of_fold[1]


def test_rows_in_another_order_change_nothing():
    histology, genomics = world((1, 0.5))
    shuffled = {name: table.sample(frac=1, random_state=1) for name, table in genomics.items()}
    pd.testing.assert_frame_equal(late_fusion(histology, shuffled)[0], late_fusion(histology, genomics)[0])


def test_other_cases_and_a_single_fold_are_refused():
    histology, genomics = world((1, 1))
    with pytest.raises(ValueError, match="different cases"):
        late_fusion(histology, {"snn": genomics["snn"].iloc[1:]})
    with pytest.raises(ValueError, match="repeat 0 has one fold"):
        late_fusion(
            *({name: table[table["fold"] == 0] for name, table in group.items()} for group in (histology, genomics))
        )
