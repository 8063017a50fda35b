"""k-means over the patches of many bags."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

PATCHES_PER_BAG = 256
"""Random patches per bag to which the centres are fitted, because those of a cohort do not fit in memory."""


def fit_centres(bags: Iterable[Tensor], clusters: int) -> Float[Tensor, "cluster feature"]:
    """The centres of k-means on patches (patch, feature) of all bags. Randomness is from torch's random state."""
    from sklearn.cluster import MiniBatchKMeans  # slow to import, and most models do not need it

    drawn = [bag[torch.randperm(len(bag))[:PATCHES_PER_BAG].to(bag.device)].float().cpu() for bag in bags if len(bag)]
    X = torch.cat(drawn)
    if len(X) < clusters:  # each patch is then a centre, some repeatedly
        X = X[torch.arange(clusters) % len(X)]
    k_means = MiniBatchKMeans(
        clusters,
        random_state=int(torch.randint(2**31, ())),
        batch_size=1024,
        max_iter=5,  # passes: more of them take longer and find the same
        n_init=1,  # comparing several starts, or stopping early, would depend on the last bits, which vary with threads
        max_no_improvement=None,
    ).fit(X.numpy())
    return torch.from_numpy(k_means.cluster_centers_).float()


@torch.no_grad()
def nearest_centre(
    patches: Float[Tensor, "patch feature"], centres: Float[Tensor, "cluster feature"]
) -> Int[Tensor, " patch"]:
    """The cluster of each patch."""
    with torch.autocast(centres.device.type, enabled=False):  # half precision would move patches between clusters
        # |x - c|^2 without |x|^2, which is the same for all centres
        distance = torch.addmm(centres.square().sum(dim=1), patches.to(centres.dtype), centres.T, alpha=-2)
        return distance.argmin(dim=1)
