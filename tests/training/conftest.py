import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small products are slower on several threads, and other tests may run at the same time."""
    torch.set_num_threads(1)
