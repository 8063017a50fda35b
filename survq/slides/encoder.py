"""Patch encoders: each turns a patch into a vector of features. They are models of timm, or a tiny built-in one.

    uni         UNI (Chen et al., Nature Medicine 2024): a ViT-L/16; weights from huggingface.co/MahmoodLab/UNI
    timm:NAME   any image model of timm
    tiny        the colours of a patch on a 4 x 4 grid, 48 numbers: to try out the pipeline, not for publication

Weights come from a file or from the local cache of the Hugging Face hub. They are downloaded only on request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from survq.data.problems import DataError
from survq.importing.decompress import sha256
from survq.importing.untrusted import check_content
from survq.slides.slide import PATCH, PIXEL
from survq.text import preview, shortened

UNI = "vit_large_patch16_224", "MahmoodLab/UNI"  # the timm model, and the hub repository of its weights
UNI_ARGUMENTS: dict[str, Any] = {
    **{"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
    # timm's defaults for this architecture belong to other weights
    "pretrained_cfg_overlay": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # file names on the hub


@dataclass(frozen=True)
class PatchEncoder:
    """A frozen network with its preprocessing.

    `name` identifies it: the name given by the user, and a hash of weights and preprocessing.
    """

    name: str
    width: int
    description: dict[str, Any]  # plain JSON: model, sha256 of the weights, preprocessing
    network: nn.Module
    device: torch.device

    @torch.inference_mode()
    def __call__(self, patches: np.ndarray) -> np.ndarray:
        """(patch, 224, 224, 3), uint8, to (patch, feature), float16."""
        X = torch.tensor(patches).to(self.device).permute(0, 3, 1, 2).float() / 255
        # the result is stored in half precision either way; a GPU's matrix units are fastest in it
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            return self.network(X).to(torch.float16).cpu().numpy()


class Preprocessed(nn.Module):
    """A network behind the image size and colour normalisation that it was trained with."""

    def __init__(self, network: nn.Module, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.network, self.size = network, size
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, X: Tensor) -> Tensor:
        # resize the whole patch; a centre crop, usual for photographs, would discard tissue
        if X.shape[-2:] != self.size:
            X = nn.functional.interpolate(X, self.size, mode="bicubic", antialias=True)
        return self.network((X - self.mean) / self.std)


class Colours(nn.Module):
    def forward(self, X: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(X, 4).flatten(1)


def load_encoder(
    name: str, weights: Path | None = None, *, download: bool = False, device: str | None = None
) -> PatchEncoder:
    """Build an encoder with its weights.

    `weights` is a .safetensors file, or a file that torch loads as plain tensors; the default is the hub's local cache.
    Raises DataError for an unknown encoder, and for weights that are missing or belong to another model.
    """
    torch_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    patch = {"pixels": PATCH, "micrometres_a_pixel": PIXEL}
    if name == "tiny":
        if weights is not None:
            raise DataError(["--weights: the encoder 'tiny' has no weights. Fix: omit --weights."])
        return _named(name, 48, {"model": name, "patch": patch}, Colours().eval(), torch_device)

    import timm

    model, repository = UNI if name == "uni" else (name.removeprefix("timm:"), None)
    if name != "uni" and not (name.startswith("timm:") and timm.is_model(model)):
        raise DataError(
            [f"--encoder {name!r}: unknown. Fix: use uni, tiny, or timm:NAME with a name from timm.list_models()."]
        )
    config: Any = timm.get_pretrained_cfg(model)
    file = weights or hub_weights(name, repository or config.hf_hub_id, download)
    weights_by_name = _read_weights(file)
    network: Any = timm.create_model(model, pretrained=False, num_classes=0, **(UNI_ARGUMENTS if name == "uni" else {}))
    _load_weights(network.eval().requires_grad_(False), weights_by_name, file, name)
    config = timm.data.resolve_model_data_config(network)
    preprocessing = {"size": list(config["input_size"][1:]), "mean": list(config["mean"]), "std": list(config["std"])}
    description = {
        "model": model,
        "weights_sha256": sha256(file),
        "patch": patch,
        "preprocessing": {"scale": "0 to 1", "resize": "whole patch, bicubic, antialiased", **preprocessing},
    }
    size = (preprocessing["size"][0], preprocessing["size"][1])
    preprocessed = Preprocessed(network, size, config["mean"], config["std"]).eval()
    return _named(name, network.num_features, description, preprocessed, torch_device)


def _named(name: str, width: int, description: dict, network: nn.Module, device: torch.device) -> PatchEncoder:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    return PatchEncoder(f"{name}@{digest[:12]}", width, description, network.to(device), device)


def hub_weights(name: str, repository: str | None, download: bool) -> Path:
    """The weights in the local cache of the hub, downloaded first if `download` is set."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    if repository is None:
        raise DataError([f"--encoder {name}: timm knows no weights for it. Fix: pass them with --weights FILE."])
    for file in WEIGHT_FILES:
        if isinstance(cached := try_to_load_from_cache(repository, file), str):
            return Path(cached)
    fix = (
        f"Fix: pass them with --weights FILE, or add --download; gated weights, such as UNI's, first need access "
        f"(huggingface.co/{repository}) and `hf auth login`."
    )
    if not download:
        raise DataError([f"--encoder {name}: its weights are not on this machine. {fix}"])
    reason = ""
    for file in WEIGHT_FILES:
        try:
            return Path(hf_hub_download(repository, file))
        except (HfHubHTTPError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
    raise DataError([f"--encoder {name}: its weights could not be downloaded ({reason}). {fix}"])


def _load_weights(network: nn.Module, given: dict[str, Tensor], file: Path, name: str) -> None:
    """Load the weights into the network, without a classifier head. Refuses missing, misshapen and unknown tensors."""
    own = network.state_dict()
    given = _without_prefix(given, own)
    classifier = getattr(network, "pretrained_cfg", {}).get("classifier") or "head"
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    given = {key: value for key, value in given.items() if key.rpartition(".")[0] not in heads or key in own}
    wrong = [key for key in own if key not in given or given[key].shape != own[key].shape]
    unknown = [key for key in given if key not in own]
    if wrong or unknown:
        first = (wrong or unknown)[0]
        problem = (
            f"not the weights of {name}: {len(wrong)} of its {len(own)} tensors are missing or have another shape, "
            f"{len(unknown)} of the file's {len(given)} are unknown; the first is {first!r}"
        )
        raise DataError([f"{file}: {problem}. Fix: name the model of these weights with --encoder."])
    network.load_state_dict(given)


def _read_weights(file: Path) -> dict[str, Tensor]:
    """The weights in a file, by name. Never unpickled: the file may come from anyone."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such weights file.")
    check_content(file)
    content: Any
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the two libraries share no base class, and raise even UnpicklingError
        reason = shortened(str(error), 160)
        raise DataError(
            [f"{file}: cannot be read as weights ({reason}). Fix: save the model's state_dict as safetensors."]
        ) from error
    found = dict(_state_dicts(content, ""))
    if len(found) != 1:
        problem = f"holds several sets of weights, {preview(found, 5)}" if found else "does not hold named tensors"
        raise DataError([f"{file}: {problem}. Fix: save the model's state_dict."])
    return next(iter(found.values()))


def _state_dicts(content: Any, name: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The named tensors in a checkpoint, however deep in it: {"state_dict": {"model": ...}, "epoch": 9}."""
    if not isinstance(content, dict):
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if len(tensors) > 1 or (tensors and len(tensors) == len(content)):
        yield name, tensors
        return
    for key, part in content.items():
        if key not in ("optimizer", "optimizer_state_dict", "optim", "scaler", "lr_scheduler", "scheduler"):
            yield from _state_dicts(part, f"{name}.{key}".strip("."))


def _without_prefix(given: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Names without the prefix of a wrapper, such as `module.` of DataParallel; `own` are the names of the model."""
    first = next(iter(own), "")
    prefix = next((key[: -len(first)] for key in given if key.endswith(f".{first}")), "")
    if first in given or not all(key.startswith(prefix) for key in given):
        return given
    return {key[len(prefix) :]: value for key, value in given.items()}
