"""The dependencies of a run: the code that it reaches, and the parts of its cohort that its model reads."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from survq.models import MODELS, SurvivalModel
from survq.training.closure import code_hashes

ROOTS = (("survq.training.loop", "train_folds"), ("survq.data.feature_store", "read_case"))
"""The entry points of a run, besides the class of its model: the training loop, and reading a case's slides."""

STOPS = {
    "survq.data.barcodes": "rejects invalid tables",
    "survq.data.location": "where files are stored, not their content",
    "survq.data.problems": "messages",
    "survq.data.tables": "rejects tables or returns them unchanged; the parts of the cohort identify their content",
    "survq.evaluation.epochs": "records of numbers computed elsewhere",
    "survq.exits": "exit codes",
    "survq.models": "the list of models; a run depends on its own model",
    "survq.models.space": "search spaces",
    "survq.text": "messages",
    "survq.training.checkpoints": "restores the saved state unchanged",
    "survq.training.fold_file": "reads its own files unchanged",
    "survq.training.tensor_file": "reads its own files unchanged",
    "survq.training.config": "settings, which are compared directly",
    "survq.training.run": "the folds of a run, which are compared directly",
}
"""Modules that cannot change a result, with the reason. Their code is not followed."""

PACKAGES = Path(__file__).resolve().parents[2]  # the folder that contains survq


def code_of(model: str) -> dict[str, str]:
    """A short hash per module of the code that a run of this model depends on.

    Only reachable code counts: a new class in a file of layers does not change models that do not use it. Comments,
    documentation and layout do not count.
    """
    return dict(_code_of(MODELS[model]))  # type: ignore[arg-type]  # mypy considers classes unhashable


@cache
def _code_of(kind: type[SurvivalModel]) -> dict[str, str]:
    own = kind.__module__.split(".")
    folders = {own[0]: Path(inspect.getfile(kind)).parents[len(own) - 1], "survq": PACKAGES}

    @cache
    def read(module: str) -> str | None:
        first, *_ = parts = module.split(".")
        if first not in folders:
            return None
        path = folders[first].joinpath(*parts)
        file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
        return None if file is None else file.read_text(encoding="utf-8")

    return code_hashes([(kind.__module__, kind.__qualname__.split(".")[0]), *ROOTS], read, STOPS)


def data_of(model: str, parts: Mapping[str, str]) -> dict[str, str | None]:
    """The entries of `Cohort.parts` that a model reads; None for a part that the cohort does not have."""
    kind, names = MODELS[model], ["cases"]
    if "genomics" in kind.reads:
        names += ["expression", *(f"gene set {name}" for name in kind.gene_sets)]
    if "histology" in kind.reads:
        names.append("features")
    if "clinical" in kind.reads:
        names.append("clinical")
    return {name: parts.get(name) for name in names}


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
