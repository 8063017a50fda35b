"""Which code a run depends on: real edits of the real files, and every way in which a name reaches a definition."""

import ast
import importlib
import inspect
import shutil
import textwrap
from pathlib import Path

import pytest

from survq.models import MODELS
from survq.training import identity
from survq.training.closure import code_hashes
from survq.training.identity import STOPS, code_of


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of survq that may be edited: `code_of` reads it."""
    copy = tmp_path / "survq"
    shutil.copytree(identity.PACKAGES / "survq", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "PACKAGES", tmp_path)
    identity._code_of.cache_clear()
    yield copy
    identity._code_of.cache_clear()


def changed(package: Path, model: str, edit, *arguments) -> set[str]:
    """The modules whose code is another one for this model after an edit of the copy."""
    before = code_of(model)
    edit(package, *arguments)
    identity._code_of.cache_clear()
    after = code_of(model)
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def append(package: Path, file: str, text: str) -> None:
    with (package / file).open("a") as source:
        source.write(text)


def insert(package: Path, file: str, name: str, statement: str = "unseen = 0") -> None:
    """A statement at the top of a function, `function` or `Class.method`."""
    lines = (package / file).read_text().splitlines()
    body = ast.parse("\n".join(lines)).body
    for part in name.split("."):
        (node,) = [node for node in body if getattr(node, "name", None) == part]
        body = node.body
    first = body[0].lineno - 1
    lines.insert(first, " " * body[0].col_offset + statement)
    (package / file).write_text("\n".join(lines))
    ast.parse("\n".join(lines))


@pytest.mark.parametrize(
    ("file", "name", "module"),
    [
        ("models/survq.py", "SurvQ.forward", "survq.models.survq"),
        ("models/base.py", "Prediction.risk", "survq.models.base"),
        ("models/losses.py", "nll_by_case", "survq.models.losses"),
        ("layers/attention.py", "Attention.forward", "survq.layers.attention"),
        ("layers/fused.py", "_pool", "survq.layers.fused"),
        ("training/loop.py", "train_folds", "survq.training.loop"),
        ("training/sampling.py", "parts_of", "survq.training.sampling"),
        ("data/batch.py", "Preprocessing.fit", "survq.data.batch"),
        ("data/expression.py", "zscore", "survq.data.expression"),
        ("data/feature_store.py", "read_slides", "survq.data.feature_store"),
        ("data/streams.py", "generator", "survq.data.streams"),
        ("evaluation/concordance.py", "concordance_index", "survq.evaluation.concordance"),
    ],
)
def test_an_edit_of_what_a_run_reads_changes_just_that_module(package, file, name, module):
    assert changed(package, "survq", insert, file, name) == {module}


ADDED = "\n\nclass GatedAttention(nn.Module):\n    def forward(self, X):\n        return X\n"


def test_a_class_added_to_a_file_of_layers_changes_nothing(package):
    for model in MODELS:
        assert changed(package, model, append, "layers/attention.py", ADDED) == set()


def test_an_edit_of_another_model_changes_nothing(package):
    assert changed(package, "survq", insert, "models/pibd.py", "PIBD.forward") == set()
    assert changed(package, "pibd", insert, "models/survq.py", "SurvQ.forward") == set()
    assert changed(package, "pibd", insert, "layers/attention.py", "Attention.forward") == set()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("layers/attention.py", '"""', '"""Other words. '),  # of the module
        (
            "layers/attention.py",
            'class Attention(nn.Module):\n    """',
            'class Attention(nn.Module):\n    """Other words. ',
        ),
        ("layers/attention.py", "import math\n", "import math  # other words\n"),
        ("layers/attention.py", "import math\n", "import math\n\n\n"),
        ("models/__init__.py", '    "pibd": PIBD,\n', ""),
    ],
)
def test_words_and_layout_and_the_list_of_models_change_nothing(package, file, old, new):
    def edit(package):
        text = (package / file).read_text()
        assert old in text
        (package / file).write_text(text.replace(old, new, 1))

    assert changed(package, "survq", edit) == set()


@pytest.mark.parametrize(
    ("file", "name"), [("data/folds.py", "make_folds"), ("evaluation/concordance.py", "fold_concordance")]
)
def test_an_edit_of_what_nothing_calls_changes_nothing(package, file, name):
    assert changed(package, "survq", insert, file, name) == set()


def test_every_module_where_the_closure_stops_would_be_reached(monkeypatch):
    """So that the list holds nothing that is no longer there, or that no run touches."""
    with monkeypatch.context() as patch:
        patch.setattr(identity, "STOPS", {})
        identity._code_of.cache_clear()
        reached = {module for model in MODELS for module in code_of(model)}
    identity._code_of.cache_clear()
    assert set(STOPS) <= reached
    for model in MODELS:
        assert not set(STOPS) & set(code_of(model))
        assert {"survq.training.loop", MODELS[model].__module__} <= set(code_of(model))


def test_a_model_outside_survq_is_followed_within_its_own_package(tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/__init__.py").touch()
    (tmp_path / "lab/parts.py").write_text("def used(): return 1\n\ndef unused(): return 2\n")
    (tmp_path / "lab/net.py").write_text(
        "from lab.parts import used\nfrom survq.models import SurvivalModel\n\n"
        "class Net(SurvivalModel):\n    x = used()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODELS, "net", importlib.import_module("lab.net").Net)
    found = code_of("net")
    assert {"lab.net", "lab.parts", "survq.models.base", "survq.training.loop"} <= set(found)
    assert "survq.models.survq" not in found
    assert inspect.getfile(MODELS["net"]) == str(tmp_path / "lab/net.py")


# the rules, on small sources


SOURCES = {
    "p": "",
    "p.main": """
        from __future__ import annotations
        import math
        import p.whole as whole
        from typing import TYPE_CHECKING
        from p import module
        from p.exported import Thing
        from p.constants import RATE, TABLE as table
        if TYPE_CHECKING:
            from p.shapes import Shape

        def run(x: Shape) -> float:
            from p.late import late
            return helper(Thing(x)) + module.used(x) + late(x) * RATE

        def helper(x):
            return math.log(x) + len(table)

        def unused(x):
            return whole.anything(x)
    """,
    "p.exported": "from p.things import Thing",
    "p.things": """
        class Base:
            def area(self): return 1
        class Thing(Base):
            def area(self): return 2
        class Other(Base):
            def area(self): return 3
    """,
    "p.module": """
        def used(x): return x
        def unused(x): return 2 * x
    """,
    "p.constants": """
        import os
        RATE = 0.5
        UNUSED = 2
        TABLE = {}
        TABLE["a"] = 1
        os.environ["X"] = "1"
    """,
    "p.shapes": """
        class Shape:
            def size(self) -> "Size": ...
        class Size: ...
    """,
    "p.late": "def late(x): return x\n",
    "p.whole": "def anything(x): return x\n",
}


def hashes(edits: dict[str, tuple[str, str]] | None = None, stops=()) -> dict[str, str]:
    sources = {name: textwrap.dedent(text) for name, text in SOURCES.items()}
    for name, (old, new) in (edits or {}).items():
        assert old in sources[name]
        sources[name] = sources[name].replace(old, new)
    return code_hashes([("p.main", "run")], sources.get, stops)


def differing(edits: dict[str, tuple[str, str]]) -> set[str]:
    before, after = hashes(), hashes(edits)
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def test_every_kind_of_import_is_followed_to_the_definition():
    assert set(hashes()) == {"p.main", "p.module", "p.things", "p.constants", "p.shapes", "p.late"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("p.main", "math.log(x)", "math.log2(x)"),
        ("p.main", "import math", "import cmath as math"),
        ("p.main", "x: Shape) -> float", "x: Shape = 1) -> float"),
        ("p.module", "def used(x): return x", "def used(x): return -x"),
        ("p.things", "return 2", "return -2"),
        ("p.things", "return 1", "return -1"),
        ("p.constants", "RATE = 0.5", "RATE = 0.6"),
        ("p.constants", '"a"] = 1', '"a"] = 2'),
        ("p.constants", '"X"] = "1"', '"X"] = "2"'),
        ("p.shapes", '-> "Size": ...', '-> "Size": return 1'),
        ("p.shapes", "class Size: ...", "class Size: x = 1"),
        ("p.late", "return x", "return -x"),
    ],
)
def test_what_is_reached_counts(name, old, new):
    assert differing({name: (old, new)}) == {name}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("p.main", "return whole.anything(x)", "return 0"),
        ("p.module", "return 2 * x", "return 3 * x"),
        ("p.things", "return 3", "return -3"),
        ("p.constants", "UNUSED = 2", "UNUSED = 3"),
        ("p.whole", "return x", "return -x"),
        ("p.late", "def late(x): return x", "def late(x):\n    'words'\n    # words\n    return (x)"),
    ],
)
def test_what_is_not_reached_does_not_count(name, old, new):
    assert differing({name: (old, new)}) == set()


def test_a_name_that_comes_to_mean_something_else_is_another_code():
    moved = {"p.exported": ("from p.things import Thing", "from p.things import Other as Thing")}
    assert differing(moved) == {"p.main", "p.things"}


def test_a_module_that_is_passed_on_as_a_whole_counts_as_a_whole():
    whole = {"p.main": ("module.used(x)", "call(module)")}
    edited = whole | {"p.module": ("return 2 * x", "return 3 * x")}
    assert hashes(whole)["p.module"] != hashes(edited)["p.module"]


def test_where_it_stops_nothing_counts_and_nothing_beyond_is_reached():
    found = hashes(stops={"p.things", "p.constants"})
    assert set(found) == {"p.main", "p.module", "p.shapes", "p.late"}
    assert hashes({"p.constants": ("RATE = 0.5", "RATE = 0.6")}, stops={"p.things", "p.constants"}) == found


@pytest.mark.parametrize("line", ["from p.things import *", "from .things import Thing"])
def test_an_import_that_hides_what_it_imports_is_refused(line):
    with pytest.raises(ValueError, match=r"p\.main: .* is relative or a star. Fix: name module and names"):
        hashes({"p.main": ("from p import module", line)})
