import torch

from survq.layers.k_means import PATCHES_PER_BAG, fit_centres, nearest_centre


def planted(seed: int = 0):
    """Three groups of patches far apart, mixed in six bags of half floats."""
    random = torch.Generator().manual_seed(seed)
    truth = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    X = truth.repeat(100, 1) + 0.3 * torch.randn(300, 2, generator=random)
    return truth, X.half().split(50)


def test_planted_clusters_are_found():
    truth, bags = planted()
    torch.manual_seed(0)
    centres = fit_centres(bags, 3)
    assert centres.dtype == torch.float32
    distance = torch.cdist(truth, centres)
    assert (distance.min(dim=1).values < 0.2).all()
    assert sorted(distance.argmin(dim=1).tolist()) == [0, 1, 2]


def test_centres_depend_on_the_random_state_of_torch_alone():
    _, bags = planted()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(fit_centres(iter(bags), 5))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_of_a_large_bag_some_patches_are_drawn():
    """So that it does not outweigh the others, nor fill the memory."""
    large, small = torch.zeros(100_000, 1), torch.ones(PATCHES_PER_BAG, 1)
    assert torch.allclose(fit_centres([large, small], 1), torch.tensor([[0.5]]), atol=0.1)


def test_fewer_patches_than_clusters():
    centres = fit_centres([torch.tensor([[1.0], [5.0]]), torch.empty(0, 1)], 4)
    assert centres.shape == (4, 1)
    assert {round(float(centre), 4) for centre in centres} == {1.0, 5.0}


def test_nearest_centre():
    torch.manual_seed(0)
    patches, centres = torch.randn(50, 6), torch.randn(4, 6)
    expected = [min(range(4), key=lambda k: float((x - centres[k]).norm())) for x in patches]
    assert nearest_centre(patches, centres).tolist() == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert nearest_centre(patches.half(), centres).tolist() == expected
