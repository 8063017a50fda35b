"""Maps over slides: the picture, the squares of the patches and the images of patches lie at the same place."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from slide_files import of_array, write_tiff

from survq.data.problems import DataError
from survq.interpretation.sheet import lay_out, open_scans, slide_files
from survq.reporting.map_figures import cross_modal_figure, draw_map, pathway_bars, query_maps_figure, tissue_map

SIDE = 224


def checkerboard(across: int, down: int, seed: int) -> np.ndarray:
    """Squares of SIDE pixels, each of a colour of its own."""
    colours = np.random.default_rng(seed).integers(0, 256, (down, across, 3), dtype=np.uint8)
    return colours.repeat(SIDE, 0).repeat(SIDE, 1)


@pytest.fixture
def case(tmp_path):
    """Two slides of a case, at 20x and at 40x; the second has a file, with suffixes of its name in capitals."""
    pixels = checkerboard(12, 10, seed=1)
    write_tiff(tmp_path / "sub-B.TIFF", [of_array(pixels)], mpp=0.5)
    a = pd.DataFrame({"slide_id": "A$x", "x": [0, 448], "y": [896, 448], "patch_size": 448})
    b = pd.DataFrame({"slide_id": "sub-b", "x": [672, 448, 1344, 896], "y": [896, 448, 1120, 672], "patch_size": SIDE})
    positions = pd.concat([a, b], ignore_index=True).astype({"x": "Int64", "y": "Int64", "patch_size": "Int64"})
    slides = pd.DataFrame({"slide_id": ["A$x", "sub-b"], "magnification": [40.0, 20.0]})
    return tmp_path, pixels, positions, slides


def colour_at(sheet, x: float, y: float) -> np.ndarray:
    """Of the picture on the sheet, where x and y are micrometres."""
    (picture,) = sheet.pictures
    height, width = picture.pixels.shape[:2]
    column = int((x - picture.left) / (picture.right - picture.left) * width)
    row = int((y - picture.top) / (picture.bottom - picture.top) * height)
    return picture.pixels[row, column]


def test_squares_and_images_lie_on_the_picture(case):
    folder, pixels, positions, slides = case
    with open_scans(slide_files(folder, ["A$x", "sub-b"])) as scans:
        assert list(scans) == ["sub-b"]
        sheet = lay_out(positions, slides, scans)
        one = tissue_map("map", np.array([0.0, 0.1, 0.5, 0.2, 0.3, 0.4]), "", positions, scans, count=6)
    for row in range(2, 6):
        x, y = positions.loc[row, ["x", "y"]]
        truth = pixels[y, x]
        (left, top), side = sheet.corners[row], sheet.sides[row]
        assert side == pytest.approx(112, abs=0.1)
        for share in (0.03, 0.5, 0.97):  # also near the edges of the square
            assert (colour_at(sheet, left + share * side, top + share * side) == truth).all()
        image = one.images[one.top.index(row)]
        assert image.shape == (224, 224, 3) and (image == truth).all()
    assert one.top == (2, 5, 4, 3, 1, 0) and one.images[4] is None and one.images[5] is None
    assert sheet.corners[:2] == pytest.approx(np.array([[112, 224], [224, 112]]), abs=0.5)
    assert sheet.sides[:2] == pytest.approx(112) and sheet.to_scale
    assert sheet.corners[2:, 0].min() > sheet.corners[:2, 0].max() + 112, "slides do not overlap"


def test_the_squares_of_a_figure_are_those_of_the_sheet(case):
    folder, _, positions, slides = case
    with open_scans(slide_files(folder, ["sub-b"])) as scans:
        sheet = lay_out(positions, slides, scans)
        one = tissue_map("$map", np.array([0.0, 0.1, 0.5, 0.2, 0.3, 0.4]), "$", positions, scans)
    axes = Figure().subplots()
    draw_map(axes, sheet, one)
    axes.figure.draw_without_rendering()  # dollars in names are no formulas
    (squares,) = axes.collections
    for row, path in enumerate(squares.get_paths()):
        assert path.vertices[0] == pytest.approx(sheet.corners[row])
        assert path.vertices[2] == pytest.approx(sheet.corners[row] + sheet.sides[row])
    assert np.asarray(squares.get_array()) == pytest.approx(one.values / one.values.mean())
    assert (squares.norm.vmin, squares.norm.vmax) == (0, pytest.approx(2, abs=0.1))
    (image,) = axes.images
    (picture,) = sheet.pictures
    assert image.get_extent() == pytest.approx([picture.left, picture.right, picture.bottom, picture.top])
    assert axes.yaxis_inverted() and not axes.xaxis_inverted()


def test_slides_that_do_not_fit_are_refused(case):
    folder, _, positions, slides = case
    beyond = positions.copy()
    beyond.loc[3, "x"] = 5000
    with open_scans(slide_files(folder, ["sub-b"])) as scans, pytest.raises(DataError, match="its patches reach to"):
        lay_out(beyond, slides, scans)
    with pytest.raises(DataError, match="holds no file of the slides 'other'"):
        slide_files(folder, ["other"])
    write_tiff(folder / "sub-b.tif", [of_array(checkerboard(3, 3, 0))], mpp=0.5)
    with pytest.raises(DataError, match="has several files"):
        slide_files(folder, ["sub-b"])
    (folder / "damaged.svs").write_bytes(b"no slide")
    with pytest.raises(DataError, match=r"damaged\.svs: cannot be opened"), open_scans({"d": folder / "damaged.svs"}):
        pass


def test_a_sheet_without_positions_draws_a_sentence(case):
    _, _, positions, slides = case
    unknown = positions.astype({"x": "float", "y": "float"}).assign(x=np.nan, y=np.nan, patch_size=np.nan)
    sheet = lay_out(unknown, slides, {})
    assert not sheet.known
    axes = Figure().subplots()
    draw_map(axes, sheet, tissue_map("map", np.ones(6), "", unknown, {}))
    assert ["unknown" in text.get_text() for text in axes.texts] == [True]
    assert not axes.collections


def test_an_unknown_magnification_is_said_by_the_missing_scale(case):
    _, _, positions, slides = case
    sheet = lay_out(positions, slides.assign(magnification=np.nan), {})
    assert not sheet.to_scale and sheet.sides == pytest.approx(112)


def test_the_real_slide(real_data):
    """The squares lie on the tissue of the picture, and their content is that of the patches."""
    from survq.slides.tissue import mask_view, patch_grid, tissue_mask

    name = "CMU-1-Small-Region"
    with open_scans(slide_files(real_data / "slides", [name])) as scans:
        scan = scans[name]
        places = patch_grid(scan, tissue_mask(mask_view(scan, scan.view(2.0))))
        positions = pd.DataFrame(places, columns=["x", "y"]).assign(patch_size=scan.patch_size)
        positions.insert(0, "slide_id", name)
        sheet = lay_out(positions, pd.DataFrame({"slide_id": [name], "magnification": [20.0]}), scans)
        truth = np.array([scan.patch(x, y).mean(axis=(0, 1)) for x, y in places.tolist()])
    (picture,) = sheet.pictures
    height, width = picture.pixels.shape[:2]
    scale = np.array([width / (picture.right - picture.left), height / (picture.bottom - picture.top)])

    def means(shift: float) -> np.ndarray:
        found = []
        for corner, side in zip(sheet.corners, sheet.sides, strict=True):
            low = np.round((corner + shift * side - [picture.left, picture.top]) * scale).astype(int)
            high = np.round((corner + (1 + shift) * side - [picture.left, picture.top]) * scale).astype(int)
            found.append(picture.pixels[max(low[1], 0) : high[1], max(low[0], 0) : high[0]].mean(axis=(0, 1)))
        return np.array(found)

    here = np.abs(means(0) - truth).mean()
    assert here < 1.5
    for shift in (-0.25, 0.25):
        assert np.abs(means(shift) - truth).mean() > 2 * here
    assert (means(0).min(axis=1) < 225).all(), "no square lies on glass"


@pytest.mark.parametrize("shape", [(8, 9), (12, 2), (2, 12)])
def test_titles_lie_inside_the_figure_and_apart(shape):
    """Whatever the shape of the tissue: constrained layout cuts what does not fit, without a word."""
    places = np.stack(np.meshgrid(*map(np.arange, shape)), axis=-1).reshape(-1, 2) * 224
    positions = pd.DataFrame(places, columns=["x", "y"]).assign(slide_id="S", patch_size=224)
    sheet = lay_out(positions, pd.DataFrame({"slide_id": ["S"], "magnification": [20.0]}), {})
    note = "agreement with untrained model 0.75\nAUROC worse 0.96, better 0.00\nuntrained 0.25, 0.28"
    one = tissue_map("histology query 7", np.arange(float(len(positions))), note, positions, {})
    bars = pathway_bars("genomic query 3", list("abcdefg"), np.arange(7.0))
    effect = np.arange(float(len(positions))) % 3 - 1
    for figure in (
        query_maps_figure("TITLE", "facts", sheet, [one] * 4, [bars] * 3, effect),
        cross_modal_figure("TITLE", "facts", sheet, bars, one, effect),
    ):
        figure.draw_without_rendering()
        (above,) = [part for part in figure.subfigs if part.get_suptitle() == "TITLE"]
        heading = above._suptitle.get_window_extent()
        for axes in figure.axes:
            for text in (axes.title, axes._left_title):
                box = text.get_window_extent()
                assert not text.get_text() or (box.y1 <= figure.bbox.y1 and not box.overlaps(heading))
