import json
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pathway_sizes() -> list[int]:
    """Numbers of genes of the 331 pathways that the paper and its kin use."""
    return json.loads((Path(__file__).parents[1] / "goldens" / "pathway_sizes.json").read_text())
