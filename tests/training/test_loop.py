import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from small_cohort import CPU, QUIET, make_cohort, make_run, train, train_together
from torch.utils._python_dispatch import TorchDispatchMode

from survq.data.batch import Preprocessing
from survq.data.folds import Fold
from survq.evaluation.concordance import concordance_index, fold_concordance
from survq.importing.labels import read_labels
from survq.models import MODELS, Prediction, SurvivalModel
from survq.models.losses import nll_survival_loss
from survq.training.learner import FoldLearner
from survq.training.loop import _sampled, train_folds
from survq.training.sampling import epoch_batches

NONE = torch.zeros(0, 6)
FROZEN = {
    "validation_loss": [1.1832587023889047, 1.2192784725967047, 1.0772874639666006],
    "c_index": [0.7096774193548387, 0.7, 0.7647058823529411],
}
"""make_run on make_cohort, 3 epochs, torch 2.13 and numpy 2 on a CPU."""


@pytest.fixture(scope="module")
def small():
    return make_cohort()


@pytest.fixture(scope="module")
def plain(small):
    """The reference run."""
    return train(make_run(small[0]), *small)


def weights(outcome) -> list[str]:
    return outcome.details["weights_sha256"]


def test_a_run_has_epochs_and_out_of_fold_predictions(small):
    cohort, bags = small
    run = make_run(cohort, k=3, epochs=3)
    received = []
    outcome = train_folds(run, cohort, bags, device=CPU, on_epoch=received.append)
    assert outcome.state == "finished"
    assert outcome.epochs == received
    assert [epoch.epoch for epoch in outcome.epochs] == [1, 2, 3]
    assert len(set(weights(outcome))) == 3

    predictions = outcome.predictions
    assert sorted(predictions["case_id"]) == list(cohort.cases.index)  # each case by the one fold that held it out
    held_out = {case: fold.index for fold in run.folds for case in fold.validation}
    assert dict(zip(predictions["case_id"], predictions["fold"], strict=True)) == held_out
    assert list(predictions.columns[:6]) == ["case_id", "repeat", "fold", "time", "event", "interval"]
    known = cohort.cases.loc[predictions["case_id"]]
    assert (predictions["time"].to_numpy() == known["time"].to_numpy()).all()
    assert (predictions["event"].to_numpy() == known["event"].to_numpy()).all()

    hazards = predictions[[f"hazard_{k}" for k in range(3)]].to_numpy()
    assert ((hazards > 0) & (hazards < 1)).all()
    assert predictions["risk"].to_numpy() == pytest.approx(-np.cumprod(1 - hazards, axis=1).sum(axis=1), abs=1e-12)
    last = outcome.epochs[-1]
    assert list(last.c_index) == pytest.approx(fold_concordance(predictions)["c_index"].tolist(), abs=1e-12)
    assert list(last.validation_loss) == pytest.approx(predictions.groupby("fold")["nll"].mean().tolist())


@pytest.mark.parametrize(("sampling", "balanced"), [("shuffled", None), ("balanced", 3)])
def test_a_fold_is_trained_like_a_plain_loop(small, sampling, balanced):
    """The reference is a plain loop with an optimizer that is not fused."""
    cohort, bags = small
    settings = {"learning_rate": 5e-3, "weight_decay": 0.1, "sampling": sampling, "intervals": 3}
    run = make_run(cohort, epochs=3, hyperparameters=QUIET, **settings)
    outcome = train(run, cohort, bags)
    for number, fold in enumerate(run.folds):
        learner = FoldLearner(run.config, cohort, fold, CPU)
        model, table, losses = learner.model, learner.table, []
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
        for epoch in (1, 2, 3):
            losses.append([])
            batches = epoch_batches(run.folds, cohort.cases, batch_size=8, seed=0, epoch=epoch, balanced=balanced)
            for batch in batches:
                own = [case for case in batch if case in fold.training]
                chosen = table.batch(own, [bags.get(case, NONE) for case in own])
                loss = nll_survival_loss(model(chosen).logits, chosen.interval, chosen.event)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses[-1] += [float(loss.detach())] * len(own)
        assert [epoch.training_loss[number] for epoch in outcome.epochs] == pytest.approx(
            [np.mean(epoch) for epoch in losses], rel=1e-4
        )
        held_out = sorted(fold.validation)
        expected = learner.predict(table.batch(held_out, [bags.get(case, NONE) for case in held_out]))
        found = outcome.predictions[outcome.predictions["fold"] == fold.index]
        assert list(found["case_id"]) == list(expected["case_id"])
        assert found["risk"].to_numpy() == pytest.approx(expected["risk"].to_numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("units", "model", "precision"),
    [(False, {"width": 256}, "fp32"), (True, {"width": 256}, "bf16"), (True, {"width": 8}, "fp32")],
)
def test_a_run_states_device_precision_and_parts(small, monkeypatch, units, model, precision):
    monkeypatch.setattr("survq.layers.precision.computes_bf16", lambda: units)
    run = make_run(small[0], k=2, epochs=1, hyperparameters=model)
    for outcome in train_together(run, *small, [((fold,), part, 2) for fold in (0, 1) for part in (0, 1)]):
        details = outcome.details
        assert (details["device"], details["precision"], details["parts"]) == ("cpu", precision, 2)


def test_training_finds_the_planted_risk(small):
    """Expression and patches contain the risk; a few epochs suffice."""
    cohort, bags = small
    outcome = train(make_run(cohort, epochs=8), cohort, bags)
    first, last = outcome.epochs[0], outcome.epochs[-1]
    assert np.mean(last.training_loss) < 0.7 * np.mean(first.training_loss)
    assert last.mean_c_index > 0.7


# determinism


def test_the_same_seed_gives_the_same_bits(small, plain):
    """The result does not depend on earlier random numbers."""
    torch.manual_seed(99)
    again = train(make_run(small[0]), *small)
    assert weights(again) == weights(plain)
    pd.testing.assert_frame_equal(again.predictions, plain.predictions, check_exact=True)
    assert again.epochs == plain.epochs


def test_another_seed_gives_other_weights(small, plain):
    assert not set(weights(train(make_run(small[0], seed=1), *small))) & set(weights(plain))


CHANGES = {
    "learning_rate": 2e-2,
    "weight_decay": 0.5,
    "epochs": 3,
    "batch_size": 12,
    "intervals": 4,
    "interval_edges": "cohort",
    "expression_scale": "zscore",
    "sampling": "balanced",
    "patches_per_case": 2,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_changes_the_weights(small, plain, name):
    assert weights(train(make_run(small[0], **{name: CHANGES[name]}), *small)) != weights(plain)


def test_a_known_result_is_reproduced(small):
    """A regression test: update the numbers if training changes on purpose."""
    last = train(make_run(small[0], epochs=3), *small).epochs[-1]
    assert list(last.validation_loss) == pytest.approx(FROZEN["validation_loss"], rel=1e-3)
    assert list(last.c_index) == pytest.approx(FROZEN["c_index"], abs=1e-6)


# folds and processes


@pytest.mark.parametrize("sampling", ["shuffled", "balanced"])
def test_a_fold_does_not_depend_on_the_distribution_over_processes(small, sampling):
    """A fold trained alone equals the fold trained with others, to the bit."""
    run = make_run(small[0], sampling=sampling, patches_per_case=3)
    alone = train(run, *small)
    for outcome in (
        *train_together(run, *small, [((2,), 0, 1), ((0,), 0, 1), ((1,), 0, 1)]),
        *train_together(run, *small, [((2, 0), 0, 1), ((1,), 0, 1)]),
    ):
        assert weights(outcome) == weights(alone)
        assert outcome.epochs == alone.epochs
        assert outcome.details["interval_edges"] == alone.details["interval_edges"]
        pd.testing.assert_frame_equal(outcome.predictions, alone.predictions, check_exact=True)


@pytest.mark.parametrize(("batch_size", "epochs"), [(8, 2), (5, 2), (1, 1)])
def test_batches_of_a_fold_may_be_distributed_too(small, batch_size, epochs):
    """Two processes per fold sum their gradients: equal up to rounding, even if a part has no case."""
    settings = {"batch_size": batch_size, "epochs": epochs, "learning_rate": 2e-3}
    run = make_run(small[0], k=2, hyperparameters=QUIET, **settings)
    alone = train(run, *small)
    outcomes = train_together(run, *small, [((0,), 0, 2), ((0,), 1, 2), ((1,), 0, 2), ((1,), 1, 2)])
    assert all(weights(outcome) == weights(outcomes[0]) for outcome in outcomes)
    for epoch, expected in zip(outcomes[0].epochs, alone.epochs, strict=True):
        assert list(epoch.c_index) == pytest.approx(list(expected.c_index), abs=1e-5)
        assert list(epoch.training_loss) == pytest.approx(list(expected.training_loss), rel=1e-4)
        assert list(epoch.validation_loss) == pytest.approx(list(expected.validation_loss), rel=1e-4)
    found = outcomes[3].predictions
    assert list(found["case_id"]) == list(alone.predictions["case_id"])
    assert found["risk"].to_numpy() == pytest.approx(alone.predictions["risk"].to_numpy(), abs=1e-4)


def test_repeated_folds_predict_each_case_once_per_repeat(small):
    run = make_run(small[0], k=3, repeats=2, epochs=1)
    outcome = train(run, *small)
    assert len(outcome.epochs[0].c_index) == len(weights(outcome)) == 6
    assert outcome.predictions.groupby("case_id").size().eq(2).all()
    assert outcome.predictions.groupby("repeat")["case_id"].nunique().eq(len(small[0].cases)).all()


class Witness(SurvivalModel):
    """Records the cases that it receives."""

    seen: list = []  # noqa: RUF012

    def __init__(self, spec, *, noise: bool = False):
        super().__init__()
        self.linear = torch.nn.Linear(spec.genes, spec.intervals)
        self.register_buffer("prepared", torch.zeros(2))
        self.noise = noise

    def prepare(self, training):
        batches = list(training)
        self.seen.append(("prepare", [case for batch in batches for case in batch.case_ids], None))
        self.prepared = torch.rand(2)

    def forward(self, batch, *, keep_attention=False):
        sizes = {case: len(bag) for case, bag in zip(batch.case_ids, batch.bags, strict=True)}
        self.seen.append(("train" if self.training else "predict", list(batch.case_ids), sizes))
        return Prediction(self.linear(batch.expression))


@pytest.fixture
def witness(monkeypatch):
    monkeypatch.setitem(MODELS, "witness", Witness)
    monkeypatch.setattr(Witness, "seen", [])
    return Witness.seen


def witness_run(cohort, **settings):
    run = make_run(cohort, **settings)
    return replace(run, config=replace(run.config, model="witness", hyperparameters={}))


def test_a_fold_trains_on_its_training_cases_and_predicts_the_others(small, witness):
    cohort, bags = small
    run = witness_run(cohort, k=3, epochs=2)
    run = replace(run, folds=run.folds[:1])
    train(run, cohort, bags)
    (fold,) = run.folds
    assert sorted(witness[0][1]) == sorted(fold.training) and witness[0][0] == "prepare"
    seen = witness[1:]
    for _ in range(2):
        trained = [case for what, cases, _ in seen[:3] for case in cases if what == "train"]
        assert sorted(trained) == sorted(fold.training)
        assert all(len(cases) == 8 for _, cases, _ in seen[:3])
        predicted = [case for what, cases, _ in seen[3:5] for case in cases if what == "predict"]
        assert sorted(predicted) == sorted(fold.validation)
        seen = seen[5:]
    afterwards = [(what, case) for what, cases, _ in seen for case in cases]
    assert sorted(afterwards) == [("predict", case) for case in sorted(fold.training)], "for the cut of risk groups"


class Untouchable(Mapping):
    """Bags that may not be read."""

    def __getitem__(self, case):
        raise AssertionError(f"the patches of {case} were read")

    def __iter__(self):
        raise AssertionError("the bags were listed")

    __contains__, __len__ = __getitem__, __iter__


def test_a_model_of_genes_reads_no_patches(small):
    cohort, _ = small
    cohort = cohort.select(list(cohort.cases.index[MODELS["snn"].readable(cohort)]))
    run = make_run(cohort, epochs=1)
    run = replace(run, config=replace(run.config, model="snn", hyperparameters={"width": 8}))
    assert train(run, cohort, Untouchable()).state == "finished"


def test_patches_are_sampled_in_training_only(small, witness):
    cohort, bags = small
    train(witness_run(cohort, patches_per_case=3), cohort, bags)
    for what, _, sizes in witness:
        for case, size in (sizes or {}).items():
            all_of_them = len(bags.get(case, ()))
            assert size == (min(3, all_of_them) if what == "train" else all_of_them)


def test_random_numbers_of_prepare_do_not_depend_on_other_folds(small, witness):
    run = witness_run(small[0])
    together = train(run, *small)
    apart = train_together(run, *small, [((0,), 0, 1), ((1, 2), 0, 1)])
    assert weights(apart[0]) == weights(together)


def test_patches_are_sampled_uniformly_per_case_epoch_and_seed():
    bag = torch.arange(10)[:, None]

    def draw(bag, case="A", seed=0, epoch=1):
        return _sampled(bag, case, 4, seed, epoch)

    drawn = draw(bag).flatten().tolist()
    assert drawn == sorted(set(drawn)) and len(drawn) == 4
    assert drawn == draw(bag).flatten().tolist()
    others = [draw(bag, **other).flatten().tolist() for other in ({"epoch": 2}, {"case": "B"}, {"seed": 1})]
    assert all(other != drawn for other in others)
    counts = np.zeros(10)
    for epoch in range(300):
        counts[draw(bag, epoch=epoch).flatten()] += 1
    assert (abs(counts - 120) < 5 * np.sqrt(300 * 0.4 * 0.6)).all()
    assert torch.equal(draw(bag[:4]), bag[:4])


# information that must not reach a fold


def with_other_held_out_cases(cohort, bags, fold):
    """Replace the outcomes, expression and patches of the held-out cases."""
    random = np.random.default_rng(9)
    held_out = list(fold.validation)
    cases, expression, bags = cohort.cases.copy(), cohort.expression.copy(), dict(bags)
    cases.loc[held_out, "time"] = random.exponential(500, len(held_out)) + 1
    cases.loc[held_out, "event"] = ~cases.loc[held_out, "event"]
    measured = [case for case in held_out if case in expression.index]
    expression.loc[measured] = random.normal(100, 50, (len(measured), 8)).astype(np.float32)
    for case in held_out:
        if case in bags:
            bags[case] = bags[case] * 7 + 1
    return replace(cohort, cases=cases, expression=expression), bags


@pytest.mark.parametrize("sampling", ["shuffled", "balanced"])
@pytest.mark.parametrize("expression_scale", ["minmax", "zscore"])
def test_a_fold_does_not_depend_on_its_held_out_cases(small, sampling, expression_scale):
    run = make_run(small[0], sampling=sampling, expression_scale=expression_scale)
    before = train(run, *small)
    changed = train(run, *with_other_held_out_cases(*small, run.folds[0]))
    assert weights(changed)[0] == weights(before)[0]
    assert changed.details["interval_edges"][0] == before.details["interval_edges"][0]
    # the other folds trained on these cases
    assert weights(changed)[1] != weights(before)[1]
    assert weights(changed)[2] != weights(before)[2]


def test_edges_of_the_whole_cohort_depend_on_held_out_cases(small):
    """The small leak of the paper's protocol, which the configuration names."""
    run = make_run(small[0], interval_edges="cohort")
    before = train(run, *small)
    changed = train(run, *with_other_held_out_cases(*small, run.folds[0]))
    assert changed.details["interval_edges"][0] != before.details["interval_edges"][0]
    assert len({tuple(edges) for edges in before.details["interval_edges"]}) == 1


# tables are joined by case id


def test_the_order_of_rows_and_genes_does_not_matter(small, plain):
    """Joining tables by position would give a case the expression of another case."""
    cohort, bags = small
    random = np.random.default_rng(4)

    def shuffled(table):
        return table.iloc[random.permutation(len(table))]

    mixed = replace(
        cohort,
        cases=shuffled(cohort.cases),
        expression=shuffled(cohort.expression)[list("HCABGFED")],
        slides=shuffled(cohort.slides),
    )
    mixed_bags = {case: bags[case] for case in random.permutation(list(bags))}
    run = make_run(cohort)
    found = train(run, mixed, mixed_bags)
    pd.testing.assert_frame_equal(found.predictions, plain.predictions, check_exact=True)
    table = Preprocessing.fit(mixed, run.folds[0]).table(mixed)
    for case in ("CASE-000", "CASE-020"):
        batch = table.batch([case], [bags[case]])
        assert float(batch.time) == pytest.approx(cohort.cases.loc[case, "time"])


def test_swapped_cases_change_predictions(small, plain):
    """Shows that the test above can fail."""
    cohort, bags = small
    expression = cohort.expression.copy()
    expression.index = expression.index[::-1]
    found = train(make_run(cohort), replace(cohort, expression=expression), bags).predictions
    assert not np.allclose(found["risk"], plain.predictions["risk"], atol=1e-3)


# divergence


def exploding(cohort, bags, of):
    """Features of some cases that overflow."""
    return cohort, {case: bag.float() * 1e30 if case in of else bag for case, bag in bags.items()}


def test_a_diverging_run_states_where_and_how(small):
    cohort, bags = small
    run = make_run(cohort, learning_rate=1.0, epochs=4)
    outcome = train(run, *exploding(cohort, bags, set(bags)))
    assert outcome.state == "diverged"
    assert outcome.predictions is None
    assert outcome.epochs == []
    assert "fold 0, epoch 1, step 1" in outcome.details["reason"]
    assert "lower learning rate" in outcome.details["reason"]


class NumbersRead(TorchDispatchMode):
    """Counts how often Python asks a tensor for its number: a GPU is waited for each time."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("model", "most"), [("snn", 0), ("abmil", 0), ("survq", 2)])
def test_a_step_does_not_wait_for_a_gpu(small, model, most):
    """Except the default model: whether its levels were high enough, and whether all cases have all tokens."""
    cohort, bags = small
    run = make_run(cohort)
    config = run.config if model == run.config.model else replace(run.config, model=model, hyperparameters={})
    learner = FoldLearner(config, cohort, run.folds[0], CPU)
    cases = [case for case in sorted(learner.training) if case in bags][:4]
    with NumbersRead() as read:
        terms = learner.step(learner.table.batch(cases, [bags[case] for case in cases]), len(cases), 0)
        in_step = read.count
        assert all(math.isfinite(term) for term in terms.values())
    assert in_step <= most and read.count == in_step + len(terms)


def test_a_prediction_of_nan_counts_as_divergence(small, monkeypatch):
    """A C-index of the remaining cases would look like a result."""
    cohort, bags = small
    run = make_run(cohort)
    run = replace(run, folds=run.folds[:1])
    outcome = train(run, *exploding(cohort, bags, {run.folds[0].validation[0]}))
    assert outcome.state == "diverged"
    assert "a prediction of fold 0" in outcome.details["reason"]


def test_epochs_before_divergence_are_kept(small, monkeypatch):
    cohort, bags = small
    step, calls = FoldLearner.step, []

    def fail_in_the_second_epoch(self, *arguments, **options):
        calls.append(self)
        terms = step(self, *arguments, **options)
        return {name: torch.nan * term for name, term in terms.items()} if len(calls) > 12 else terms

    monkeypatch.setattr(FoldLearner, "step", fail_in_the_second_epoch)
    outcome = train_folds(make_run(cohort, epochs=3), cohort, bags, device=CPU, keep_weights=True)
    assert (outcome.state, len(outcome.epochs)) == ("diverged", 1)
    assert outcome.predictions is None and not outcome.files, "nothing is kept of what diverged"
    assert "the survival loss became nan in fold 0, epoch 2, step" in outcome.details["reason"]


@pytest.mark.parametrize("parts", [1, 2])
def test_divergence_in_one_process_stops_all(small, parts):
    """Otherwise the others would wait for its gradients forever."""
    cohort, bags = small
    ids = list(cohort.cases.index)
    a, b, c, d = ids[:12], ids[12:18], ids[18:30], ids[30:]
    run = make_run(cohort, epochs=3)
    run = replace(run, folds=(Fold(0, 0, tuple(a), tuple(b)), Fold(0, 1, tuple(c), tuple(d))))
    poisoned = exploding(cohort, bags, {next(case for case in c if case in bags)})
    alone = train(run, *poisoned)
    assert alone.state == "diverged" and "fold 1" in alone.details["reason"]
    shares = [((fold,), part, parts) for fold in (0, 1) for part in range(parts)]
    outcomes = train_together(run, *poisoned, shares)
    assert {outcome.state for outcome in outcomes} == {"diverged"}
    assert len({outcome.details["reason"] for outcome in outcomes}) == 1
    if parts == 1:
        assert outcomes[0].details["reason"] == alone.details["reason"]


# signs, from the clinical table to the C-index


def planted(tmp_path):
    """A cohort read from a clinical table, and a mask of its cases of high risk.

    Half of the cases have a high value of a gene and die early. Most of the others are censored early; some die late.
    """
    random = np.random.default_rng(0)
    n = 60
    high = np.arange(n) % 2 == 0
    lost = ~high & (random.random(n) < 0.8)
    months = np.where(high | lost, random.uniform(1, 20, n), random.uniform(40, 60, n))
    table = pd.DataFrame(
        {
            "case_id": [f"P{number:02d}" for number in range(n)],
            "survival_months": months,
            "censorship": lost.astype(int),
        }
    )
    table.to_csv(tmp_path / "clinical.csv", index=False)
    cases = read_labels(tmp_path / "clinical.csv", "OS").cases
    cohort, _ = make_cohort()
    expression = pd.DataFrame(random.normal(size=(n, 8)), index=cases.index, columns=list("ABCDEFGH"))
    expression["D"] += 3.0 * high
    return replace(cohort, cases=cases, expression=expression.astype(np.float32), slides=cohort.slides[:0]), high


def test_early_deaths_have_a_high_risk(tmp_path):
    """Censorship 0 is a death; deaths raise hazard and risk; a correct ranking has a C-index near 1."""
    cohort, high = planted(tmp_path)
    assert cohort.cases["event"][high].all()
    hyperparameters = {"width": 8, "histology_queries": 0, **QUIET}
    run = make_run(cohort, epochs=12, learning_rate=2e-2, hyperparameters=hyperparameters)
    outcome = train(run, cohort, {})
    risk = outcome.predictions.set_index("case_id")["risk"].loc[cohort.cases.index].to_numpy()
    is_ranked_first = concordance_index(risk, np.where(high, 1.0, 2.0), np.ones(len(high), bool))
    assert is_ranked_first > 0.9
    assert outcome.epochs[-1].mean_c_index > 0.7

    flipped = replace(cohort, cases=cohort.cases.assign(event=~cohort.cases["event"]))
    wrong = train(replace(run, cohort="FLIPPED"), flipped, {}).predictions
    risk = wrong.set_index("case_id")["risk"].loc[cohort.cases.index].to_numpy()
    assert concordance_index(risk, np.where(high, 1.0, 2.0), np.ones(len(high), bool)) < 0.3
