"""k-means over the patches of many bags."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

PATCHES_PER_BAG = 256
"""How many patches of a bag, drawn at random, the centres are fitted to: all of a cohort would not fit in memory."""


def fit_centres(bags: Iterable[Tensor], clusters: int) -> Float[Tensor, "cluster feature"]:
    """The centres of k-means on patches (patch, feature) of all bags. Chance comes from torch's random state."""
    from sklearn.cluster import MiniBatchKMeans  # takes seconds, most models need it not

    drawn = [bag[torch.randperm(len(bag))[:PATCHES_PER_BAG].to(bag.device)].float().cpu() for bag in bags if len(bag)]
    X = torch.cat(drawn)
    if len(X) < clusters:  # each patch is then a centre, some of them more than once
        X = X[torch.arange(clusters) % len(X)]
    k_means = MiniBatchKMeans(
        clusters,
        random_state=int(torch.randint(2**31, ())),
        batch_size=1024,
        max_iter=5,  # passes: more of them take longer and find the same
        n_init=1,  # several would be compared by sums whose last bits depend on threads, as would an early end
        max_no_improvement=None,
    ).fit(X.numpy())
    return torch.from_numpy(k_means.cluster_centers_).float()


@torch.no_grad()
def nearest_centre(
    patches: Float[Tensor, "patch feature"], centres: Float[Tensor, "cluster feature"]
) -> Int[Tensor, " patch"]:
    """The cluster of each patch."""
    with torch.autocast(centres.device.type, enabled=False):  # half the digits would move patches between clusters
        # |x - c|^2 without |x|^2, which is the same for all centres
        distance = torch.addmm(centres.square().sum(dim=1), patches.to(centres.dtype), centres.T, alpha=-2)
        return distance.argmin(dim=1)
