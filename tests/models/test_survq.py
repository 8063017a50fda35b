import math
from dataclasses import replace

import pytest
import torch
from small_models import SPEC, build, make_batch, modules_of, take

from survq.data.cohort import InputSpec
from survq.importing.gene_set_files import read_file
from survq.models.losses import nll_survival_loss
from survq.models.survq import SurvQ


def survq(spec=SPEC, seed=0, **hyperparameters) -> SurvQ:
    return build("survq", spec, seed, **hyperparameters).eval()


def attend(layer, Q, X):
    q, k, v = layer.query(Q), layer.key(X), layer.value(X)
    return torch.softmax(q @ k.T / math.sqrt(q.shape[1]), dim=1) @ v


def reference(model: SurvQ, batch, spec=SPEC) -> torch.Tensor:
    """The equations of section 3 for one case at a time, without queries or mixing if the model has none."""
    logits = []
    modules = modules_of(model.encode_pathways, spec.pathways)
    for number, bag in enumerate(batch.bags):
        tokens = []
        if len(bag):
            X_h = model.encode_patches(bag.float())
            tokens.append(attend(model.read_patches, model.Q_h, X_h) if model.Q_h is not None else X_h)
        if batch.has_expression[number]:
            pathways = zip(modules, spec.pathways, strict=True)
            X_g = torch.stack([module.eval()(batch.expression[number, list(genes)]) for module, genes in pathways])
            tokens.append(attend(model.read_pathways, model.Q_g, X_g) if model.Q_g is not None else X_g)
        M = torch.cat(tokens)
        for layer in model.mix:
            M = attend(layer, M, M)
        logits.append(model.hazard(M.mean(dim=0)))
    return torch.stack(logits)


ABLATIONS = {
    "the paper": {},
    "no queries, no mixing (Table 2)": {"histology_queries": 0, "genomic_queries": 0, "depth": 0},
    "histology queries alone (Table 2)": {"genomic_queries": 0, "depth": 0},
    "genomic queries alone": {"histology_queries": 0, "depth": 0},
    "both queries, no mixing (Table 2)": {"depth": 0},
    "frozen queries (Table 4)": {"learnable_queries": False},
}


@pytest.mark.parametrize("hyperparameters", ABLATIONS.values(), ids=ABLATIONS)
def test_the_equations(hyperparameters):
    """With and without queries and mixing, and for cases that lack a modality."""
    model = survq(**hyperparameters)
    batch = make_batch((7, 0, 4, 900, 9), has_expression=[True, True, False, True, False])
    assert torch.allclose(model(batch).logits, reference(model, batch), atol=1e-5)


def test_the_equations_with_bags_that_are_not_packed_together():
    model, batch = survq(), make_batch((4000, 3, 5000, 90, 4096))
    assert torch.allclose(model(batch).logits, reference(model, batch), atol=1e-5)


@pytest.mark.parametrize("hyperparameters", ABLATIONS.values(), ids=ABLATIONS)
def test_a_missing_modality_equals_a_model_without_it(hyperparameters):
    """A model for a cohort with one modality predicts the same as the full model for a case that lacks the other."""
    both = survq(**hyperparameters)
    without_slides = survq(replace(SPEC, patch_features=0), **hyperparameters)
    without_expression = survq(replace(SPEC, genes=0, gene_sets={}), **hyperparameters)
    for alone, batch in (
        (without_slides, make_batch((0, 0, 0))),
        (without_expression, make_batch(has_expression=[False] * 4)),
    ):
        alone.load_state_dict({name: both.state_dict()[name] for name in alone.state_dict()})
        expected = alone(batch).logits
        assert torch.allclose(both(batch).logits, expected, atol=1e-6)
        mixed = make_batch((5, 2, 7))
        among_others = replace(
            mixed,
            bags=(*mixed.bags, *batch.bags),
            case_ids=(*mixed.case_ids, *(f"other {case}" for case in batch.case_ids)),
            **{
                column: torch.cat([getattr(mixed, column), getattr(batch, column)])
                for column in ("expression", "has_expression", "clinical", "time", "event", "interval")
            },
        )
        assert torch.allclose(both(among_others).logits[3:], expected, atol=1e-6)


def test_each_modality_is_read():
    model, batch = survq(), make_batch()
    logits = model(batch).logits
    assert (model(replace(batch, bags=tuple(-bag for bag in batch.bags))).logits - logits).abs().max() > 1e-4
    assert (model(replace(batch, expression=-batch.expression)).logits - logits).abs().max() > 1e-4


def test_parameters(pathway_sizes):
    """The number that follows from the equations: width 256, 1024 features, 331 pathways with 9,745 genes in total."""
    assert (len(pathway_sizes), sum(pathway_sizes)) == (331, 9745)
    spec = InputSpec(1024, 4999, {"pathways": tuple(tuple(range(size)) for size in pathway_sizes)})
    model = SurvQ(spec)
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    assert count == {
        "encode_patches": 656_128,
        "encode_pathways": 24_356_608,
        "read_patches": 197_376,
        "read_pathways": 197_376,
        "mix": 197_376,
        "hazard": 1_028,
    }
    assert model.Q_h.numel() + model.Q_g.numel() == 109_568
    assert sum(p.numel() for p in model.parameters()) == 25_715_460

    batch = make_batch((50, 0), spec=spec)
    prediction = model.eval()(batch, keep_attention=True)
    assert prediction.logits.isfinite().all()
    assert prediction.attention.histology[0].shape == (300, 50)
    assert prediction.attention.genomics.shape == (2, 128, 331)
    assert prediction.attention.fusion[0].shape == (2, 428, 428)

    frozen = SurvQ(spec, learnable_queries=False)
    assert sum(p.numel() for p in frozen.parameters() if p.requires_grad) == 25_605_892
    assert sum(p.numel() for p in frozen.parameters()) == 25_715_460


def test_the_pathway_sizes_are_those_of_the_data(real_data, pathway_sizes):
    signatures = read_file(real_data / "survpath/datasets_csv/metadata/combine_signatures.csv")
    assert sorted(map(len, signatures.genes)) == pathway_sizes


def test_frozen_queries_keep_the_initial_values_of_learnable_ones():
    """So that Table 4 compares equal starts."""
    learnable, frozen = survq(), survq(learnable_queries=False)
    assert all(torch.equal(a, b) for a, b in zip(learnable.parameters(), frozen.parameters(), strict=True))
    assert {name for name, p in frozen.named_parameters() if not p.requires_grad} == {"Q_h", "Q_g"}
    batch, Q_h = make_batch(), frozen.Q_h.clone()
    for model in (learnable, frozen):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        nll_survival_loss(model(batch).logits, batch.interval, batch.event).backward()
        optimizer.step()
    assert torch.equal(frozen.Q_h, Q_h)
    assert not torch.equal(learnable.Q_h, Q_h)


def test_queries_are_initialised_from_the_normal_distribution():
    Q_h = survq(histology_queries=400).Q_h.detach()
    assert float(Q_h.mean()) == pytest.approx(0, abs=0.05)
    assert float(Q_h.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("hyperparameters", [{}, {"block": "residual", "depth": 3}], ids=["plain", "residual"])
def test_the_order_of_queries_does_not_matter(hyperparameters):
    model, batch = survq(**hyperparameters), make_batch()
    before = model(batch).risk
    with torch.no_grad():
        model.Q_h.copy_(model.Q_h[torch.tensor([3, 0, 4, 1, 2])])
        model.Q_g.copy_(model.Q_g.flip(0))
    assert torch.allclose(model(batch).risk, before, atol=1e-6)


def test_the_order_of_pathways_does_not_matter():
    """Reordered gene sets with their own weights give the same model."""
    order = [4, 2, 0, 5, 1, 3]
    spec = replace(SPEC, gene_sets={"pathways": tuple(SPEC.pathways[number] for number in order)})
    model, other = survq(), survq(spec)
    state = model.state_dict()
    by_size, its_by_size = (
        sorted(range(6), key=lambda number: len(pathways[number])) for pathways in (SPEC.pathways, spec.pathways)
    )
    position = [by_size.index(order[number]) for number in its_by_size]
    for name in ("bias_1", "weight_2", "bias_2"):
        state[f"encode_pathways.{name}"] = state[f"encode_pathways.{name}"][position]
    blocks = state["encode_pathways.weight_1"].split([len(SPEC.pathways[number]) for number in by_size])
    state["encode_pathways.weight_1"] = torch.cat([blocks[number] for number in position])
    other.load_state_dict(state)
    batch = make_batch()
    assert not torch.equal(model.encode_pathways(batch.expression), other.encode_pathways(batch.expression))
    assert torch.allclose(model(batch).logits, other(batch).logits, atol=1e-6)


@pytest.mark.parametrize("hyperparameters", [{}, {"block": "residual", "depth": 2}], ids=["plain", "residual"])
def test_attention_weights_sum_to_1_over_present_tokens(hyperparameters):
    model = survq(**hyperparameters)
    batch = make_batch((7, 0, 4, 9), has_expression=[True, True, False, True])
    kept = model(batch, keep_attention=True).attention
    assert [None if weights is None else tuple(weights.shape) for weights in kept.histology] == [
        *((5, 7), None, (5, 4), (5, 9))
    ]
    for weights in (*(w for w in kept.histology if w is not None), kept.genomics, *kept.fusion):
        assert (weights >= 0).all()
        assert torch.allclose(weights.sum(dim=-1), torch.ones(weights.shape[:-1]), atol=1e-6)
    assert kept.genomics.shape == (4, 3, 6)
    assert len(kept.fusion) == hyperparameters.get("depth", 1)
    for weights in kept.fusion:
        assert weights.shape == (4, 8, 8)
        assert (weights[1, :, :5] == 0).all()  # no slides: no attention to its histology queries
        assert (weights[2, :, 5:] == 0).all()
        assert (weights[0] > 0).all()
    assert kept.tokens.shape == kept.fused.shape == (4, 8, 16)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_residual_blocks(depth):
    model = survq(block="residual", depth=depth)
    batch = make_batch((7, 0, 4, 9), has_expression=[True, True, False, True])
    logits = model(batch).logits
    assert logits.isfinite().all()
    alone = torch.cat([model(take(batch, [number])).logits for number in range(4)])
    assert torch.allclose(logits, alone, atol=1e-6)
    nll_survival_loss(model.train()(batch).logits, batch.interval, batch.event).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_matters():
    """Except the bias of the keys, which shifts all scores of a query equally."""
    model, batch = survq().double(), make_batch()
    batch = replace(batch, expression=batch.expression.double())
    nll_survival_loss(model(batch).logits, batch.interval, batch.event).backward()
    strength = {name: float(p.grad.abs().max()) for name, p in model.named_parameters()}
    assert {name for name, value in strength.items() if value < 1e-12} == {
        f"{layer}.key.bias" for layer in ("read_patches", "read_pathways", "mix.0")
    }


def test_gradients():
    model = survq(width=4, histology_queries=2, genomic_queries=2).double()
    batch = make_batch((3, 2))
    batch = replace(batch, expression=batch.expression.double(), bags=tuple(bag.double() for bag in batch.bags))
    patches, expression = (t.clone().requires_grad_() for t in (batch.bags[0], batch.expression))

    def loss(patches, expression):
        logits = model(replace(batch, bags=(patches, batch.bags[1]), expression=expression)).logits
        return nll_survival_loss(logits, batch.interval, batch.event)

    assert torch.autograd.gradcheck(loss, (patches, expression))


def test_dropout_is_used_only_in_training():
    batch = make_batch()
    quiet = survq(patch_dropout=0.0, pathway_dropout=0.0)
    assert torch.equal(quiet.train()(batch).logits, quiet.eval()(batch).logits)
    for which in ("patch_dropout", "pathway_dropout"):
        model = survq(**{"patch_dropout": 0.0, "pathway_dropout": 0.0, which: 0.5})
        assert not torch.allclose(model.train()(batch).logits, model.eval()(batch).logits)


REFUSED = {
    "deep plain attention": ({"depth": 2, "block": "plain"}, 'depth=2 needs block="residual"'),
    "mixing without histology queries": ({"histology_queries": 0}, "set depth=0"),
    "mixing without genomic queries": ({"genomic_queries": 0}, "set depth=0"),
    "a negative number": ({"genomic_queries": -1}, "0 or more"),
    "heads that do not divide": ({"block": "residual", "heads": 5}, "5 heads do not divide a width of 16"),
}


@pytest.mark.parametrize(("hyperparameters", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_hyperparameters_are_refused(hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        survq(**hyperparameters)


def test_an_unknown_block_is_refused():
    with pytest.raises((ValueError, TypeError)):  # the latter if types are checked
        survq(block="transformer")


def test_is_not_applicable_to_a_cohort_without_modalities():
    assert SurvQ.not_applicable(InputSpec(0, 0, {})) == "the cohort has no slides and no expression"
    assert "no gene of the pathways" in SurvQ.not_applicable(InputSpec(0, 9, {}))
    assert SurvQ.not_applicable(InputSpec(0, 9, {"pathways": ((1, 2),)})) is None


def test_queries_of_a_modality_that_the_cohort_lacks_do_not_count():
    survq(replace(SPEC, patch_features=0), histology_queries=0)
    survq(replace(SPEC, genes=0, gene_sets={}), genomic_queries=0)
