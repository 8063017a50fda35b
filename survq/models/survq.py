"""SurvQ: multimodal cancer survival analysis with learnable queries (section 3).

A few hundred learnable queries read thousands of patches, as many others read the pathways; what they found is mixed
by self-attention and averaged into one vector, from which a linear layer tells the hazard of each interval.

    X_h = MLP(patches)                  X_g = SNN(genes of each pathway)
    Q_h' = Attention(Q_h, X_h)   (1)    Q_g' = Attention(Q_g, X_g)   (2)
    M' = Attention(M, M), M = [Q_h'; Q_g']   (3)
    z = mean of the tokens of M',  hazards = sigmoid(Linear(z))
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.data.problems import some
from survq.models.base import Prediction, SurvivalModel
from survq.models.fast import read_bags
from survq.models.layers import Attention, PathwayEncoder, ResidualAttention, pack


class SurvQ(SurvivalModel):
    """The paper's model. A case may lack a modality: it is then read from the tokens of the other.

    Hyperparameters:
        histology_queries, genomic_queries: how many queries read each modality; 0 leaves the queries of that
            modality out and takes its patch or pathway tokens as they are (Table 2; only with depth 0).
        depth: layers of mixed self-attention; 1 is the paper, 0 the ablation without (Table 2).
        width: D of the equations; the patch MLP has a hidden layer of 2 D.
        block: "plain" is attention as the equations write it; "residual" adds residual, norm and heads, and is what
            a depth above 1 needs.
        learnable_queries: False freezes the queries as they were initialised (Table 4).

    Attention on request: "histology": a (query, patch) a case, "genomics": (case, query, pathway),
    "fusion": a (case, token, token) a layer, "tokens" and "fused": M before and after mixing, (case, token, width).
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        histology_queries: int = 300,
        genomic_queries: int = 128,
        depth: int = 1,
        width: int = 256,
        block: Literal["plain", "residual"] = "plain",
        heads: int = 4,
        learnable_queries: bool = True,
        patch_dropout: float = 0.2,
        pathway_dropout: float = 0.25,
    ):
        super().__init__()
        _check(histology_queries, genomic_queries, depth, block, spec)
        self.width = width

        def attention() -> Attention | ResidualAttention:
            return Attention(width) if block == "plain" else ResidualAttention(width, heads)

        def queries(count: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(count, width), requires_grad=learnable_queries)

        if spec.patch_features:
            self.encode_patches = nn.Sequential(
                nn.Linear(spec.patch_features, 2 * width),
                nn.ReLU(),
                nn.Dropout(patch_dropout),
                nn.Linear(2 * width, width),
            )
            if histology_queries:
                self.Q_h = queries(histology_queries)
                self.read_patches = attention()
        if spec.pathways:
            self.encode_pathways = PathwayEncoder(spec.pathways, width, pathway_dropout)
            if genomic_queries:
                self.Q_g = queries(genomic_queries)
                self.read_pathways = attention()
        self.mix = nn.ModuleList(attention() for _ in range(depth))
        self.hazard = nn.Linear(width, spec.intervals)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        attention: dict = {}
        branches = []
        if hasattr(self, "encode_pathways"):
            branches.append(self._genomics(batch, attention if keep_attention else None))
        if hasattr(self, "encode_patches"):  # last, so that its backward pass comes first: it has most memory to free
            branches.insert(0, self._histology(batch, attention if keep_attention else None))
        _refuse_unreadable(batch, branches)
        if not self.mix:
            return Prediction(self.hazard(_mean_of_tokens(branches)), attention=attention)

        M = torch.cat([tokens for tokens, _ in branches], dim=1)  # (case, token, width)
        present = torch.cat([(count > 0)[:, None].expand(tokens.shape[:2]) for tokens, count in branches], dim=1)
        everything = bool(present.all())
        if not keep_attention and isinstance(self.mix[0], Attention):
            return Prediction(self.hazard(self.mix[0].mean(M, None if everything else present)))
        if keep_attention:
            attention |= {"tokens": M, "fusion": []}
        for layer in self.mix:
            M, A = layer(M, M, None if everything else present)  # (3)
            if keep_attention:
                attention["fusion"].append(A)
        if keep_attention:
            attention["fused"] = M
        z = M.mean(dim=1) if everything else (M * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)
        return Prediction(self.hazard(z), attention=attention)

    def _histology(self, batch: Batch, attention: dict | None) -> Branch:
        """The tokens that stand for the patches of each case, (case, token, width), and how many they are."""
        tokens = len(self.Q_h) if hasattr(self, "Q_h") else 1
        count = torch.tensor([len(bag) for bag in batch.bags], device=batch.time.device)
        fast = attention is None and not any(bag.requires_grad for bag in batch.bags)
        if fast and hasattr(self, "Q_h") and isinstance(self.read_patches, Attention):
            return read_bags(self.encode_patches, self.read_patches, self.Q_h, batch.bags), (count > 0) * tokens
        found: list[Tensor] = [self.hazard.weight.new_zeros(tokens, self.width)] * len(batch)
        weights: list[Tensor | None] = [None] * len(batch)
        for members, patches, sizes in pack(batch.bags):
            X_h = self.encode_patches(patches.to(self.hazard.weight.dtype))  # (patch, width)
            if not hasattr(self, "Q_h"):  # the mean stands for all of them
                for position, X in zip(members, X_h.split(sizes), strict=True):
                    found[position] = X.mean(dim=0, keepdim=True)
                continue
            read = self.read_patches.over_bags(self.Q_h, X_h, sizes)  # (1)
            for position, (Q_h, A) in zip(members, read, strict=True):
                found[position], weights[position] = Q_h, A if attention is not None else None
        if attention is not None:
            attention["histology"] = weights
        return torch.stack(found), count if not hasattr(self, "Q_h") else (count > 0) * tokens

    def _genomics(self, batch: Batch, attention: dict | None) -> Branch:
        """Likewise for the pathways."""
        X_g = self.encode_pathways(batch.expression)  # (case, pathway, width)
        if not hasattr(self, "Q_g"):
            return X_g.mean(dim=1, keepdim=True), batch.has_expression * X_g.shape[1]
        if attention is None and isinstance(self.read_pathways, Attention) and len(self.Q_g) < X_g.shape[1]:
            return self.read_pathways.of_few_queries(self.Q_g, X_g), batch.has_expression * len(self.Q_g)
        Q_g, A = self.read_pathways(self.Q_g, X_g)  # (2)
        if attention is not None:
            attention["genomics"] = A
        return Q_g, batch.has_expression * len(self.Q_g)


Branch = tuple[Float[Tensor, "case _ width"], Int[Tensor, " case"]]
"""The tokens of a modality, and for how many tokens they stand in each case: 0 where the case lacks the modality."""


def _mean_of_tokens(branches: list[Branch]) -> Float[Tensor, "case width"]:
    """The mean over the tokens of all modalities, where a mean that stands for many tokens weighs as many."""
    means = torch.stack([tokens.mean(dim=1) for tokens, _ in branches])  # (modality, case, width)
    counts = torch.stack([count for _, count in branches])[..., None]
    return (means * counts).sum(dim=0) / counts.sum(dim=0)


def _refuse_unreadable(batch: Batch, branches: list[Branch]) -> None:
    tokens = torch.stack([count for _, count in branches]).sum(dim=0)
    if lacking := [case for case, count in zip(batch.case_ids, tokens.tolist(), strict=True) if not count]:
        raise ValueError(
            f"{some(lacking)} have neither patches nor pathways that SurvQ could read. "
            f"Mend: leave them out with Cohort.select, or give the cohort pathways."
        )


def _check(histology_queries: int, genomic_queries: int, depth: int, block: str, spec: InputSpec) -> None:
    if not spec.patch_features and not spec.pathways:
        raise ValueError("SurvQ needs patch features or pathways; the cohort has neither.")
    if min(histology_queries, genomic_queries, depth) < 0:
        raise ValueError("Numbers of queries and depth are 0 or more.")
    if depth > 1 and block == "plain":
        raise ValueError(f'depth={depth} needs block="residual": plain layers on top of each other make tokens alike.')
    without = (spec.patch_features and not histology_queries) or (spec.pathways and not genomic_queries)
    if depth and without:
        raise ValueError("Self-attention mixes queries: with 0 queries of a modality set depth=0.")
    if block not in ("plain", "residual"):
        raise ValueError(f'block={block!r}; expected "plain" or "residual".')
