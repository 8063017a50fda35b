import pytest
import torch

from survq.layers.sinkhorn import unbalanced_plan

EASY = {"regularization": 0.1, "marginal": 0.5}


def uniform(*shape):
    return torch.full(shape, 1 / shape[-1], dtype=torch.double)


def test_golden_plan():
    """Rows (0, 1), (1, 0), (0, 0) to (0, 0), (0, 1): squared distances, divided by the largest."""
    cost = torch.tensor([[[1.0, 0.0], [1.0, 2.0], [0.0, 1.0]]]) / 2
    plan = unbalanced_plan(cost, uniform(1, 3), uniform(1, 2), **EASY)
    expected = [0.00101599, 0.37243365, 0.13762637, 0.00229042, 0.31667495, 0.00527020]
    assert plan.dtype == torch.double
    assert plan.flatten().tolist() == pytest.approx(expected, abs=5e-7)
    assert float(plan.sum()) == pytest.approx(0.83531158, abs=1e-6)


@pytest.mark.parametrize("regularization", [0.02, 0.1, 1.0])
def test_it_is_the_least_expensive_plan(regularization):
    """The objective's gradient is 0 at the plan: nothing near it costs less."""
    torch.manual_seed(0)
    cost, a, b = torch.rand(1, 4, 9), uniform(1, 4), torch.rand(1, 9).softmax(dim=1).double()
    plan = unbalanced_plan(cost, a, b, regularization=regularization, marginal=0.5).requires_grad_()

    def kl(x, y):
        return (x * (x / y).log() - x + y).sum()

    value = (plan * cost).sum() + regularization * kl(plan, a[..., None] * b[:, None])
    value = value + 0.5 * kl(plan.sum(dim=2), a) + 0.5 * kl(plan.sum(dim=1), b)
    (gradient,) = torch.autograd.grad(value, plan)
    assert float(gradient.abs().max()) < 1e-5


def test_problems_do_not_feel_each_other_and_nothing_of_no_mass_takes_part():
    torch.manual_seed(0)
    costs = [torch.rand(1, 3, size) for size in (2, 7, 4)]
    alone = [unbalanced_plan(cost, uniform(1, 3), uniform(1, cost.shape[2]), **EASY) for cost in costs]
    padded, masses = torch.rand(3, 3, 7), torch.zeros(3, 7, dtype=torch.double)
    for number, cost in enumerate(costs):
        padded[number, :, : cost.shape[2]] = cost[0]
        masses[number, : cost.shape[2]] = 1 / cost.shape[2]
    together = unbalanced_plan(padded, uniform(3, 3), masses, **EASY)
    for number, plan in enumerate(alone):
        size = plan.shape[2]
        assert torch.allclose(together[number, :, :size], plan[0], rtol=1e-12, atol=0)
        assert (together[number, :, size:] == 0).all()


def test_a_library_finds_the_same():
    ot = pytest.importorskip("ot")
    torch.manual_seed(0)
    for patches in (1, 5, 300):
        cost, a, b = torch.rand(6, patches, dtype=torch.double), uniform(6), uniform(patches)
        for regularization in (0.05, 0.1):
            expected = ot.unbalanced.sinkhorn_unbalanced(a, b, cost, regularization, 0.5, reg_type="kl")
            found = unbalanced_plan(cost[None], a[None], b[None], regularization=regularization, marginal=0.5)
            assert torch.allclose(found[0], expected, rtol=1e-4)
