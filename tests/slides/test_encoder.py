"""Encoders: the right weights or an error, reproducible features, and a name that identifies weights."""

import hashlib
import os
import pickle
from collections import OrderedDict
from functools import cache

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from survq.data.problems import DataError
from survq.slides.encoder import load_encoder

VIT = "vit_tiny_patch16_224"
PATCHES = np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3)).astype(np.uint8)


@cache
def random_state(name: str, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model(name).state_dict()


def state(name: str = VIT, seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(random_state(name, seed))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(state(), file)
    return file


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """An empty cache, and the hub in offline mode."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_features_are_those_of_timm(weights):
    encoder = load_encoder(f"timm:{VIT}", weights, device="cpu")
    features = encoder(PATCHES)
    assert (features.dtype, features.shape, encoder.width) == (np.float16, (5, 192), 192)

    model = timm.create_model(VIT, num_classes=0).eval()
    model.load_state_dict({key: value for key, value in state().items() if not key.startswith("head.")})
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        expected = model((torch.tensor(PATCHES).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=2e-3)


def test_features_are_reproducible_and_pixels_may_be_read_only(weights):
    encoder = load_encoder(f"timm:{VIT}", weights, device="cpu")
    frozen = np.frombuffer(PATCHES.tobytes(), np.uint8).reshape(PATCHES.shape)
    assert (encoder(frozen) == encoder(PATCHES)).all()


def test_safetensors_and_state_dict_files_give_the_same_features(weights, tmp_path):
    torch.save(OrderedDict(state()), tmp_path / "pytorch_model.bin")
    torch.save({"state_dict": state()}, tmp_path / "nested.pth")
    features = load_encoder(f"timm:{VIT}", weights, device="cpu")(PATCHES)
    for name in ("pytorch_model.bin", "nested.pth"):
        assert (load_encoder(f"timm:{VIT}", tmp_path / name, device="cpu")(PATCHES) == features).all()


@pytest.mark.parametrize(
    ("prefix", "nested"),
    [("module.", ()), ("", ("model",)), ("teacher.backbone.", ("state_dict", "model")), ("_orig_mod.module.", ())],
)
def test_wrapped_weights_are_found(weights, tmp_path, prefix, nested):
    """As DataParallel, compiled models and training scripts save them, beside their own state."""
    content: dict = {prefix + name: value for name, value in state().items()}
    for key in reversed(nested):
        optimizer = {"state": {0: {"exp_avg": torch.zeros(2), "step": torch.zeros(1)}}, "param_groups": []}
        content = {key: content, "epoch": 9, "optimizer": optimizer}
    torch.save(content, tmp_path / "wrapped.pth")
    found = load_encoder(f"timm:{VIT}", tmp_path / "wrapped.pth", device="cpu").network.state_dict()
    plain = load_encoder(f"timm:{VIT}", weights, device="cpu").network.state_dict()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_the_name_identifies_the_weights_and_the_description_is_complete(weights, tmp_path):
    save_file(state(seed=1), tmp_path / "other.safetensors")
    one = load_encoder(f"timm:{VIT}", weights, device="cpu")
    other = load_encoder(f"timm:{VIT}", tmp_path / "other.safetensors", device="cpu")
    assert one.name.startswith(f"timm:{VIT}@")
    assert one.name != other.name
    assert one.description["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert one.description["preprocessing"]["size"] == [224, 224]
    assert one.description["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


def test_patches_are_resized_whole_for_another_image_size(tmp_path):
    """A network for 384 px sees all of a patch, including its border."""
    name = "vit_tiny_patch16_384"
    save_file(state(name), tmp_path / "w.safetensors")
    encoder = load_encoder(f"timm:{name}", tmp_path / "w.safetensors", device="cpu")
    border = PATCHES[:1].copy()
    border[:, :4] = 255
    assert (encoder(border) != encoder(PATCHES[:1])).any()
    assert encoder.description["preprocessing"]["size"] == [384, 384]


def test_uni_has_the_published_architecture_and_preprocessing(tmp_path):
    """ViT-L/16 with layer scale, 303 million parameters, 1024 features, ImageNet's colours. Its weights are gated."""
    shape = {"img_size": 224, "patch_size": 16, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True}
    with torch.device("meta"):
        names = timm.create_model("vit_large_patch16_224", **shape).state_dict()
    # expanded from one number, so that the file is small
    torch.save({name: torch.ones(1).expand(value.shape) for name, value in names.items()}, tmp_path / "uni.bin")
    encoder = load_encoder("uni", tmp_path / "uni.bin", device="cpu")
    assert encoder.width == 1024
    assert sum(parameter.numel() for parameter in encoder.network.parameters()) == 303_350_784
    assert encoder.description["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert encoder.description["preprocessing"]["std"] == [0.229, 0.224, 0.225]
    assert encoder(PATCHES[:1]).shape == (1, 1024)


def test_tiny_averages_colours_on_a_grid():
    patch = np.zeros((1, 224, 224, 3), np.uint8)
    patch[0, :56, 56:112, 1] = 255
    features = load_encoder("tiny", device="cpu")(patch)
    assert features.shape == (1, 48)
    assert np.flatnonzero(features[0]).tolist() == [16 + 1]
    assert load_encoder("tiny").name == load_encoder("tiny").name


def refusal(name, weights=None, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_encoder(name, weights, **options)
    return " ".join(caught.value.problems)


def test_missing_weights_are_never_downloaded_without_request(no_hub):
    message = refusal("uni")
    assert "its weights are not on this machine. Fix: pass them with --weights FILE, or add --download" in message
    assert "huggingface.co/MahmoodLab/UNI" in message
    assert "first need access" in message
    assert not no_hub.exists()
    assert "not on this machine" in refusal(f"timm:{VIT}")


def test_a_failed_download_gives_the_reason():
    assert "its weights could not be downloaded (" in refusal("uni", download=True)


def test_weights_in_the_hub_cache_are_found(no_hub, weights):
    repository = timm.get_pretrained_cfg(VIT).hf_hub_id
    folder = no_hub / f"models--{repository.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "model.safetensors").write_bytes(weights.read_bytes())
    assert load_encoder(f"timm:{VIT}", device="cpu").name == load_encoder(f"timm:{VIT}", weights, device="cpu").name


class Hostile:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_a_hostile_weights_file_is_not_executed(tmp_path):
    trace = tmp_path / "trace"
    (tmp_path / "w.bin").write_bytes(pickle.dumps(Hostile(str(trace))))
    torch.save({"a": Hostile(str(trace))}, tmp_path / "w.pth")
    for name in ("w.bin", "w.pth"):
        assert "cannot be read as weights" in refusal(f"timm:{VIT}", tmp_path / name)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["resnet", "timm:no_such_model", "UNI", "", "timm:"])
def test_unknown_encoders_are_refused(name):
    assert "unknown. Fix: use uni, tiny, or timm:NAME" in refusal(name)


def test_weights_of_another_model_are_refused(weights, tmp_path):
    message = refusal("timm:vit_tiny_patch16_384", weights)
    assert (
        "not the weights of timm:vit_tiny_patch16_384: 1 of its 150 tensors are missing or have another shape"
        in message
    )
    lacking = state()
    del lacking["norm.weight"]
    save_file(lacking, tmp_path / "w.safetensors")
    assert "1 of its 150 tensors are missing" in refusal(f"timm:{VIT}", tmp_path / "w.safetensors")
    save_file({**state(), "extra.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert "1 of the file's 151 are unknown; the first is 'extra.weight'" in refusal(
        f"timm:{VIT}", tmp_path / "w.safetensors"
    )
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:1000])
    assert "cannot be read as weights" in refusal(f"timm:{VIT}", tmp_path / "cut.safetensors")
    torch.save([1, 2], tmp_path / "list.bin")
    assert "does not hold named tensors" in refusal(f"timm:{VIT}", tmp_path / "list.bin")
    torch.save({"student": state(), "teacher": state(seed=1), "epoch": 3}, tmp_path / "two.pth")
    assert "several sets of weights, 'student', 'teacher'. Fix: save the" in refusal(
        f"timm:{VIT}", tmp_path / "two.pth"
    )
    (tmp_path / "lfs.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 131072\n")
    assert "is a pointer of Git LFS, not the file itself. Fix: run" in refusal(f"timm:{VIT}", tmp_path / "lfs.bin")
    (tmp_path / "page.safetensors").write_bytes(b"<!DOCTYPE html><html>Log in</html>")
    assert "is a web page. Fix: download it again" in refusal(f"timm:{VIT}", tmp_path / "page.safetensors")
    assert "the encoder 'tiny' has no weights" in refusal("tiny", weights)
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        load_encoder("uni", tmp_path / "absent.bin")
