"""Feature files exactly as each tool writes them: names, shapes, dtypes, chunks, attributes, folders.

According to the sources of TRIDENT a91fa84, CLAM 53e2409, STAMP c54ce06, MMP 5878b84, SurvPath 3f73ddd, slideflow
fec8fc5 and slide2vec 7cfa6bf.
"""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

SLIDE = "TCGA-AA-0001-01Z-00-DX1.6A7E8C30-1111-2222"
HALVES = np.random.default_rng(0).normal(size=(70, 16)).astype(np.float16)
SINGLES = HALVES.astype(np.float32)
GRID = np.stack(np.meshgrid(np.arange(10), np.arange(7)), axis=-1).reshape(-1, 2)
COORDS = GRID * 448 + 1000


def trident(
    job: Path,
    slide: str,
    features: np.ndarray,
    coords: np.ndarray,
    encoder: str = "uni_v1",
    level0: tuple[int, int] = (448, 40),  # side of a patch in pixels, and magnification
) -> Path:
    """features_{encoder}/{slide}.h5 and patches/{slide}_patches.h5 of a job: appended to, so chunked by rows."""
    work = job / "20x_224px_0px_overlap"
    attributes = {
        "patch_size": 224,
        "patch_size_level0": level0[0],
        "level0_magnification": level0[1],
        "target_magnification": 20,
        "overlap": 0,
        "name": slide,
        "savetodir": str(work),
        "level0_width": 80_000,
        "level0_height": 60_000,
    }
    for folder, name in ((f"features_{encoder}", f"{slide}.h5"), ("patches", f"{slide}_patches.h5")):
        (work / folder).mkdir(parents=True, exist_ok=True)
        with h5py.File(work / folder / name, "w") as store:
            if folder != "patches":
                shape = features.shape[1:]
                data = store.create_dataset(
                    "features", data=features, chunks=(1, *shape) if shape else None, maxshape=(None, *shape)
                )
                data.attrs.update({"name": slide, "savetodir": str(work / folder), "encoder": encoder})
            data = store.create_dataset("coords", data=coords.astype(np.int64), chunks=(1, 2), maxshape=(None, 2))
            data.attrs.update(attributes)
    return work / f"features_{encoder}" / f"{slide}.h5"


def trident_pt(job: Path, slide: str, features: np.ndarray, coords: np.ndarray, encoder: str = "uni_v1") -> Path:
    """TRIDENT with --saveas pt: a pickled NumPy array."""
    file = trident(job, slide, features, coords, encoder)
    file.unlink()
    torch.save(features, file.with_suffix(".pt"))
    return file.with_suffix(".pt")


def clam(results: Path, slide: str, features: np.ndarray, coords: np.ndarray, downsample: float = 2.0) -> Path:
    """patches/ of create_patches_fp.py; h5_files/ and pt_files/ of extract_features_fp.py, without attributes."""
    for folder in ("patches", "h5_files", "pt_files"):
        (results / folder).mkdir(parents=True, exist_ok=True)
    with h5py.File(results / "patches" / f"{slide}.h5", "w") as store:
        data = store.create_dataset("coords", data=coords.astype(np.int64), chunks=(1, 2), maxshape=(None, 2))
        data.attrs.update(
            {
                "patch_size": 256,
                "patch_level": 1,
                "downsample": (downsample, downsample),
                "downsampled_level_dim": (40_000, 30_000),
                "level_dim": (40_000, 30_000),
                "name": slide,
                "save_path": str(results / "patches"),
            }
        )
    file = results / "h5_files" / f"{slide}.h5"
    with h5py.File(file, "w") as store:
        store.create_dataset("features", data=features, chunks=(min(32, len(features)), 16), maxshape=(None, 16))
        store.create_dataset("coords", data=coords.astype(np.int32), chunks=(min(32, len(coords)), 2))
    torch.save(torch.from_numpy(features), results / "pt_files" / f"{slide}.pt")
    return file


MICRONS = 256.0  # side of STAMP's tiles


def stamp(
    folder: Path, slide: str, features: np.ndarray, microns: np.ndarray, version: str = "2.4.0", side: float = MICRONS
) -> Path:
    """Current files have `unit` and `tile_size_um`; 2.0: `tile_size`; older: neither, and 224 means 256 micrometres."""
    folder = folder / "uni-1a2b3c4d"
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{slide}.h5", "w") as store:
        store["feats"] = features
        store["coords"] = microns * 224 / 256 if version == "historic" else microns
        if version != "historic":
            store.attrs["unit"] = "um"
            store.attrs["extractor"] = "uni"
            store.attrs["stamp_version"] = version
        if version == "2.0.0":
            store.attrs["tile_size"] = MICRONS
        elif version != "historic":
            store.attrs.update({"tile_size_um": side, "tile_size_px": 224, "feat_type": "tile", "code_hash": "1a2b"})
    return folder / f"{slide}.h5"


def mmp(root: Path, slide: str, features: np.ndarray, coords: np.ndarray, leading: bool = True) -> Path:
    folder = root / "extracted_mag20x_patch256_fp/extracted-vit_large_patch16_224.dinov2.uni_mass100k/feats_h5"
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{slide}.h5", "w") as store:
        store["features"] = features[None] if leading else features
        store["coords"] = coords[None] if leading else coords
    return folder / f"{slide}.h5"


def tensor(root: Path, slide: str, features: np.ndarray, dtype: torch.dtype = torch.float32) -> Path:
    """{root}/{slide}.pt of SurvPath, pt_files/{slide}.pt of MCAT, PORPOISE and PIBD."""
    root.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(features).to(dtype), root / f"{slide}.pt")
    return root / f"{slide}.pt"


def slideflow(root: Path, slide: str, features: np.ndarray, centres: np.ndarray) -> Path:
    file = tensor(root, slide, features)
    np.savez(root / f"{slide}.index.npz", centres)
    (root / "bags_config.json").write_text(json.dumps({"extractor": "uni", "num_features": 16, "tile_px": 224}))
    return file


def slide2vec(run: Path, slide: str, features: np.ndarray, coords: np.ndarray, level0: int = 444) -> Path:
    """tile_embeddings/ with its meta.json, and tiles/ of hs2p."""
    file = tensor(run / "tile_embeddings", slide, features)
    note = {"encoder_name": "uni", "encoder_level": "tile", "feature_dim": 16, "num_tiles": len(features)}
    file.with_suffix(".meta.json").write_text(json.dumps(note))
    (run / "tiles").mkdir(exist_ok=True)
    columns = {"x": coords[:, 0].astype(np.int64), "y": coords[:, 1].astype(np.int64)}
    index = np.arange(len(coords), dtype=np.int32)
    share = np.ones(len(coords), np.float32)
    np.savez(run / "tiles" / f"{slide}.coordinates.npz", tile_index=index, **columns, tissue_fractions=share)
    meta = {"tiling": {"tile_size_lv0": level0, "requested_spacing_um": 0.5}}
    (run / "tiles" / f"{slide}.coordinates.meta.json").write_text(json.dumps(meta))
    return file


def edit(file: Path, change: Callable[[h5py.File], object]) -> Path:
    with h5py.File(file, "r+") as store:
        change(store)
    return file


def h5(at: Path, change: Callable[[h5py.File], object] = lambda store: None) -> Path:
    return edit(trident(at, SLIDE, HALVES, COORDS), change)
