import json
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small products are slower on many, and other tests may run beside these."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pathway_sizes() -> list[int]:
    """Numbers of genes of the 331 pathways that the paper and its kin use."""
    return json.loads((Path(__file__).parents[1] / "goldens" / "pathway_sizes.json").read_text())
