"""`survq extract` checks its arguments before it starts Ray."""

import subprocess
import sys

import pandas as pd
import pytest
from slide_files import flat, write_tiff

from survq.cli import main
from survq.data.write import write_cohort


@pytest.fixture
def folders(tmp_path):
    """A folder of slides and a data folder with the cohort X, as arguments."""
    (tmp_path / "slides").mkdir()
    write_tiff(tmp_path / "slides" / "TCGA-AA-0001-01Z.tiff", [flat(600, 600, (240, 240, 240))], 0.5)
    cases = pd.DataFrame({"time": [9.0], "event": [True]}, index=pd.Index(["TCGA-AA-0001"], name="case_id"))
    write_cohort(tmp_path / "data", "X", cases=cases)
    return [str(tmp_path / "slides"), str(tmp_path / "data")]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--cohort", "X"], 65, "weights are not on this machine. Fix: pass them with --weights FILE"),
        (["--cohort", "X", "--encoder", "vit"], 65, "unknown. Fix: use uni, tiny, or timm:NAME"),
        (["--cohort", "X", "--encoder", "uni", "--weights", "absent.bin"], 66, "no such weights file"),
        (["--cohort", "Y", "--encoder", "tiny"], 65, "no cohort 'Y'"),
        (["--cohort", "X", "--encoder", "tiny", "--timeout", "0"], 64, "must be above 0"),
        (
            ["--cohort", "X", "--encoder", "tiny", "--mpp", "-1"],
            64,
            "--mpp -1: expected micrometres per pixel, from 0.08",
        ),
        (
            ["--cohort", "X", "--encoder", "tiny", "--mpp", "0.0503"],
            64,
            "expected micrometres per pixel, from 0.08 to 20",
        ),
        (["--cohort", "X", "--encoder", "tiny", "--mpp", "nan"], 64, "expected micrometres per pixel"),
        (["--cohort", "X", "--encoder", "tiny", "--cases", "absent.csv"], 66, "absent.csv"),
    ],
)
def test_bad_arguments_are_refused_before_ray_starts(folders, monkeypatch, capsys, tmp_path, arguments, code, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("survq.slides.pipeline.connect", lambda: pytest.fail("Ray was started"))
    assert main(["extract", *folders, *arguments]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("missing", "encoder"), [("openslide", "tiny"), ("timm", "uni")])
def test_without_the_wsi_extra_the_message_says_what_to_install(folders, monkeypatch, capsys, missing, encoder):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["extract", *folders, "--cohort", "X", "--encoder", encoder]) == 64
    assert f"{missing} not installed. Fix: pip install 'survq[wsi]'" in capsys.readouterr().err


def test_no_other_module_needs_the_wsi_extra():
    code = (
        "import sys\n"
        "for name in ('openslide', 'timm', 'torchvision'): sys.modules[name] = None\n"
        "import survq.cli, survq.study, survq.data.check, survq.importing.patch_features\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_has_an_example_and_the_next_command(capsys):
    assert main(["extract", "--help"]) == 0
    output = capsys.readouterr().out
    assert "survq extract ~/slides data --cohort BLCA" in output
    assert "survq check data" in output
    assert "gated" in output or "on request" in output
