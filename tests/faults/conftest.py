"""A valid data folder, to which tests do harm."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from inputs import IDS, TIMES, half, matrix

from survq.data.gene_sets import GeneSets
from survq.data.write import Slide, write_cohort

for folder in ("importing", "training"):  # for feature_tools and small_cohort
    sys.path.append(str(Path(__file__).parents[1] / folder))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A valid data folder with one cohort."""
    folder = tmp_path_factory.mktemp("template")
    cases = pd.DataFrame(
        {"time": TIMES, "event": [number % 2 == 1 for number in range(24)]}, index=pd.Index(IDS, name="case_id")
    )
    slides = [Slide(f"{case}-DX", case, half((2, 8), n), encoder="uni_v1") for n, case in enumerate(IDS)]
    sets = {"pathways": GeneSets(("first", "second"), (("A", "B", "C"), ("D", "E", "F")))}
    expression = matrix().rename_axis("case_id")
    write_cohort(folder, "C", cases=cases, expression=expression, slides=slides, gene_sets=sets)
    return folder
