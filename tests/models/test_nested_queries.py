"""Nested queries: one SurvQ that contains a smaller one for each number of its queries."""

import pytest
import torch
from small_models import build, loss_of, make_batch

from survq.models.survq import prefixes

COUNTS = {"histology_queries": 6, "genomic_queries": 5}


def nested(**hyperparameters):
    dropout = {"patch_dropout": 0.0, "pathway_dropout": 0.0}
    return build("survq", nested_queries=True, **{**COUNTS, **dropout, **hyperparameters})


@pytest.mark.parametrize("depth", [1, 2])
def test_each_prefix_is_the_model_with_only_these_queries(depth):
    batch = make_batch(sizes=(7, 0, 4, 9), has_expression=[True, True, False, True])
    model = nested(depth=depth).eval()
    with torch.no_grad():
        found = model.predictions_by_size(batch)
        assert list(found) == [(h, g) for h in (1, 2, 4, 6) for g in (1, 2, 4, 5)]
        for (h, g), prediction in found.items():
            alone = build("survq", block="residual", depth=depth, histology_queries=h, genomic_queries=g).eval()
            weights = {**model.state_dict(), "Q_h": model.Q_h[:h], "Q_g": model.Q_g[:g]}
            alone.load_state_dict(weights)
            assert prediction.logits == pytest.approx(alone(batch).logits, abs=1e-5)
        assert found[6, 5].logits == pytest.approx(model(batch).logits, abs=1e-5)


def test_a_step_draws_the_same_prefix_for_the_same_seed():
    batch, model = make_batch(), nested().train()

    def gradient(seed: int) -> torch.Tensor:
        model.zero_grad()
        torch.manual_seed(seed)
        loss_of(model(batch), batch).backward()
        return model.Q_h.grad.clone()

    used = set()
    for seed in range(40):
        rows = gradient(seed).abs().sum(dim=1) > 0
        count = int(rows.sum())
        assert rows[:count].all(), "always the first queries"
        used.add(count)
        assert (gradient(seed) == gradient(seed)).all()
    assert used == set(prefixes(6))


def test_the_numbers_of_queries():
    assert prefixes(1) == [1] and prefixes(8) == [1, 2, 4, 8] and prefixes(300)[-3:] == [128, 256, 300]


def test_plain_attention_is_refused():
    with pytest.raises(ValueError, match="needs block"):
        nested(block="plain")
    with pytest.raises(ValueError, match="needs block"):
        nested(block="residual", depth=0)
