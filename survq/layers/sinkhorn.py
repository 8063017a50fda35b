"""Unbalanced entropic optimal transport between two weighted sets (Chizat et al., 2018).

    minimise  <T, C> + reg KL(T | a b^T) + m KL(T 1 | a) + m KL(T^T 1 | b)

over plans T (source, target), with C the cost per unit of mass, a and b the masses of the sources and targets. Its
solution is T = diag(a u) K diag(b v), K = exp(-C / reg), u = (K (b v))^-f, v = (K^T (a u))^-f and f = m / (m + reg).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

ITERATIONS, TOLERANCE = 1000, 1e-6


@torch.no_grad()
def unbalanced_plan(
    cost: Float[Tensor, "problem source target"],
    a: Float[Tensor, "problem source"],
    b: Float[Tensor, "problem target"],
    *,
    regularization: float,
    marginal: float,
) -> Float[Tensor, "problem source target"]:
    """The plans of several problems, in float64 and without gradient. Sources and targets of mass 0 are ignored.

    Each problem stops if the largest relative change of its u and v is at most 1e-6, or after 1000 iterations. Its
    result does not depend on the other problems.
    """
    K = (-cost.double() / regularization).exp()
    a, b = a.double(), b.double()
    f = marginal / (marginal + regularization)
    u, v = torch.ones_like(a), torch.ones_like(b)
    open_ = torch.ones(len(K), 1, dtype=torch.bool, device=K.device)  # problems that have not converged
    for _ in range(ITERATIONS):
        next_u = torch.einsum("pst,pt->ps", K, b * v).pow(-f)
        next_v = torch.einsum("pst,ps->pt", K, a * next_u).pow(-f)
        change = torch.maximum(_change(u, next_u), _change(v, next_v))
        u, v = next_u.where(open_, u), next_v.where(open_, v)
        open_ = open_ & (change > TOLERANCE)
        if not open_.any():
            break
    return (a * u)[:, :, None] * K * (b * v)[:, None, :]


def _change(old: Tensor, new: Tensor) -> Float[Tensor, "problem 1"]:
    return ((new - old).abs() / new).amax(dim=1, keepdim=True)
