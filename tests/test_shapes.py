"""The shapes that signatures name are checked while tests run: see addopts in pyproject.toml."""

import ast
from pathlib import Path

import pytest
import torch

from survq.models import Prediction

ROOT = Path(__file__).resolve().parents[1]


def test_a_wrong_shape_is_refused():
    Prediction(torch.zeros(3, 4))
    with pytest.raises(TypeError, match="Prediction"):
        Prediction(torch.zeros(3))


def test_all_that_name_shapes_are_checked(request):
    *checked, _ = request.config.getoption("--jaxtyping-packages").split(",")
    for file in sorted((ROOT / "survq").rglob("*.py")):
        imported = {node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
        if "jaxtyping" in imported:
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            assert any(f"{module}.".startswith(f"{package}.") for package in checked), module
