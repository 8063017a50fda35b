import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small products are slower on many, and other tests may run beside these."""
    torch.set_num_threads(1)
