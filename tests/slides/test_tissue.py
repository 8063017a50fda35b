"""The mask covers stained tissue only; the grid covers the mask."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from slide_files import flat, of_array, stained, write_tiff

from survq.data.problems import DataError
from survq.slides.slide import Scan
from survq.slides.tissue import mask_view, otsu, patch_grid, tissue_mask

GLASS, PINK, PURPLE = (243, 242, 244), (225, 150, 190), (120, 80, 160)


def picture(colour=GLASS, noise: float = 2.0, size: int = 200) -> Image.Image:
    random = np.random.default_rng(0)
    pixels = np.array(colour) + random.normal(0, noise, (size, size, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def with_tissue(size: int = 200) -> tuple[Image.Image, np.ndarray]:
    """Pink tissue with a purple part on glass, and its true mask."""
    image = picture(size=size)
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 40, 150, 160), fill=PINK)
    draw.ellipse((60, 70, 90, 120), fill=PURPLE)
    where = Image.new("1", image.size)
    ImageDraw.Draw(where).ellipse((40, 40, 150, 160), fill=1)
    return image, np.asarray(where)


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


def test_tissue_is_found():
    image, truth = with_tissue()
    assert overlap(tissue_mask(image), truth) > 0.97


@pytest.mark.parametrize(
    "stain",
    [
        (250, 225, 240),
        (200, 140, 215),
        (150, 60, 110),
        (70, 50, 130),
        (170, 110, 60),
        (205, 85, 105),
        (180, 50, 70),
        (220, 100, 130),
    ],
)
def test_pale_and_dark_stains_are_tissue(stain):
    image = picture()
    ImageDraw.Draw(image).rectangle((50, 50, 149, 149), fill=stain)
    truth = np.zeros((200, 200), bool)
    truth[50:150, 50:150] = True
    assert overlap(tissue_mask(image), truth) > 0.95


@pytest.mark.parametrize(
    "mark",
    [
        *((20, 20, 20), (60, 60, 62), (30, 140, 80), (20, 60, 160), (40, 170, 210)),
        *((200, 30, 45), (230, 60, 70), (180, 20, 30), (240, 130, 30), (255, 165, 0), (130, 130, 130)),
    ],
    ids=[
        *("black ink", "grey ink", "green ink", "blue ink", "light blue ink"),
        *("red ink", "light red ink", "dark red ink", "orange ink", "bright orange ink", "edge of the cover slip"),
    ],
)
def test_marks_and_shadows_are_not_tissue(mark):
    image, truth = with_tissue()
    ImageDraw.Draw(image).line((10, 190, 190, 175), fill=mark, width=12)
    assert overlap(tissue_mask(image), truth) > 0.95


@pytest.mark.parametrize("ink", [(25, 60, 150), (200, 30, 45), (240, 130, 30)], ids=["blue", "red", "orange"])
def test_the_edges_of_thin_ink_lines_are_not_tissue(ink):
    """At its edges, ink mixes with glass to the pale violet or pink of some tissue."""
    large = picture(size=800)
    ImageDraw.Draw(large).line((20, 700, 780, 560), fill=ink, width=16)
    ImageDraw.Draw(large).line((300, 20, 340, 780), fill=tuple(round(0.9 * part) for part in ink), width=24)
    assert not tissue_mask(large.reduce(4)).any()


@pytest.mark.parametrize("ink", [(20, 60, 160), (200, 30, 45), (240, 130, 30)], ids=["blue", "red", "orange"])
def test_ink_on_tissue_is_removed(ink):
    image, _ = with_tissue()
    ImageDraw.Draw(image).rectangle((95, 80, 135, 120), fill=ink)
    assert not tissue_mask(image)[88:113, 103:128].any()


@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (225, 226, 228), (244, 243, 236)])
def test_a_slide_of_glass_has_no_tissue(glass):
    assert not tissue_mask(picture(glass)).any()


def test_a_slide_full_of_tissue_is_all_tissue():
    """Otsu's unbounded threshold would cut through the tissue."""
    image = picture(PINK, noise=8)
    ImageDraw.Draw(image).rectangle((0, 0, 199, 90), fill=PURPLE)
    assert tissue_mask(image).mean() > 0.99


def test_uneven_illumination_is_not_tissue():
    shade = np.linspace(190, 250, 200)[None, :, None] * np.ones((200, 1, 3))
    assert not tissue_mask(Image.fromarray(shade.astype(np.uint8))).any()


def test_specks_are_removed_small_holes_filled_and_large_holes_kept():
    image, _ = with_tissue()
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 10, 17, 17), fill=PINK)  # 64 micrometres wide, less than a patch
    draw.ellipse((110, 60, 117, 67), fill=GLASS)
    draw.ellipse((90, 110, 125, 145), fill=GLASS)
    mask = tissue_mask(image)
    assert not mask[:30, :30].any()
    assert mask[60:68, 110:118].all()
    assert not mask[115:140, 95:120].any()


def test_unscanned_areas_are_not_tissue():
    image, truth = with_tissue()
    ImageDraw.Draw(image).rectangle((160, 0, 199, 199), fill=(0, 0, 0))
    assert overlap(tissue_mask(image), truth) > 0.95


def test_a_dark_background_is_refused():
    image = picture((4, 4, 10))
    ImageDraw.Draw(image).ellipse((40, 40, 150, 160), fill=(20, 20, 230))
    with pytest.raises(DataError, match=r"dark, as in fluorescence.*Fix: remove it from the folder"):
        tissue_mask(image)


def test_otsu_separates_two_groups():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0.1, 0.02, 5000), random.normal(0.6, 0.05, 500)])
    assert 0.2 < otsu(values) < 0.45
    assert otsu(np.array([0.2, 0.2, 0.8])) == pytest.approx(0.5, abs=0.01)


def test_the_grid_starts_at_the_corner_and_stays_within_the_slide(tmp_path):
    scan = Scan(write_tiff(tmp_path / "a.tiff", [flat(1000, 700, PINK)], 0.5))
    everywhere = np.ones((44, 62), bool)
    grid = patch_grid(scan, everywhere)
    assert grid.dtype == np.int32
    assert grid.tolist() == [[x, y] for y in (0, 224, 448) for x in (0, 224, 448, 672)]
    assert len(patch_grid(scan, ~everywhere)) == 0


@pytest.mark.parametrize(("share", "count"), [(0.25, 6), (0.5, 4), (0.51, 4), (0.75, 2), (1.0, 2)])
def test_a_patch_needs_the_minimum_share_of_tissue(tmp_path, share, count):
    """Four columns of patches: the mask covers one fully and two in part, with edges inside its pixels."""
    scan = Scan(write_tiff(tmp_path / "a.tiff", [flat(896, 448, PINK)], 0.5))
    mask = np.zeros((28, 56), bool)
    mask[:, 14:28] = True  # the second column
    mask[:, 28:38] = True  # 10 of 14 of the third
    mask[:, 8:14] = True  # 6 of 14 of the first
    assert len(patch_grid(scan, mask, share)) == count


def test_the_share_is_exact_between_pixels_of_the_mask(tmp_path):
    """A patch is no whole number of mask pixels: 491 level-0 pixels are 14.005 mask pixels."""
    scan = Scan(write_tiff(tmp_path / "a.tiff", [flat(3968, 4864, PINK)], 0.2282))
    size = [round(side * scan.mpp / 8) for side in (4864, 3968)]
    assert len(patch_grid(scan, np.ones(size, bool), 1.0)) == (4864 // 491) * (3968 // 491)


@pytest.mark.parametrize("mpp", [0.5, 0.25])
def test_mask_and_grid_of_a_whole_slide(tmp_path, mpp):
    side = round(4480 * 0.5 / mpp)
    scan = Scan(write_tiff(tmp_path / "a.tiff", [stained(side, side)], mpp))
    mask = tissue_mask(mask_view(scan, scan.view(4.0)))
    assert mask.mean() == pytest.approx(0.25, abs=0.03)
    grid = patch_grid(scan, mask)
    assert 80 <= len(grid) <= 121  # 10 x 10 patches of tissue, and those partly covered around them
    inside = (grid >= side // 4 - scan.patch_size) & (grid <= 3 * side // 4)
    assert inside.all()
    assert np.asarray(of_array(scan.patch(*grid[len(grid) // 2].tolist()))[2](0, 0)).shape == (256, 256, 3)


@pytest.mark.parametrize("ink", [(200, 30, 45), (240, 130, 30)], ids=["red", "orange"])
def test_a_line_of_ink_adds_no_patches(tmp_path, ink):
    """A line 0.3 mm wide across a slide of 2.5 mm."""
    width, height, draw = stained(3072, 3072)

    def drawn(x: int, y: int) -> np.ndarray:
        tile = draw(x, y).copy()
        tile[:, max(0, 50 - x) : max(0, 650 - x)] = ink
        return tile

    grids = []
    for name, each in (("clean", draw), ("marked", drawn)):
        scan = Scan(write_tiff(tmp_path / f"{name}.tiff", [(width, height, each)], 0.5))
        grids.append(patch_grid(scan, tissue_mask(mask_view(scan, scan.view(4.0)))).tolist())
    assert grids[0] == grids[1] and len(grids[0]) > 40
