import ast
import json
import textwrap
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import survq
from survq.data.folds import Fold
from survq.models import MODELS
from survq.training import identity as module
from survq.training.config import TrainConfig, hyperparameters_of
from survq.training.identity import RESULT_MODULES, code_version
from survq.training.run import Run

FOLDS = (Fold(0, 0, ("A", "B"), ("C",)), Fold(0, 1, ("A", "C"), ("B",)))


def run(group="", cohort="BLCA", folds=FOLDS, **settings) -> Run:
    return Run(cohort, TrainConfig(**settings), folds, group)


def test_the_defaults_are_the_papers():
    """Section 4.3; the interval edges are the honest ones."""
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
    "a negative seed": ({"seed": -1}, "seed is -1; expected 0 or more"),
    "edges": ({"interval_edges": "trainig"}, "interval_edges is 'trainig'; expected one of training, cohort"),
    "a scale": ({"expression_scale": "z"}, "expected one of minmax, minmax_as_survpath, zscore"),
    "sampling": ({"sampling": "balance"}, "sampling is 'balance'; expected one of shuffled, balanced"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_says_all_that_is_wrong_at_once():
    with pytest.raises(ValueError) as error:
        TrainConfig(epochs=0, learning_rate=0.0, seed=-1, hyperparameters={"dpth": 1, "zzz": 2})
    for word in ("epochs", "learning_rate", "seed", "'depth'", "'zzz'"):
        assert word in str(error.value)


def test_accepts_a_weight_decay_of_0():
    assert TrainConfig(weight_decay=0.0).weight_decay == 0


OTHER = {
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "epochs": 49,
    "batch_size": 31,
    "seed": 1,
    "intervals": 3,
    "interval_edges": "cohort",
    "expression_scale": "zscore",
    "sampling": "balanced",
    "patches_per_case": 4096,
    "hyperparameters": {"depth": 0},
}


def test_another_value_for_every_setting():
    assert set(OTHER) == {entry.name for entry in fields(TrainConfig)} - {"model"}


@pytest.mark.parametrize("name", OTHER)
def test_every_setting_changes_description_and_path(name):
    plain, other = run(), run(**{name: OTHER[name]})
    assert plain.describe("data") != other.describe("data")
    assert plain.path != other.path


@pytest.mark.parametrize("name", hyperparameters_of("survq"))
def test_every_hyperparameter_changes_description_and_path(name):
    default = hyperparameters_of("survq")[name]
    other = (not default) if isinstance(default, bool) else "residual" if isinstance(default, str) else default + 1
    plain, changed = run(), run(hyperparameters={name: other})
    assert plain.describe("data") != changed.describe("data")
    assert plain.path != changed.path


def test_what_else_changes_a_description():
    first, second = FOLDS
    moved = Fold(0, 1, ("A",), ("B", "C"))
    descriptions = [
        run().describe("data"),
        run().describe("other data"),
        run(cohort="BRCA").describe("data"),
        run(group="outer=0").describe("data"),
        run(folds=(first,)).describe("data"),
        run(folds=(second, first)).describe("data"),
        run(folds=(first, moved)).describe("data"),
        run(folds=(first, replace(second, repeat=1))).describe("data"),
    ]
    texts = {json.dumps(description, sort_keys=True) for description in descriptions}
    assert len(texts) == len(descriptions)


def test_what_does_not():
    """How a setting was written, and defaults that were spelt out."""
    plain = run().describe("data")
    assert run(hyperparameters={"depth": 1, "width": 256}).describe("data") == plain
    a = run(hyperparameters={"depth": 0, "width": 8})
    b = run(hyperparameters={"width": 8, "depth": 0})
    assert a.describe("data") == b.describe("data")
    assert a.path == b.path
    assert json.loads(json.dumps(plain)) == plain


def test_the_path_is_for_people():
    assert run().path == "BLCA/seed=0"
    counts = {"genomic_queries": 128, "histology_queries": 300}
    assert run(hyperparameters=counts).path == "BLCA/histology_queries=300,genomic_queries=128,seed=0"
    assert (
        run(group="outer=0.1/trial=3", learning_rate=1e-3).path == "BLCA/outer=0.1/trial=3/learning_rate=0.001,seed=0"
    )


def test_another_model_is_named_in_the_path(monkeypatch):
    monkeypatch.setitem(MODELS, "other", MODELS["survq"])
    assert run(model="other").path == "BLCA/other,seed=0"


def test_learning_rates_that_nearly_agree_have_paths_of_their_own():
    assert run(learning_rate=0.00051234567).path != run(learning_rate=0.00051234568).path


@settings(max_examples=100, deadline=None)
@example("../..", "/etc/../passwd")
@example(".hidden", "x" * 300)
@given(st.text(min_size=1, max_size=50), st.text(max_size=50))
def test_a_path_stays_inside_its_folder(cohort, group):
    """Whatever a cohort or a group is called: no way up, no hidden name, none that a file system would refuse."""
    path = run(cohort=cohort, group=group, learning_rate=0.1).path
    assert not path.startswith("/")
    for part in path.split("/"):
        assert part and part.isascii() and part.isprintable()
        assert not part.startswith(".")
        assert len(part) <= 200
        assert not set(part) & set('\\:*?"<>| ')


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="a./\\ é", min_size=1, max_size=4), min_size=2, max_size=2, unique=True))
def test_names_that_have_to_be_altered_stay_different(cohorts):
    first, second = (run(cohort=cohort.replace("/", ":")).path for cohort in cohorts)
    assert first != second or cohorts[0].replace("/", ":") == cohorts[1].replace("/", ":")


# what counts as code


SOURCE = '''
"""A module."""
import math

def loss(x: float) -> float:
    """It hurts."""
    # the sign matters
    return -math.log(x)

class Thing:
    """With nothing but words."""
'''


def meaning(source):
    return module.normalized_source(textwrap.dedent(source))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Quite another\nmodule."""'),
        ('"""It hurts."""', ""),
        ("# the sign matters", "# the sign does not matter"),
        ("    return -math.log(x)", "\n\n    return - math.log( x )"),
        ('"""With nothing but words."""', "'''Fewer words.'''"),
    ],
)
def test_words_and_layout_do_not_count(old, new):
    assert meaning(SOURCE.replace(old, new)) == meaning(SOURCE)
    assert SOURCE.replace(old, new) != SOURCE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return -math", "return math"),
        ("log(x)", "log(x + 1e-7)"),
        ("log(x)", "log2(x)"),
        ("import math", "import cmath as math"),
        ("x: float)", "x: float = 1.0)"),
        ("return -math.log(x)", "return '-math.log(x)'"),
    ],
)
def test_code_does(old, new):
    assert meaning(SOURCE.replace(old, new)) != meaning(SOURCE)


def test_a_change_of_code_that_matters_changes_the_description(monkeypatch):
    before = run().describe("data")
    source = module.inspect.getsource
    for changed in (*RESULT_MODULES, MODELS["survq"].__module__):
        code_version.cache_clear()
        monkeypatch.setattr(
            module.inspect,
            "getsource",
            lambda m, changed=changed: source(m) + ("\nx = 1" if m.__name__ == changed else "\n# more"),
        )
        assert run().describe("data")["code"] != before["code"], changed
    code_version.cache_clear()
    monkeypatch.setattr(module.inspect, "getsource", lambda m: source(m) + "\n# more")
    assert run().describe("data") == before
    code_version.cache_clear()


DOES_NOT_MATTER = {
    "survq.data.location": "where bytes lie, not which",
    "survq.data.problems": "messages",
    "survq.data.barcodes": "which ids are one patient; such tables are refused",
    "survq.data.tables": "refuses tables, or passes them on unchanged; their content is described by its fingerprint",
    "survq.evaluation.epochs": "a record of numbers that others made",
    "survq.exits": "how programs end",
    "survq.models": "a list of names",
    "survq.training.config": "settings, which are described themselves",
}


def test_all_code_that_training_touches_matters_or_is_known_not_to():
    """A module that the loop comes to import has to be put on one of the two lists."""
    root = Path(survq.__file__).parents[1]

    def file_of(name: str) -> Path | None:
        path = root.joinpath(*name.split("."))
        return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)

    seen, waiting = set(), ["survq.training.loop"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(file_of(name).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "survq":
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                waiting += [node.module, *(name for name in inside if file_of(name))]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if alias.name.split(".")[0] == "survq"]
    models = {kind.__module__ for kind in MODELS.values()}  # each counts for its own results
    assert seen - models - set(RESULT_MODULES) == set(DOES_NOT_MATTER)
    assert set(RESULT_MODULES) <= seen
