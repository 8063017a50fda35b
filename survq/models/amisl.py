"""AMISL: attention-guided multiple instance survival learning, also DeepAttnMISL (Yao et al., Medical Image Analysis
2020, arXiv:2009.11169), in the version of MCAT (Chen et al., ICCV 2021), the likely source of published numbers.

In: the patches of a case, x_i (feature). Out: the hazard of each interval. Before training, k-means on patches of the
fold's training cases finds K = 10 centres c_k; a patch is of the cluster k(i) of its nearest centre.

    p_i = MLP_k(i)(x_i)                                              (width)   one MLP of two layers per cluster
    m_k = mean of p_i over the patches of cluster k                  (width)
    h_k = dropout(relu(W m_k + b))                                   (width)
    a_k = softmax over the clusters k that have patches of  w (tanh(V h_k) * sigmoid(U h_k))
    z = sum_k a_k h_k                                                (width)
    hazards = sigmoid(Linear(dropout(relu(W_r z + b_r))))            (interval)

Differences from the authors' code, as our notes describe it:

- A cluster without patches is a vector of zeros there and takes attention; here it takes none.
- Clusters are read from a file of unstated origin there. Here they are those of the training cases of the fold, are
  fitted to 256 patches of each case, and are saved with the model. Every patch has a cluster, also of unseen cases.

Left out: Yao et al.'s own code (k-means per patient, one shared branch, Cox loss), and what SurvPath runs under this
name, a network with neither clusters nor attention. 8,532,485 parameters with 1024 features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.bags import pack
from survq.layers.gated_attention import GatedAttention
from survq.layers.hazard_head import HazardHead
from survq.layers.k_means import fit_centres, nearest_centre
from survq.layers.ragged import ragged_mean
from survq.models.base import Prediction, SurvivalModel
from survq.models.space import Floats, Integers


class AMISL(SurvivalModel):
    """Patches by cluster, a network for each; then gated attention over clusters.

    Hyperparameters:
        clusters: K of the equations.
        width: of hidden layers; the attention and the pooled vector have half of it.
        dropout: share of hidden units dropped, everywhere.

    It keeps no attention.
    """

    reads = needs = frozenset({"histology"})
    native: ClassVar = {
        "optimizer": "adam", "learning_rate": 2e-4, "weight_decay": 1e-5, "epochs": 20, "sampling": "balanced",
    }  # fmt: skip
    space: ClassVar = {
        "clusters": Integers(4, 16),
        "width": Integers(64, 512, log=True),
        "dropout": Floats(0.0, 0.5),
    }
    sizes = ("width",)

    centres: Tensor

    def __init__(self, spec: InputSpec, *, clusters: int = 10, width: int = 512, dropout: float = 0.25):
        super().__init__()

        def layer(inputs: int, outputs: int = width) -> tuple[nn.Module, ...]:
            return nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)

        self.register_buffer("centres", torch.zeros(clusters, spec.patch_features))
        self.encode = nn.ModuleList(nn.Sequential(*layer(spec.patch_features), *layer(width)) for _ in range(clusters))
        self.embed = nn.Sequential(*layer(width))
        self.attention = GatedAttention(width, width // 2, dropout)
        self.refine = nn.Sequential(*layer(width, width // 2))
        self.hazard = HazardHead(width // 2, spec.intervals)

    def prepare(self, training: Iterable[Batch]) -> None:
        self.centres.copy_(fit_centres((bag for batch in training for bag in batch.bags), len(self.centres)))

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        packs = [self._cluster_means(patches, sizes) for _, patches, sizes in pack(batch.bags)]
        means, present = (torch.cat(parts) for parts in zip(*packs, strict=True))
        z, _ = self.attention.over_tokens(self.embed(means), present)
        return Prediction(self.hazard(self.refine(z)))

    def _cluster_means(
        self, patches: Float[Tensor, "patch feature"], sizes: Sequence[int]
    ) -> tuple[Float[Tensor, "bag cluster width"], Bool[Tensor, "bag cluster"]]:
        """m_k of each bag, and whether it has patches of the cluster."""
        bag = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(patches.device, non_blocking=True)
        part = nearest_centre(patches, self.centres) * len(sizes) + bag  # clusters first, bags within them
        counts = part.new_zeros(len(self.encode) * len(sizes)).index_add_(0, part, torch.ones_like(part))
        counts = counts.view(-1, len(sizes))  # (cluster, bag)
        in_bags = counts.tolist()
        by_cluster = patches[part.argsort(stable=True)].to(self.hazard.weight.dtype)
        of_clusters = by_cluster.split([sum(numbers) for numbers in in_bags])
        means = [
            ragged_mean(encode(x), numbers)
            for encode, x, numbers in zip(self.encode, of_clusters, in_bags, strict=True)
        ]
        return torch.stack(means, dim=1), (counts > 0).T
