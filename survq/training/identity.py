"""Which code a result depends on."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
from functools import cache

from survq.models import MODELS

RESULT_MODULES = (
    *("survq.data.batch", "survq.data.expression", "survq.data.folds", "survq.data.gene_sets", "survq.data.cohort"),
    *("survq.data.feature_store", "survq.data.streams", "survq.models.base", "survq.layers.attention"),
    *("survq.layers.pathway_encoder", "survq.layers.hazard_head", "survq.layers.bags", "survq.layers.fused"),
    *("survq.models.losses", "survq.training.loop", "survq.training.sampling", "survq.evaluation.concordance"),
)
"""The modules, beside the model's own, on whose code a result depends."""


@cache
def code_version(model: str) -> str:
    """A hash of the code that a result depends on. Comments, docstrings and layout do not count."""
    modules = (*RESULT_MODULES, MODELS[model].__module__)
    return sha256_of(
        "".join(normalized_source(inspect.getsource(importlib.import_module(module))) for module in modules)
    )[:16]


def normalized_source(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a string that stands alone is documentation
            node.body = [  # type: ignore[attr-defined]
                s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            ]
    return ast.unparse(tree)  # ast.dump differs between versions of Python


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
