"""Patches show 20x whatever the magnification of the scan; unusable slides are refused with the reason."""

import numpy as np
import pytest
from slide_files import flat, of_array, write_tiff

from survq.data.problems import DataError
from survq.slides.slide import Scan, pixel_size

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
SQUARE = 28.0  # micrometres


def squares(mpp: float, side: float = 320.0) -> np.ndarray:
    """Squares of 28 micrometres in many colours, scanned at `mpp`."""
    places = ((np.arange(round(side / mpp)) + 0.5) * mpp // SQUARE).astype(int)
    return COLOURS[places[:, None], places]


def slopes(mpp: float, side: float = 120.0) -> np.ndarray:
    """Red increases to the right by 1.93 per micrometre, and green decreases by as much."""
    red = np.tile((np.arange(round(side / mpp)) + 0.5) * mpp * 1.93, (round(side / mpp), 1))
    return np.stack([red, 240 - red, np.full_like(red, 9)], axis=2)


@pytest.mark.parametrize(("mpp", "size"), [(0.5, 224), (0.25, 448), (0.2282, 491), (0.455, 246), (0.1, 1120)])
def test_a_patch_is_112_micrometres_wide_and_224_pixels(tmp_path, mpp, size):
    scan = Scan(write_tiff(tmp_path / "a.tiff", [of_array(squares(mpp))], mpp))
    assert scan.mpp == pytest.approx(mpp, rel=1e-4)
    assert scan.patch_size == size
    assert scan.patch(0, 0).shape == (224, 224, 3)


@pytest.mark.parametrize("mpp", [0.25, 0.2282, 0.125, 0.455, 0.55])
def test_patches_are_the_same_at_every_scan_resolution(tmp_path, mpp):
    reference = Scan(write_tiff(tmp_path / "20x.tiff", [of_array(squares(0.5))], 0.5))
    other = Scan(write_tiff(tmp_path / "other.tiff", [of_array(squares(mpp))], mpp))
    centres = np.arange(28, 224, 56)  # of the squares, in pixels of a patch
    for column, row in ((0, 0), (1, 0), (0, 1), (1, 1)):
        expected = COLOURS[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        for scan in (reference, other):
            patch = scan.patch(column * scan.patch_size, row * scan.patch_size)
            seen = patch[centres[:, None], centres].astype(int)
            assert np.abs(seen - expected).max() <= 1, (scan.mpp, column, row)


@pytest.mark.parametrize("transposed", [False, True], ids=["across", "down"])
@pytest.mark.parametrize("mpp", [0.5, 0.25, 0.2282, 0.125, 0.3])
def test_patches_have_no_subpixel_shift(tmp_path, mpp, transposed):
    image = slopes(mpp).round().astype(np.uint8)
    image = image.transpose(1, 0, 2) if transposed else image
    scan = Scan(write_tiff(tmp_path / "a.tiff", [of_array(image)], mpp))
    patch = scan.patch(0, 0).transpose(1, 0, 2) if transposed else scan.patch(0, 0)
    pixel = scan.patch_size * scan.mpp / 224  # about half a micrometre: a patch is a whole number of scan pixels
    assert pixel == pytest.approx(0.5, abs=0.5 * mpp / 224 + 1e-4)
    shift = (patch - slopes(pixel)[:224, :224])[8:216, 8:216].mean(axis=(0, 1)) / 1.93 / pixel
    assert abs(shift[0] - shift[1]) / 2 < 0.02  # rounding affects both colours alike and cancels


def test_patches_are_read_from_the_smallest_level_that_is_fine_enough(tmp_path):
    red, green, blue = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    levels = [flat(2048, 2048, red), flat(1024, 1024, green), flat(512, 512, blue)]
    expected = {0.25: green, 0.24: green, 0.5: red, 0.125: blue, 0.2: green}
    for mpp, colour in expected.items():
        patch = Scan(write_tiff(tmp_path / "a.tiff", levels, mpp)).patch(100, 100)
        assert (patch == colour).all(), mpp
    patch = Scan(write_tiff(tmp_path / "a.tiff", [levels[0], levels[2]], 0.25)).patch(0, 0)
    assert (patch == red).all()


def test_shrinking_does_not_alias(tmp_path):
    lines = np.zeros((1200, 1200, 3), np.uint8)
    lines[:, ::2] = 200  # every other pixel of a 40x scan is bright: grey at 20x
    patch = Scan(write_tiff(tmp_path / "a.tiff", [of_array(lines)], 0.25)).patch(0, 0)
    assert np.abs(patch[8:-8, 8:-8].astype(int) - 100).max() <= 2


def test_levels_of_odd_size_are_read_without_shift(tmp_path):
    """The sides of a level are rounded: its scale is not exactly a power of two, and differs across and down."""
    image = squares(0.25, side=321.3)
    half = squares(0.5, side=321.3)[: image.shape[0] // 2, : image.shape[1] // 2]
    scan = Scan(write_tiff(tmp_path / "a.tiff", [of_array(image), of_array(half)], 0.25))
    patch = scan.patch(448, 448)
    centres = np.arange(28, 224, 56)
    assert np.abs(patch[centres[:, None], centres].astype(int) - COLOURS[4:8, 4:8]).max() <= 1


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_each_pixel_of_a_view_is_the_mean_of_its_area_without_seams_between_blocks(tmp_path, mpp, monkeypatch):
    monkeypatch.setattr("survq.slides.slide.BLOCK", 300)
    scan = Scan(write_tiff(tmp_path / "a.tiff", [of_array(squares(mpp))], mpp))
    view = np.asarray(scan.view(8.0)).astype(float)
    assert view.shape == (40, 40, 3)
    exact = squares(0.5).astype(float).reshape(40, 16, 40, 16, 3).mean(axis=(1, 3))
    assert np.abs(view - exact).max() <= 1.5


def test_the_stated_pixel_size_is_used_if_plausible_else_the_magnification():
    def stated_mpp(x=None, y=None, power=None):
        values = {"openslide.mpp-x": x, "openslide.mpp-y": y, "openslide.objective-power": power}
        return pixel_size({name: value for name, value in values.items() if value is not None})

    assert stated_mpp("0.25", "0.25", "20") == 0.25  # a scanner with a doubler: the objective misleads
    assert stated_mpp("0.2522", "0.2520") == pytest.approx(0.2521)
    for unbelievable in ("352.8", "0.0503", "0.0025", "25000"):
        assert stated_mpp(unbelievable, unbelievable, "40") == 0.25
        assert stated_mpp(unbelievable, unbelievable) is None
    for contradiction in ("5", "0.099", "2.5"):
        assert stated_mpp(contradiction, contradiction, "40") is None
    assert stated_mpp("0.25", "0.5", "20") == 0.5
    for unusable in (("nan", "0.25"), ("", ""), ("0", "0"), (None, None)):
        assert stated_mpp(*unusable, "40") == 0.25
    assert stated_mpp("-0.25", "-0.25", "20") == 0.5
    assert stated_mpp() is stated_mpp("352.8", "352.8") is None
    for power in ("0", "many", "4000"):
        assert stated_mpp(power=power) is None


def refusal(*arguments) -> str:
    with pytest.raises(DataError) as caught:
        Scan(*arguments)
    return " ".join(caught.value.problems)


def test_slides_that_cannot_be_read_at_20x_are_refused_with_a_fix(tmp_path):
    level = flat(600, 600, (200, 100, 200))
    unknown = write_tiff(tmp_path / "unknown.tiff", [level])
    assert "no pixel size and no magnification. Fix: give its micrometres per pixel with --mpp" in refusal(unknown)
    nonsense = write_tiff(tmp_path / "nonsense.tiff", [level], mpp=352.8)
    assert "an implausible 352.8 micrometres per pixel and no magnification. Fix" in refusal(nonsense)
    coarse = write_tiff(tmp_path / "coarse.tiff", [level], mpp=1.0)
    assert "1 micrometres per pixel, coarser than 20x (0.5)" in refusal(coarse)
    assert "600 x 600 pixels, smaller than one patch of 747" in refusal(write_tiff(tmp_path / "s.tiff", [level], 0.15))
    (tmp_path / "text.svs").write_text("not a slide")
    assert "cannot be opened" in refusal(tmp_path / "text.svs")
    (tmp_path / "cut.tiff").write_bytes(unknown.read_bytes()[:200])
    assert "cannot be opened" in refusal(tmp_path / "cut.tiff")


def test_the_pixel_size_that_the_user_gives_is_used(tmp_path):
    level = flat(600, 600, (200, 100, 200))
    unknown = Scan(write_tiff(tmp_path / "unknown.tiff", [level]), 0.25)
    assert (unknown.mpp, unknown.mpp_stated, unknown.patch_size, unknown.magnification) == (0.25, None, 448, 40.0)
    for wrong in (0.0503, 0.25, 5.03, 352.8):
        file = write_tiff(tmp_path / "stated.tiff", [level], wrong)
        scan = Scan(file, 0.503)
        assert (scan.mpp, scan.patch_size, scan.magnification) == (0.503, 223, 19.9)
    assert "an implausible 0.0503 micrometres per pixel and no magnification. Fix: give its micrometres per pixel" in (
        refusal(write_tiff(tmp_path / "a.tiff", [level], 0.0503))
    )


def test_a_magnification_that_contradicts_the_pixel_size_is_not_kept(real_data):
    """The slide states a magnification of 20."""
    file = real_data / "slides" / "CMU-1-Small-Region.svs"
    assert [Scan(file, mpp).magnification for mpp in (None, 0.4, 0.25)] == [20.0, 20.0, 40.0]


def test_undecodable_pixels_raise_an_error_and_are_not_black(tmp_path):
    file = write_tiff(tmp_path / "a.tiff", [of_array(squares(0.5))], 0.5)
    content = bytearray(file.read_bytes())
    content[8:200] = bytes(192)  # the first tile
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read at \(0, 0\).*Fix: download it again"):
        Scan(file).patch(0, 0)
