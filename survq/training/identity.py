"""What a run depends on: the code that it reaches, and the parts of its cohort that its model reads."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from survq.models import MODELS, SurvivalModel
from survq.training.closure import code_hashes

ROOTS = (("survq.training.loop", "train_folds"), ("survq.data.feature_store", "read_case"))
"""Where the code of a run begins, beside the class of its model: the loop, and the reading of a case's slides."""

STOPS = {
    "survq.data.barcodes": "decides whether a table is refused",
    "survq.data.location": "where bytes lie, not which",
    "survq.data.problems": "messages",
    "survq.data.tables": "refuses tables or passes them on; their content is identified by the parts of the cohort",
    "survq.evaluation.epochs": "records of numbers that others computed",
    "survq.exits": "how programs end",
    "survq.models": "the list of models; a run depends on its own one",
    "survq.models.space": "what is worth searching",
    "survq.text": "messages",
    "survq.training.config": "settings, which are compared themselves",
    "survq.training.run": "the folds of a run, which are compared themselves",
}
"""Modules whose code cannot change a result, and why: what a run depends on is not followed into them."""

PACKAGES = Path(__file__).resolve().parents[2]  # the folder that holds survq


def code_of(model: str) -> dict[str, str]:
    """A short hash, by module, of the code that a run of this model depends on.

    Only what is reachable counts: a class that is added to a file of layers changes nothing for the models that do not
    use it. Comments, documentation and layout do not count.
    """
    return dict(_code_of(MODELS[model]))  # type: ignore[arg-type]  # mypy takes a class for unhashable


@cache
def _code_of(kind: type[SurvivalModel]) -> dict[str, str]:
    own = kind.__module__.split(".")
    folders = {own[0]: Path(inspect.getfile(kind)).parents[len(own) - 1], "survq": PACKAGES}

    def read(module: str) -> str | None:
        first, *_ = parts = module.split(".")
        if first not in folders:
            return None
        path = folders[first].joinpath(*parts)
        file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
        return None if file is None else file.read_text(encoding="utf-8")

    return code_hashes([(kind.__module__, kind.__qualname__.split(".")[0]), *ROOTS], read, STOPS)


def data_of(model: str, parts: Mapping[str, str]) -> dict[str, str | None]:
    """Those parts of a cohort that a model reads, of `Cohort.parts`; None for a part that the cohort lacks."""
    kind, names = MODELS[model], ["cases"]
    if "genomics" in kind.reads:
        names += ["expression", *(f"gene set {name}" for name in kind.gene_sets)]
    if "histology" in kind.reads:
        names.append("features")
    return {name: parts.get(name) for name in names}


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
