"""Every real slide file is read or refused with a clear message."""

import numpy as np
import openslide
import pytest
from PIL import Image

from survq.data.problems import DataError
from survq.slides.reader import read_slide
from survq.slides.slide import Scan
from survq.slides.tissue import mask_view, patch_grid, tissue_mask


def test_the_h_and_e_slide(real_data):
    scan = Scan(real_data / "slides" / "CMU-1-Small-Region.svs")
    assert (scan.mpp, scan.patch_size, scan.magnification) == (0.499, 224, 20.0)
    mask = tissue_mask(mask_view(scan, scan.view(2.0)))
    assert 0.30 < mask.mean() < 0.45
    everywhere = patch_grid(scan, np.ones_like(mask))
    assert len(everywhere) == 117
    assert 50 <= len(patch_grid(scan, mask)) <= 60
    # at 20x a patch has exactly the pixels of the scan
    x, y = everywhere[60].tolist()
    with openslide.OpenSlide(real_data / "slides" / "CMU-1-Small-Region.svs") as slide:
        pixels = np.asarray(slide.read_region((x, y), 0, (224, 224)).convert("RGB"))
    assert (scan.patch(x, y) == pixels).all()


def test_the_40x_slide_is_read_at_20x(real_data):
    file = real_data / "slides" / "stritt_dapi_40x.ndpi"
    scan = Scan(file)
    assert (scan.patch_size, scan.magnification) == (491, 40.0)
    assert scan.patch_size * scan.mpp == pytest.approx(112, abs=0.2)  # micrometres
    # read from the level of half the size, the patch equals level 0 reduced; a DAPI slide is only blue
    with openslide.OpenSlide(file) as slide:
        large = slide.read_region((1473, 982), 0, (491, 491)).convert("RGB")
    expected = np.asarray(large.resize((224, 224), Image.Resampling.BICUBIC)).astype(float)
    patch = scan.patch(1473, 982).astype(float)
    assert expected[..., 2].std() > 20
    assert np.corrcoef(patch[..., 2].ravel(), expected[..., 2].ravel())[0, 1] > 0.98
    for shifted in (np.roll(patch, 1, axis=0), np.roll(patch, 1, axis=1)):
        assert np.abs(shifted - expected).mean() > 1.3 * np.abs(patch - expected).mean()


MESSAGES = {
    "stritt_dapi_40x.ndpi": "its background is dark, as in fluorescence",
    "edge/small.svs": "16 x 16 pixels, smaller than one patch of 224",
    "edge/unreadable.svs": "16 x 16 pixels, smaller than one patch of 224",
    "edge/unopenable.tiff": "cannot be opened (Unsupported TIFF compression: 52479)",
    "edge/boxes.tiff": "the file states an implausible 352.8 micrometres per pixel and no magnification",
    "edge/hs2p_tissue_mask.tif": "4.03 micrometres per pixel, coarser than 20x (0.5)",
}


@pytest.mark.parametrize("file", MESSAGES)
def test_unusable_files_are_refused_with_the_reason(real_data, file):
    ((message, _),) = read_slide(str(real_data / "slides" / file), None, 60)
    assert message["kind"] == "failed"
    assert message["problem"].startswith(MESSAGES[file])
    assert "Fix: " in message["problem"]


def test_every_real_file_is_tested(real_data):
    folder = real_data / "slides"
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == {*MESSAGES, "CMU-1-Small-Region.svs"}


def test_a_slide_that_opens_but_cannot_be_read(real_data, monkeypatch):
    monkeypatch.setattr("survq.slides.slide.PATCH", 16)
    with pytest.raises(DataError, match=r"cannot be read at \(0, 0\)"):
        Scan(real_data / "slides" / "edge" / "unreadable.svs").patch(0, 0)


def test_a_given_pixel_size_makes_a_tiff_without_one_readable(real_data):
    scan = Scan(real_data / "slides" / "edge" / "boxes.tiff", 0.5)
    assert scan.patch(0, 0).std() > 5
    assert scan.view(1.0).size == (150, 125)
