"""MCAT: multimodal co-attention transformer (Chen et al., ICCV 2021).

https://openaccess.thecvf.com/content/ICCV2021/html/Chen_Multimodal_Co-Attention_Transformer_for_Survival_Prediction_in_Gigapixel_Whole_ICCV_2021_paper.html

In: all patches of a case, and expression in six functional groups of genes (the collection `six_groups`). Out: the
hazard of each interval. Each group of genes asks the patches for what concerns it:

    H = ReLU(Linear(patches)) (n, D)        G = SNN(genes of each group) (6, D)
    H' = W_o softmax(W_q G (W_k H)^T / sqrt(D)) W_v H (6, D)                              genomic-guided co-attention
    h = rho_h(pool(Transformer_h(H')))      g = rho_g(pool(Transformer_g(G)))   (D)       set-based transformers
    z = MLP([h; g]),  hazards = sigmoid(Linear(z))

where pool is gated attention over the six tokens and rho a linear layer with ReLU. D = 256.

Differences from the authors' code, as our notes describe it:

- It reads mutations, copy numbers and expression of the genes; here it reads expression.
- It takes one case at a time and sums gradients over 32; a batch here is 32 cases.
- The patches' keys and values are not computed: W_k moves to the six queries, W_v to the six tokens. The result is the
  same, and so is the number of parameters.

Left out: the bilinear fusion that it offers beside the concatenation, and its penalty on the absolute weights. Its
variant with pathways is this model on a data folder whose collection `six_groups` holds pathways.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.attention import Attention
from survq.layers.bags import pack
from survq.layers.hazard_head import HazardHead
from survq.layers.pathway_encoder import PathwayEncoder
from survq.layers.token_encoder import TokenEncoder
from survq.models.base import AttentionMaps, Prediction, SurvivalModel
from survq.models.space import Floats


class MCAT(SurvivalModel):
    """Groups of genes read the patches by co-attention.

    Hyperparameters:
        width: D of the equations.
        heads: of the transformers; the co-attention has one.
        dropout: of the patches, the groups' SNNs, the transformers, the pooling and rho.

    Its attention map is `histology`: the weights of the patches for each group.
    """

    needs = frozenset({"histology", "genomics"})
    gene_sets = ("six_groups",)
    native: ClassVar = {
        "optimizer": "adam", "learning_rate": 2e-4, "weight_decay": 1e-5, "epochs": 20, "sampling": "balanced",
        "expression_scale": "zscore",
    }  # fmt: skip
    space: ClassVar = {"dropout": Floats(0.0, 0.5)}

    def __init__(self, spec: InputSpec, *, width: int = 256, heads: int = 8, dropout: float = 0.25):
        super().__init__()
        self.encode_patches = nn.Sequential(nn.Linear(spec.patch_features, width), nn.ReLU(), nn.Dropout(dropout))
        self.encode_groups = PathwayEncoder(spec.gene_sets["six_groups"], width, dropout)
        self.co_attention = Attention(width)
        self.co_attention_output = nn.Linear(width, width)

        def branch() -> nn.Sequential:
            rho = (nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))
            return nn.Sequential(TokenEncoder(width, heads, dropout), *rho)

        self.histology, self.genomics = branch(), branch()
        self.fuse = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.hazard = HazardHead(width, spec.intervals)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        G = self.encode_groups(batch.expression)  # (case, group, width)
        H, A = self._co_attend(G, batch)
        z = self.fuse(torch.cat([self.histology(H), self.genomics(G)], dim=1))  # (case, width)
        return Prediction(self.hazard(z), attention=AttentionMaps(histology=A) if keep_attention else None)

    def _co_attend(
        self, G: Float[Tensor, "case group width"], batch: Batch
    ) -> tuple[Float[Tensor, "case group width"], tuple[Float[Tensor, "group _"], ...]]:
        """H', and what each group attends to in each bag."""
        Q = self.co_attention.absorbed_queries(G)  # (case, group, width)
        read, maps = [], []
        for members, patches, sizes in pack(batch.bags):  # every bag, in order: none is empty
            H = self.encode_patches(patches.to(self.hazard.weight.dtype))  # (patch, width)
            for case, H_case in zip(members, H.split(sizes), strict=True):
                A = (Q[case] @ H_case.T).softmax(dim=-1)  # (group, patch)
                read.append(A @ H_case)
                maps.append(A)
        return self.co_attention_output(self.co_attention.value(torch.stack(read))), tuple(maps)
