"""The whole way of a real slide: extracted by survq, read by a model of simulated cases, and mapped back on it."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

from survq.data.cohort import Cohort
from survq.data.folds import given_folds
from survq.data.write import write_cohort
from survq.interpretation.held_out import bag_of, held_out_cases
from survq.interpretation.sheet import lay_out, open_scans, slide_files
from survq.reporting.case_maps import query_map_files
from survq.simulation.cohort import World
from survq.simulation.gene_sets import draw_gene_sets
from survq.simulation.worlds import PRESETS
from survq.slides.encoder import load_encoder
from survq.slides.extract import extract
from survq.slides.reader import read_slide
from survq.slides.slide import Scan
from survq.slides.tissue import mask_view, tissue_mask
from survq.training.config import TrainConfig
from survq.training.fold_file import read_fold
from survq.training.loop import train_folds
from survq.training.run import Run

SLIDE = "CMU-1-Small-Region"


@pytest.fixture(scope="module")
def mapped(real_data, tmp_path_factory):
    """The files of the maps of a held-out case, whose slide is the real one; the cohort, and the slide's folder."""
    folder = tmp_path_factory.mktemp("extracted")
    encoder = load_encoder("tiny", device="cpu")
    config = replace(
        PRESETS["demo"], cases=60, patches=24, width=encoder.width, missing_slides=0.0, missing_expression=0.0
    )
    world = World(config).cohort(config.cases, seed=0)
    ids = list(world.cases.index)
    held_out = ids[:20]
    case = held_out[0]
    splits = pd.DataFrame([(0, 0, one, "validation" if one in held_out else "training") for one in ids])
    write_cohort(
        folder, "X", cases=world.cases, expression=world.expression,
        slides=[replace(slide, encoder=encoder.name) for slide in world.slides() if slide.case_id != case],
        splits=splits.set_axis(["repeat", "fold", "case_id", "role"], axis=1),
        gene_sets=draw_gene_sets(config, world.world.transcriptome),
    )  # fmt: skip
    slides = folder / "slides"
    slides.mkdir()
    shutil.copy(real_data / "slides" / f"{SLIDE}.svs", slides)
    pd.DataFrame({"case_id": [case], "slide_id": [SLIDE]}).to_csv(folder / "cases.csv", index=False)

    def encode(sources):
        for source in sources:
            for message, payload in read_slide(source.file, source.mpp, 60.0):
                if message["kind"] == "patches":
                    payload = encoder(np.frombuffer(payload, np.uint8).reshape(-1, 224, 224, 3)).tobytes()
                yield source, message, payload

    (result,) = extract(slides, str(folder), "X", encoder, encode, table=folder / "cases.csv")
    assert (result.state, result.slide_id) == ("written", SLIDE)

    cohort = Cohort.load(folder, "X")
    folds = given_folds(cohort.splits, list(cohort.cases.index))
    sizes = {"width": 16, "histology_queries": 4, "genomic_queries": 4}
    run = Run("X", TrainConfig("survq", sizes, epochs=2, learning_rate=2e-3), tuple(folds))
    outcome = train_folds(run, cohort, cohort.bags(), keep_weights=True)
    (name,) = run.weights_files
    (folder / name).write_bytes(outcome.files[name])
    fold, _ = read_fold(folder / name)
    (shown,) = held_out_cases([fold], outcome.predictions, cohort, [case])
    files, _ = query_map_files("X", shown, slides, None)
    return files, shown, cohort, slides


def test_the_maps_lie_on_the_tissue_from_which_the_features_came(mapped):
    """From a square in QuPath back to the pixels: they are on tissue, and encode to the row that the model read."""
    files, shown, cohort, slides = mapped
    bag, encoder = bag_of(cohort, shown.case_id).float().numpy(), load_encoder("tiny", device="cpu")
    features = json.loads(bytes(files[f"{SLIDE}.geojson"]))["features"]
    assert len(features) == len(bag) > 20
    with open_scans(slide_files(slides, [SLIDE])) as scans:
        scan: Scan = scans[SLIDE]
        mask = tissue_mask(mask_view(scan, scan.view(2.0)))
        step = np.array([scan.width / mask.shape[1], scan.height / mask.shape[0]])
        for feature, row in zip(features, bag, strict=True):
            (corners,) = feature["geometry"]["coordinates"]
            (left, top), (right, bottom) = corners[0], corners[2]
            assert (right - left, bottom - top) == (scan.patch_size, scan.patch_size)
            assert np.array_equal(encoder(scan.patch(left, top)[None])[0].astype(np.float32), row)
            low, high = (np.round(np.array(corner) / step).astype(int) for corner in (corners[0], corners[2]))
            assert mask[low[1] : high[1], low[0] : high[0]].mean() > 0.2, "the square lies on glass"


def test_the_overlay_shows_the_same_squares_and_patches(mapped):
    files, shown, _, slides = mapped
    figure = files["query_maps.png"]
    with open_scans(slide_files(slides, [SLIDE])) as scans:
        sheet = lay_out(shown.maps.positions, shown.slides, scans)
    drawn = [
        collection for axes in figure.axes for collection in axes.collections if isinstance(collection, PolyCollection)
    ]
    assert len(drawn) == 4, "two queries, the gradient, the risk without the region"
    for collection in drawn:
        corners = np.array([path.vertices[0] for path in collection.get_paths()])
        assert corners == pytest.approx(sheet.corners)
        assert collection.axes.images, "over the picture of the slide"
    (picture,) = sheet.pictures
    for axes in (collection.axes for collection in drawn):
        (image,) = axes.images
        assert image.get_extent() == pytest.approx([picture.left, picture.right, picture.bottom, picture.top])
    table = pd.read_parquet(io.BytesIO(files["attention.parquet"]))
    assert table.groupby("query", observed=True)["weight"].sum()[["histology query 0"]].tolist() == pytest.approx([1])
