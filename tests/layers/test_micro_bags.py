import pytest
import torch

from survq.layers.micro_bags import content_order, micro_bags


@pytest.mark.parametrize(
    ("patches", "sizes"), [(1, [1]), (3, [3]), (4, [2, 2]), (7, [4, 3]), (8, [3, 3, 2]), (9, [3, 3, 3])]
)
@pytest.mark.parametrize("training", [True, False])
def test_nearly_equal_parts_of_all_patches(patches, sizes, training):
    parts = micro_bags(torch.randn(patches, 5), "C", 4, training=training)
    assert [len(part) for part in parts] == sizes
    assert sorted(torch.cat(parts).tolist()) == list(range(patches))


@pytest.mark.parametrize("dtype", [torch.half, torch.float])
def test_in_evaluation_parts_follow_from_case_and_content(dtype):
    torch.manual_seed(0)
    bag = torch.randn(9000, 7).half()
    order = content_order(bag, "C")
    shuffle = torch.randperm(len(bag))
    assert torch.equal(bag[order], bag[shuffle][content_order(bag[shuffle].to(dtype), "C")])
    assert not torch.equal(order, content_order(bag, "D"))
    assert [part.tolist() for part in micro_bags(bag, "C", 256, training=False)] == [
        part.tolist() for part in order.tensor_split(9000 // 256 + 1)
    ]


def test_in_evaluation_the_random_state_is_neither_read_nor_disturbed():
    bag = torch.randn(20, 3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = content_order(bag, "C")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(content_order(bag, "C"), first)


def test_patches_that_are_alike_are_spread_over_the_parts():
    """The order is random: features that differ in the last bit alone, or by one large entry, are not neighbours."""
    bag = torch.ones(4000, 6).half()
    bag[:, 3] += torch.arange(4000).half() / 2000
    bag[2000:, 0] = 50
    position = content_order(bag, "C").argsort().double()
    assert abs(float(torch.corrcoef(torch.stack([position, torch.arange(4000).double()]))[0, 1])) < 0.05
    first_half = (content_order(bag, "C")[:2000] < 2000).double().mean()
    assert float(first_half) == pytest.approx(0.5, abs=0.05)


def test_in_training_parts_are_drawn_from_the_random_state():
    bag = torch.randn(50, 3)
    torch.manual_seed(1)
    first, second = (torch.cat(micro_bags(bag, "C", 9, training=True)) for _ in range(2))
    torch.manual_seed(1)
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat(micro_bags(bag, "C", 9, training=True)), first)
