"""MOTCat: multimodal optimal transport-based co-attention transformer (Xu & Chen, ICCV 2023, arXiv:2306.08330).

In: all patches of a case, and expression in six functional groups of genes (the collection `six_groups`). Out: the
hazard of each interval. As MCAT, but what a group reads is transported to it, from all patches of a micro-bag together:

    H = ReLU(Linear(patches)) (n, D)        G = SNN(genes of each group) (6, D)
    C_ij = |(G_i - min G_i) - (H_j - min H_j)|^2 / max (6, n)                             cost
    T = argmin <T, C> + reg KL(T | 1 / 6n) + 0.5 KL(T 1 | 1 / 6) + 0.5 KL(T^T 1 | 1 / n)  unbalanced transport
    H' = T H (6, D)
    h = rho_h(pool(Transformer_h(H')))      g = rho_g(pool(Transformer_g(G)))   (D)
    z = MLP([h; g]),  hazards = sigmoid(Linear(z))

where pool is gated attention over the six tokens and rho a linear layer with ReLU. D = 256. A slide of n patches is
read in n // 256 + 1 micro-bags at random; loss and risk of a case are means over them. No gradient passes through T,
whose rows sum to about 1 / 6: it is not renormalised.

Differences from the authors' code, as our notes describe it:

- It reads mutations, copy numbers and expression of the genes; here it reads expression.
- The micro-bags are random in evaluation, too. Here they then depend on the case and the content of its patches alone,
  so that they are always the same.
- g is computed once per case, and not anew for each micro-bag.
- Which form of the entropy term it uses depends on the version of its transport library: this is the form of the
  present one, KL to the product of the marginals.
- reg is 0.1 for BRCA and 0.05 for BLCA there; here it is 0.1 for all cohorts, and a hyperparameter.
- It reports the best epoch of the held-out cases, we the last.

Left out: the bilinear fusion that it offers beside the concatenation, and its penalty on the absolute weights.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.bags import pack
from survq.layers.hazard_head import HazardHead
from survq.layers.micro_bags import micro_bags
from survq.layers.pathway_encoder import PathwayEncoder
from survq.layers.sinkhorn import unbalanced_plan
from survq.layers.token_encoder import TokenEncoder
from survq.models.base import Prediction, SurvivalModel
from survq.models.space import Floats, Integers

MARGINAL = 0.5  # what it costs not to send or receive a unit of mass


class MOTCat(SurvivalModel):
    """Groups of genes receive what optimal transport brings them from the patches of a micro-bag.

    Hyperparameters:
        width: D of the equations.
        heads: of the transformers.
        micro_bag: patches of a micro-bag at most.
        regularization: reg of the transport.
        dropout: of the patches, the groups' SNNs, the transformers, the pooling and rho.

    It keeps no attention.
    """

    needs = frozenset({"histology", "genomics"})
    gene_sets = ("six_groups",)
    native: ClassVar = {
        "optimizer": "adam", "learning_rate": 2e-4, "weight_decay": 1e-5, "epochs": 20, "sampling": "balanced",
        "expression_scale": "zscore",
    }  # fmt: skip
    space: ClassVar = {
        "micro_bag": Integers(128, 4096, log=True),
        "regularization": Floats(0.02, 0.5, log=True),
        "dropout": Floats(0.0, 0.5),
    }

    def __init__(
        self,
        spec: InputSpec,
        *,
        width: int = 256,
        heads: int = 8,
        micro_bag: int = 256,
        regularization: float = 0.1,
        dropout: float = 0.25,
    ):
        super().__init__()
        self.micro_bag, self.regularization = micro_bag, regularization
        self.encode_patches = nn.Sequential(nn.Linear(spec.patch_features, width), nn.ReLU(), nn.Dropout(dropout))
        self.encode_groups = PathwayEncoder(spec.gene_sets["six_groups"], width, dropout)

        def branch() -> nn.Sequential:
            rho = (nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))
            return nn.Sequential(TokenEncoder(width, heads, dropout), *rho)

        self.histology, self.genomics = branch(), branch()
        self.fuse = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.hazard = HazardHead(width, spec.intervals)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        G = self.encode_groups(batch.expression)  # (case, group, width)
        bags = self._micro_bags(batch)
        case = torch.arange(len(batch)).repeat_interleave(torch.tensor([len(H) for H, _ in bags]))  # (micro-bag,)
        plans = self._plans(G, bags)
        H = torch.cat([T @ H_case for T, (H_case, _) in zip(plans, bags, strict=True)])  # (micro-bag, group, width)
        z = self.fuse(torch.cat([self.histology(H), self.genomics(G)[case.to(G.device, non_blocking=True)]], dim=1))
        return Prediction(self.hazard(z), case)

    def _micro_bags(
        self, batch: Batch
    ) -> list[tuple[Float[Tensor, "micro_bag patch width"], Bool[Tensor, "micro_bag patch"]]]:
        """H of each case in its micro-bags, and which rows are patches: some micro-bags are one patch shorter."""
        found = []
        for members, patches, sizes in pack(batch.bags):  # every bag, in order: none is empty
            H = self.encode_patches(patches.to(self.hazard.weight.dtype))  # (patch, width)
            for case, H_case in zip(members, H.split(sizes), strict=True):
                parts = micro_bags(batch.bags[case], batch.case_ids[case], self.micro_bag, training=self.training)
                there = pad_sequence([torch.ones_like(part, dtype=torch.bool) for part in parts], batch_first=True)
                found.append((pad_sequence([H_case[part] for part in parts], batch_first=True), there))
        return found

    @torch.no_grad()
    def _plans(
        self, G: Float[Tensor, "case group width"], bags: list[tuple[Tensor, Tensor]]
    ) -> list[Float[Tensor, "micro_bag group patch"]]:
        """T of the micro-bags of each case. All are solved together."""
        patches = max(there.shape[1] for _, there in bags)
        costs, masses = [], []
        for G_case, (H, there) in zip(G, bags, strict=True):
            C = cost(G_case, H).masked_fill(~there[:, None, :], 0.0)
            C = C / C.amax(dim=(1, 2), keepdim=True).clamp(min=1e-300)
            costs.append(pad(C, (0, patches - H.shape[1])))
            masses.append(pad(there.double() / there.sum(dim=1, keepdim=True), (0, patches - H.shape[1])))
        C, b = torch.cat(costs), torch.cat(masses)
        a = C.new_full(C.shape[:2], 1 / C.shape[1])
        T = unbalanced_plan(C, a, b, regularization=self.regularization, marginal=MARGINAL).to(G.dtype)
        numbers = [len(H) for H, _ in bags]
        sizes = [H.shape[1] for H, _ in bags]
        return [plans[..., :size] for plans, size in zip(T.split(numbers), sizes, strict=True)]


def cost(
    G: Float[Tensor, "group width"], H: Float[Tensor, "micro_bag patch width"]
) -> Float[Tensor, "micro_bag group patch"]:
    """Squared distances in float64, of vectors less their smallest entry."""
    G, H = (X.double() - X.double().amin(dim=-1, keepdim=True) for X in (G, H))
    squares = G.square().sum(dim=-1)[:, None] + H.square().sum(dim=-1)[:, None, :]
    return (squares - 2 * G @ H.mT).clamp(min=0)
