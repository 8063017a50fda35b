"""An import of no slide at all is a failure, whatever the reason; Ray is not started for it."""

import feature_tools as tools
import numpy as np
import pandas as pd
import pytest

from survq.cli import main
from survq.data.write import write_cohort

SLIDES = {
    "empty": ("TCGA-AA-0001-01Z-00-DX1.A", np.zeros((0, 16), np.float16)),
    "normal tissue": ("TCGA-AA-0001-11A-01-TS1.A", np.ones((3, 16), np.float16)),
    "another cohort's": ("TCGA-BB-0001-01Z-00-DX1.A", np.ones((3, 16), np.float16)),
}


@pytest.mark.parametrize(
    ("kind", "counts", "reason"),
    [
        ("empty", "1 failed, 0 skipped", "holds no patches: no tissue was found"),
        ("normal tissue", "0 failed, 1 skipped", "skipped, sample type 11 (solid tissue normal)"),
        ("another cohort's", "0 failed, 1 skipped", "skipped, the case is not in cases.parquet: 1"),
    ],
)
def test_an_import_of_nothing_fails(tmp_path, capsys, monkeypatch, kind, counts, reason):
    monkeypatch.setattr("survq.importing.patch_features.connect", lambda: pytest.fail("Ray was started"))
    cases = pd.DataFrame({"time": [9.0], "event": [True]}, index=pd.Index(["TCGA-AA-0001"], name="case_id"))
    write_cohort(tmp_path / "data", "X", cases=cases)
    slide, features = SLIDES[kind]
    folder = tools.trident(tmp_path / "job", slide, features, np.zeros((len(features), 2))).parent
    command = ["import", "features", str(folder), str(tmp_path / "data"), "--cohort", "X", "--skip-bad"]
    assert main(command) == 65
    out = capsys.readouterr().out
    assert out.startswith(f"X: no slide was imported; {counts}\n") and reason in out
    assert "nothing new" not in out
