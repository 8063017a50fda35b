"""Random streams depend on nothing but their key."""

from survq.data.streams import generator, torch_seed


def test_streams_depend_on_their_key_only():
    """Also across processes: the expected numbers were drawn by another one."""
    assert torch_seed(0, "order", 1) == 8782802019807612744
    assert generator(7, "patches", 2, "TCGA-AA-0001").integers(10**6, size=3).tolist() == [592966, 589847, 150834]
    assert len({torch_seed(seed, word, n) for seed in range(5) for word in ("a", "b") for n in range(5)}) == 50
