import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_core():
    """The figures were measured so, and small models are no faster on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
