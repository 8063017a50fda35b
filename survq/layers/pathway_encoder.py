"""One self-normalizing network per pathway."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from survq.layers.alpha_dropout import elu_alpha_dropout


class PathwayEncoder(nn.Module):
    """One self-normalizing network per pathway: two blocks of Linear, ELU, AlphaDropout (Klambauer et al., 2017).

    All pathways run together: those with the same number of genes share one batched product, without padding. Each
    pathway is initialised with its own fan-in, as a separate module would be.
    """

    genes: Tensor
    given_order: Tensor

    def __init__(self, pathways: Sequence[Sequence[int]], width: int, dropout: float = 0.25):
        super().__init__()
        self.dropout = dropout
        sizes = [len(genes) for genes in pathways]
        by_size = sorted(range(len(pathways)), key=sizes.__getitem__)  # stable
        sorted_sizes = [sizes[p] for p in by_size]
        self.groups = [(n, sorted_sizes.count(n)) for n in sorted(set(sizes))]  # (genes, pathways)

        fan_in = torch.tensor(sorted_sizes, dtype=torch.float)
        bound_1 = fan_in.rsqrt()
        bound_2 = 1 / math.sqrt(width)
        per_gene = bound_1.repeat_interleave(fan_in.long(), output_size=sum(sizes))
        self.weight_1 = nn.Parameter(torch.empty(sum(sizes), width).uniform_(-1, 1) * per_gene[:, None])
        self.bias_1 = nn.Parameter(torch.empty(len(sizes), 1, width).uniform_(-1, 1) * bound_1[:, None, None])
        self.weight_2 = nn.Parameter(torch.empty(len(sizes), width, width).uniform_(-bound_2, bound_2))
        self.bias_2 = nn.Parameter(torch.empty(len(sizes), 1, width).uniform_(-bound_2, bound_2))

        genes = torch.tensor([gene for p in by_size for gene in pathways[p]], dtype=torch.long)
        given_order = torch.tensor(by_size, dtype=torch.long).argsort()
        self.register_buffer("genes", genes, persistent=False)
        self.register_buffer("given_order", given_order, persistent=False)

    def forward(self, expression: Float[Tensor, "case gene"]) -> Float[Tensor, "case pathway width"]:
        x = expression[:, self.genes].T  # (pathway x its gene, case)
        rows = [n * m for n, m in self.groups]
        h = torch.cat(
            [
                x_n.view(m, n, -1).transpose(1, 2) @ w_n.view(m, n, -1)
                for (n, m), x_n, w_n in zip(self.groups, x.split(rows), self.weight_1.split(rows), strict=True)
            ]
        )  # (pathway, case, width)
        h = elu_alpha_dropout(h + self.bias_1, self.dropout, self.training)
        h = torch.baddbmm(self.bias_2, h, self.weight_2)
        h = elu_alpha_dropout(h, self.dropout, self.training)
        return h.transpose(0, 1)[:, self.given_order]  # contiguous, so that attention does not copy it
