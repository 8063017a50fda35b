"""A file of tensors with a JSON description in its header, in the safetensors format. Never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from survq.data.problems import DataError
from survq.text import shortened

DESCRIPTION = "survq"  # the key of the description in the header


def tensor_file(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    """The content of a file with these tensors, by name, and a JSON-compatible description."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(kept, {DESCRIPTION: json.dumps(description, allow_nan=False)})


def read_tensor_file(file: object) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of the file at a path. Raises DataError if it is not such a file."""
    try:
        with safe_open(str(file), framework="pt") as content:
            description = json.loads((content.metadata() or {}).get(DESCRIPTION, "null"))
            if not isinstance(description, dict):
                raise ValueError("its description is not a JSON object")
            return {name: content.get_tensor(name) for name in content.keys()}, description  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:  # PyTorch opens the file, too
        raise DataError(
            [f"{file}: not a tensor file of survq ({shortened(str(error), 200)}). Fix: train the run again."]
        ) from error


def flattened(state: Mapping[int, Mapping[str, Any]]) -> dict[str, Tensor]:
    """The state of an optimizer, {parameter: {name: tensor}}, as tensors by "parameter/name"."""
    return {
        f"{parameter}/{name}": torch.as_tensor(value)
        for parameter, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def unflattened(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The inverse of `flattened`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        parameter, name = key.split("/")
        state.setdefault(int(parameter), {})[name] = tensor
    return state
