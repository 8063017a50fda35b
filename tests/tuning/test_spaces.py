"""The search space of any model."""

from dataclasses import replace

import optuna
import pytest
from small_models import SPEC

from survq.exits import UsageError
from survq.models import MODELS
from survq.models.space import Choices, Floats, Integers
from survq.training.config import hyperparameters_of
from survq.tuning.spaces import space_of, suggest

GRADIENT = [name for name, kind in MODELS.items() if kind.learns]


@pytest.mark.parametrize("model", GRADIENT)
def test_the_first_trial_is_the_default_and_every_trial_is_a_configuration(model):
    space = space_of(model, SPEC, fixed={}, limits={}, epochs=7)
    first = space.configure(optuna.trial.FixedTrial(dict(space.first)))
    assert (first.model, first.epochs, first.learning_rate, first.weight_decay) == (model, 7, 5e-4, 1e-3)
    defaults = hyperparameters_of(model)
    assert all(defaults[name] == value for name, value in first.hyperparameters.items())
    assert set(first.hyperparameters) == set(MODELS[model].space) and set(MODELS[model].sizes) <= set(defaults)
    for seed in range(3):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        config = space.configure(study.ask())
        assert space.complexity(config) >= 0


def test_limits_and_fixed_hyperparameters():
    space = space_of("survq", SPEC, fixed={"width": 32, "depth": 0}, limits={"histology_queries": 64}, epochs=1)
    assert space.first == {
        "histology_queries": 64, "genomic_queries": 128, "learning_rate": 5e-4, "weight_decay": 1e-3,
    }  # fmt: skip
    config = space.configure(optuna.trial.FixedTrial(dict(space.first)))
    assert config.hyperparameters == {"histology_queries": 64, "genomic_queries": 128, "width": 32, "depth": 0}
    assert space.complexity(config) == 64 + 128


def test_sizes_of_a_nested_model_are_the_largest_and_not_searched():
    fixed, limits = {"nested_queries": True, "width": 32}, {"histology_queries": 64}
    space = space_of("survq", SPEC, fixed=fixed, limits=limits, epochs=1)
    assert space.nested and not space_of("survq", SPEC, fixed={}, limits={}, epochs=1).nested
    assert set(space.first) == {"depth", "learning_rate", "weight_decay"}
    config = space.configure(optuna.trial.FixedTrial(dict(space.first)))
    assert config.hyperparameters == {**fixed, "histology_queries": 64, "genomic_queries": 128, "depth": 1}


def test_queries_of_a_missing_modality_are_not_searched():
    genes_only = space_of("survq", replace(SPEC, patch_features=0), fixed={}, limits={}, epochs=1)
    assert "histology_queries" not in genes_only.first and "genomic_queries" in genes_only.first
    slides_only = space_of("survq", replace(SPEC, genes=0, gene_sets={}), fixed={}, limits={}, epochs=1)
    assert "genomic_queries" not in slides_only.first and "histology_queries" in slides_only.first


def test_unknown_models_are_refused():
    with pytest.raises(UsageError, match="model 'survk' is unknown; expected one of mlp, "):
        space_of("survk", SPEC, fixed={}, limits={}, epochs=1)


def test_ranges_are_suggested_as_declared():
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    assert 3 <= suggest(trial, "i", Integers(3, 5)) <= 5
    assert 0.1 <= suggest(trial, "f", Floats(0.1, 0.2, log=True)) <= 0.2
    assert suggest(trial, "c", Choices(("a", "b"))) in "ab"
