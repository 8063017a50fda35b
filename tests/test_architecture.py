"""How the parts of survq may know of each other, and what none of them may do. Read off the source, nothing is run."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from survq.models import MODELS
from survq.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "survq").rglob("*.py"))
STUDIES = sorted((ROOT / "studies").glob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in [*SOURCES, *STUDIES]}

LAYERS = (
    *(
        "output",
        "exits",
        "command_line",
        "text",
        "settings",
        "ray_start",
        "ray_session",
        "data",
        "evaluation",
        "simulation",
        "demo",
    ),
    *("importing", "slides", "layers", "models", "training", "interpretation", "tuning", "reporting", "study"),
    *("commands", "cli", "studies"),
)
"""From the bottom to the top: a layer imports itself and those before it. The package itself holds only its version."""

WITH_RAY = {
    *("ray_session.py", "data/shared_bags.py", "importing/patch_features.py", "slides/pipeline.py"),
    *("training/board.py", "training/ray_runs.py", "training/distributed.py", "training/shared_cohorts.py"),
}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT / "survq")) if file in SOURCES else str(file.relative_to(ROOT))


def imports(file: Path) -> Iterator[str]:
    """The dotted names of all modules a file imports, wherever in it; and of what it takes from them."""
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where a thing comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name: str) -> int:
    """Of a module, or of what it holds; -1 for the package itself."""
    parts = name.split(".")[1:]
    return LAYERS.index(parts[0]) if parts and not parts[0].startswith("__") else -1


def test_imports_point_down():
    wrong = []
    for file in [*SOURCES, *STUDIES]:
        own = "survq." + ("studies" if file in STUDIES else name_of(file).removesuffix(".py").replace("/", "."))
        for name in imports(file):
            if name.split(".")[0] == "survq" and layer(name) > layer(own):
                wrong.append(f"{name_of(file)} imports {name}")
    assert not wrong


def test_ray_is_known_to_a_handful_of_files():
    """Training, models and evaluation run, and are tested, without it."""
    with_ray = {name_of(file) for file in SOURCES if any(name.split(".")[0] == "ray" for name in imports(file))}
    through_session = {name_of(file) for file in SOURCES if "survq.ray_session.ray" in imports(file)}
    assert with_ray | through_session <= WITH_RAY


def pulled_in(*modules: str) -> set[str]:
    """What these modules import at the top of their files, themselves or by way of other modules of survq."""
    top = {
        "survq." + name_of(file).removesuffix(".py").replace("/", ".").removesuffix(".__init__"): {
            name
            for node in TREES[file].body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        }
        for file in SOURCES
    }
    waiting, seen = [*modules], set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        waiting += [name for name in top.get(module, ()) if name not in seen]
    return seen


def test_no_file_of_training_without_ray_pulls_it_in():
    """Nor by way of another: what the loop and the queue import at the top of their files has no Ray below it."""
    modules = "survq.training.loop", "survq.training.queue", "survq.tuning.search", "survq.study", "survq.cli"
    assert not {module for module in pulled_in(*modules) if module.split(".")[0] == "ray"}


def test_processes_of_ray_that_do_not_train_start_without_pytorch():
    """It takes each of them two to four seconds of CPU to import."""
    assert "torch" in pulled_in("survq.data.shared_bags") & pulled_in("survq.training.shared_cohorts")
    assert "torch" not in pulled_in("survq.data.case_blocks") | pulled_in("survq.training.board")


def test_a_finished_study_starts_without_packages_that_it_does_not_need():
    """Each takes 0.1 to 0.7 s to import."""
    known = pulled_in("survq.study")
    assert {"survq.models.ccl", "survq.evaluation.d_calibration", "torch"} <= known
    slow = ("lifelines", "optuna", "scipy", "sklearn", "torch.utils.tensorboard")
    assert not [module for module in known if module.startswith(slow)]


def test_studies_are_written_in_the_words_of_survq():
    """`ray submit` sends the one file; and a study says what is compared, not how."""
    for file in STUDIES:
        packages = {name.split(".")[0] for name in imports(file)}
        assert packages - sys.stdlib_module_names <= {"survq", "tyro"}, file.name
        assert ast.get_docstring(TREES[file]), file.name


def test_shared_code_does_not_ask_which_model_it_holds():
    """A model's name stands in MODELS, in studies, and once as the default of TrainConfig."""
    names = set(MODELS) - {"survq", "survpath"}  # also the names of the package and of a layout of data
    classes = {kind.__name__ for kind in MODELS.values()}
    found = []
    for file in SOURCES:
        if file.parent.name == "models":
            continue
        for node in ast.walk(TREES[file]):
            if isinstance(node, ast.Constant) and node.value in names:
                found.append(f"{name_of(file)}:{node.lineno}: {node.value!r}")
            if isinstance(node, ast.Name | ast.Attribute) and (getattr(node, "id", None) or node.attr) in classes:
                found.append(f"{name_of(file)}:{node.lineno}: a model's class")
            if isinstance(node, ast.Compare):
                values = [entry.value for entry in ast.walk(node) if isinstance(entry, ast.Constant)]
                found += [f"{name_of(file)}:{node.lineno}: == {value!r}" for value in values if value in MODELS]
    assert not found
    assert TrainConfig.model in MODELS


def test_a_model_is_one_file_that_knows_no_other_model():
    """Except the model that it extends."""
    modules = {kind.__module__: {base.__module__ for base in kind.__mro__} for kind in MODELS.values()}
    assert len(modules) == len(MODELS)
    for file in SOURCES:
        if bases := modules.get(f"survq.models.{file.stem}"):
            others = {module for module in modules if any(name.startswith(module + ".") for name in imports(file))}
            assert others <= bases, file.name


FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "os.system", "os.popen",
    "pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "yaml.load", "joblib.load", "cloudpickle.loads",
    "pandas.read_pickle", "pd.read_pickle",
}  # fmt: skip
"""What would run what a file says."""


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


@pytest.mark.parametrize("file", [*SOURCES, *STUDIES], ids=name_of)
def test_no_input_is_executed(file):
    for node in ast.walk(TREES[file]):
        if not isinstance(node, ast.Call):
            continue
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        where = f"{name_of(file)}:{node.lineno}"
        assert called(node) not in FORBIDDEN_CALLS, where
        assert options.get("shell") != "True", where
        assert options.get("allow_pickle") != "True", where
        if called(node) == "torch.load":
            assert options.get("weights_only") == "True", where


def test_no_module_keeps_pickle_at_hand():
    for file in [*SOURCES, *STUDIES]:
        assert not {"pickle", "cloudpickle", "joblib", "dill"} & {name.split(".")[0] for name in imports(file)}, file
