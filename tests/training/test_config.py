import json
import re
from dataclasses import fields, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from survq.data.folds import Fold
from survq.models import MODELS, SurvivalModel
from survq.training.config import TrainConfig, hyperparameters_of
from survq.training.run import Run, named_settings

FOLDS = (Fold(0, 0, ("A", "B"), ("C",)), Fold(0, 1, ("A", "C"), ("B",)))


def run(group="", cohort="BLCA", folds=FOLDS, **settings) -> Run:
    return Run(cohort, TrainConfig(**settings), folds, group)


def test_defaults_are_those_of_the_paper():
    """Section 4.3; except that interval edges are those of training cases only."""
    config = TrainConfig()
    assert (config.learning_rate, config.weight_decay, config.epochs, config.batch_size) == (5e-4, 1e-3, 50, 32)
    assert (config.intervals, config.interval_edges) == (4, "training")
    paper = hyperparameters_of("survq")
    assert (paper["histology_queries"], paper["genomic_queries"], paper["depth"], paper["width"]) == (300, 128, 1, 256)


REFUSED = {
    "a model": ({"model": "surfq"}, "model 'surfq' is unknown; expected one of .*survq"),
    "a misspelt hyperparameter": (
        {"hyperparameters": {"histology_querys": 1}},
        "survq has no hyperparameter 'histology_querys'; perhaps 'histology_queries'",
    ),
    "a hyperparameter of no model": ({"hyperparameters": {"zzz": 1}}, "no hyperparameter 'zzz'; it has .*depth"),
    "the spec as hyperparameter": ({"hyperparameters": {"spec": 1}}, "no hyperparameter 'spec'"),
    "a learning rate of 0": ({"learning_rate": 0.0}, "learning_rate is 0.0; expected above 0 and at most 1"),
    "a learning rate above 1": ({"learning_rate": 5.0}, "learning_rate is 5.0"),
    "a learning rate that is not a number": ({"learning_rate": float("nan")}, "learning_rate is nan"),
    "a negative weight decay": ({"weight_decay": -1e-4}, "weight_decay is -0.0001; expected 0 to 10"),
    "no epochs": ({"epochs": 0}, "epochs is 0; expected 1 or more"),
    "no batch": ({"batch_size": 0}, "batch_size is 0"),
    "no patches": ({"patches_per_case": 0}, "patches_per_case is 0"),
    "one interval": ({"intervals": 1}, "intervals is 1; expected 2 or more"),
    "a share above 1": ({"nll_alpha": 1.5}, "nll_alpha is 1.5; expected 0 to 1"),
    "an optimizer": ({"optimizer": "lamb"}, "optimizer is 'lamb'; expected one of adamw, adam, sgd"),
    "a negative seed": ({"seed": -1}, "seed is -1; expected 0 or more"),
    "edges": ({"interval_edges": "trainig"}, "interval_edges is 'trainig'; expected one of training, cohort"),
    "a scale": ({"expression_scale": "z"}, "expected one of minmax, minmax_as_survpath, zscore"),
    "sampling": ({"sampling": "balance"}, "sampling is 'balance'; expected one of shuffled, balanced"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_all_invalid_settings_are_listed_at_once():
    with pytest.raises(ValueError) as error:
        TrainConfig(epochs=0, learning_rate=0.0, seed=-1, hyperparameters={"dpth": 1, "zzz": 2})
    for word in ("epochs", "learning_rate", "seed", "'depth'", "'zzz'"):
        assert word in str(error.value)


def test_a_weight_decay_of_0_is_accepted():
    assert TrainConfig(weight_decay=0.0).weight_decay == 0


OTHER = {
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "epochs": 49,
    "batch_size": 31,
    "seed": 1,
    "intervals": 3,
    "optimizer": "sgd",
    "schedule": "cosine",
    "nll_alpha": 0.5,
    "interval_edges": "cohort",
    "expression_scale": "zscore",
    "sampling": "balanced",
    "patches_per_case": 4096,
    "hyperparameters": {"depth": 0},
}


def test_every_setting_has_another_value_in_these_tests():
    assert set(OTHER) == {entry.name for entry in fields(TrainConfig)} - {"model"}


PARTS = {
    "cases": "a",
    "expression": "b",
    "gene set pathways": "c",
    "gene set hallmarks": "d",
    "features": "e",
    "clinical": "f",
}


@pytest.mark.parametrize("name", OTHER)
def test_every_setting_changes_description_and_path(name):
    plain, other = run(), run(**{name: OTHER[name]})
    assert plain.describe(PARTS) != other.describe(PARTS)
    assert plain.path != other.path


@pytest.mark.parametrize("name", hyperparameters_of("survq"))
def test_every_hyperparameter_changes_description_and_path(name):
    default = hyperparameters_of("survq")[name]
    other = (not default) if isinstance(default, bool) else "residual" if default is None else default + 1
    plain, changed = run(), run(hyperparameters={name: other})
    assert plain.describe(PARTS) != changed.describe(PARTS)
    assert plain.path != changed.path


def test_data_cohort_group_and_folds_change_a_description():
    first, second = FOLDS
    moved = Fold(0, 1, ("A",), ("B", "C"))
    descriptions = [
        run().describe(PARTS),
        run().describe(PARTS | {"expression": "other"}),
        run(cohort="BRCA").describe(PARTS),
        run(group="outer-0-0").describe(PARTS),
        run(folds=(first,)).describe(PARTS),
        run(folds=(second, first)).describe(PARTS),
        run(folds=(first, moved)).describe(PARTS),
        run(folds=(first, replace(second, repeat=1))).describe(PARTS),
    ]
    texts = {json.dumps(description, sort_keys=True) for description in descriptions}
    assert len(texts) == len(descriptions)


def test_spelling_defaults_and_kept_weights_do_not_change_a_description():
    """Nor do the order of settings, explicit defaults and kept weights change the path."""
    plain = run().describe(PARTS)
    explicit = run(hyperparameters={"depth": 1, "width": 256})
    assert explicit.describe(PARTS) == plain and explicit.path == run().path
    a = run(hyperparameters={"depth": 0, "width": 8})
    b = run(hyperparameters={"width": 8, "depth": 0})
    assert a.describe(PARTS) == b.describe(PARTS)
    assert a.path == b.path
    assert json.loads(json.dumps(plain)) == plain
    kept = replace(run(), keep_weights=True)
    assert kept.describe(PARTS) == plain and kept.path == run().path


def test_settings_are_in_two_namespaces():
    description = run(hyperparameters={"depth": 0}, epochs=7).describe(PARTS)
    assert (description["model"], description["cohort"], description["group"]) == ("survq", "BLCA", "")
    assert description["hyperparameters"] == hyperparameters_of("survq") | {"depth": 0}
    assert description["training"]["epochs"] == 7 and description["training"]["seed"] == 0
    assert not set(description["training"]) & {"model", "hyperparameters", "depth"}


def test_a_hyperparameter_with_the_name_of_a_training_setting_is_distinguished():
    settings = named_settings("pibd", {"alpha": 2, "width": 8}, {"alpha": 0.5, "seed": 0})
    assert settings == {"model": "pibd", "hyperparameter alpha": 2, "width": 8, "alpha": 0.5, "seed": 0}


@pytest.mark.parametrize(
    ("reads", "gene_sets", "parts"),
    [
        (set(), (), {"cases": "a"}),
        ({"clinical"}, (), {"cases": "a", "clinical": "f"}),
        ({"histology"}, (), {"cases": "a", "features": "e"}),
        ({"genomics"}, (), {"cases": "a", "expression": "b"}),
        ({"genomics"}, ("hallmarks",), {"cases": "a", "expression": "b", "gene set hallmarks": "d"}),
        ({"genomics"}, ("unknown",), {"cases": "a", "expression": "b", "gene set unknown": None}),
        (
            {"histology", "genomics"},
            ("pathways",),
            {"cases": "a", "expression": "b", "gene set pathways": "c", "features": "e"},
        ),
    ],
)
def test_a_description_has_the_parts_that_the_model_reads(monkeypatch, reads, gene_sets, parts):
    class Reader(SurvivalModel):
        pass

    Reader.reads, Reader.gene_sets = frozenset(reads), gene_sets
    monkeypatch.setitem(MODELS, "reader", Reader)
    assert run(model="reader").describe(PARTS)["data"] == parts


def test_the_path_is_short_and_readable():
    assert re.fullmatch(r"BLCA/survq-seed0-[0-9a-f]{8}", run().path)
    in_search = run(group="outer-0-1/trial-003", learning_rate=0.00051234567, seed=2)
    assert re.fullmatch(r"BLCA/outer-0-1/trial-003/survq-seed2-[0-9a-f]{8}", in_search.path)


def test_a_run_has_one_weight_file_per_fold():
    assert run().weights_files == ("fold-0-0.safetensors", "fold-0-1.safetensors")


def test_nearly_equal_learning_rates_have_different_paths():
    assert run(learning_rate=0.00051234567).path != run(learning_rate=0.00051234568).path


@settings(max_examples=100, deadline=None)
@example("../..", "/etc/../passwd")
@example(".hidden", "x" * 300)
@given(st.text(min_size=1, max_size=50), st.text(max_size=50))
def test_a_path_stays_inside_its_folder(cohort, group):
    """For any name of a cohort or a group: no parent folders, no hidden names, no invalid file names."""
    path = run(cohort=cohort, group=group, learning_rate=0.1).path
    assert not path.startswith("/")
    for part in path.split("/"):
        assert part and part.isascii() and part.isprintable()
        assert not part.startswith(".")
        assert len(part) <= 200
        assert not set(part) & set('\\:*?"<>|=, ')


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="a./\\ é", min_size=1, max_size=4), min_size=2, max_size=2, unique=True))
def test_altered_names_stay_different(cohorts):
    first, second = (run(cohort=cohort.replace("/", ":")).path for cohort in cohorts)
    assert first != second or cohorts[0].replace("/", ":") == cohorts[1].replace("/", ":")
