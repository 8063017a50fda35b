"""SurvQ: multimodal cancer survival analysis with learnable queries (section 3).

A few hundred learnable queries attend to thousands of patches, and others to the pathways. The resulting tokens are
mixed by self-attention and averaged into one vector. A linear layer maps it to the hazard of each interval.

    X_h = MLP(patches)                  X_g = SNN(genes of each pathway)
    Q_h' = Attention(Q_h, X_h)   (1)    Q_g' = Attention(Q_g, X_g)   (2)
    M' = Attention(M, M), M = [Q_h'; Q_g']   (3)
    z = mean of the tokens of M',  hazards = sigmoid(Linear(z))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from survq.data.batch import Batch, to_device
from survq.data.cohort import InputSpec
from survq.layers.attention import Attention, ResidualAttention, mean_present
from survq.layers.bags import pack
from survq.layers.fused import read_bags
from survq.layers.hazard_head import HazardHead
from survq.layers.pathway_encoder import PathwayEncoder
from survq.layers.precision import precision, products_in
from survq.models.base import AttentionMaps, Prediction, SurvivalModel
from survq.models.space import Integers, Range


class SurvQ(SurvivalModel):
    """The paper's model. If a case lacks a modality, it is predicted from the tokens of the other.

    Hyperparameters:
        histology_queries, genomic_queries: number of queries per modality. With 0, the model has no queries for that
            modality and uses its patch or pathway tokens directly (Table 2; only with depth 0).
        depth: layers of mixed self-attention; 1 is the paper, 0 the ablation without self-attention (Table 2).
        width: D of the equations; the hidden layer of the patch MLP has 2 D units.
        block: "plain" is attention as in the equations; "residual" adds residual, norm and heads, and is required for a
            depth above 1. None: plain up to a depth of 1, residual above.
        heads: number of heads of residual blocks.
        nested_queries: each training step uses only the first queries of each modality, a number of them drawn from
            `prefixes`. The queries become ordered by importance, and one training gives a model for each number of them
            (Rippel et al., 2014, nested dropout). Needs residual blocks.
        learnable_queries: False freezes the queries at their initial values (Table 4).
        patch_dropout, pathway_dropout: dropout rates of the patch MLP and of the pathways' SNNs.

    It fills all fields of AttentionMaps that exist for its hyperparameters: `tokens` is M, `fused` is M'.
    """

    gene_sets = ("pathways",)
    space: ClassVar = {
        "depth": Integers(1, 3),
        "histology_queries": Integers(4, 400, log=True),
        "genomic_queries": Integers(4, 400, log=True),
    }
    sizes = ("histology_queries", "genomic_queries")

    @classmethod
    def space_for(cls, spec: InputSpec) -> Mapping[str, Range]:
        absent = {"histology_queries"} if not spec.patch_features else set()
        absent |= {"genomic_queries"} if not spec.pathways else set()
        return {name: values for name, values in cls.space.items() if name not in absent}

    def __init__(
        self,
        spec: InputSpec,
        *,
        histology_queries: int = 300,
        genomic_queries: int = 128,
        depth: int = 1,
        width: int = 256,
        block: Literal["plain", "residual"] | None = None,
        heads: int = 4,
        nested_queries: bool = False,
        learnable_queries: bool = True,
        patch_dropout: float = 0.2,
        pathway_dropout: float = 0.25,
    ):
        super().__init__()
        block = block or ("plain" if depth <= 1 and not nested_queries else "residual")
        _check(histology_queries, genomic_queries, depth, block, nested_queries, spec)
        self.spec = spec
        self.nested = nested_queries
        self.Q_h: nn.Parameter | None = None
        self.Q_g: nn.Parameter | None = None

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
        self.hazard = HazardHead(width, spec.intervals)

    def patch_dtype(self, device: torch.device) -> torch.dtype:
        fused = self.Q_h is not None and isinstance(self.read_patches, Attention)
        rounds = fused and precision(self.encode_patches.get_parameter("0.weight"), device) == torch.bfloat16
        return torch.bfloat16 if rounds else torch.float16

    def precision(self, device: torch.device) -> torch.dtype:
        mixing = [precision(layer.key.weight, device) for layer in self.mix if isinstance(layer, Attention)]
        in_bf16 = torch.bfloat16 in (self.patch_dtype(device), *mixing)
        return torch.bfloat16 if in_bf16 else super().precision(device)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        kept: dict[str, Any] | None = {} if keep_attention else None
        # pathways first, so that the backward pass begins with the patches, which free most memory
        genomics = [self._genomics(batch, kept)] if self.spec.pathways else []
        histology = [self._histology(batch, kept)] if self.spec.patch_features else []
        modalities = histology + genomics
        z = self._mixed(modalities, kept) if self.mix else _mean_of_tokens(modalities)
        return Prediction(self.hazard(z), attention=None if kept is None else AttentionMaps(**kept))

    def predictions_by_size(self, batch: Batch) -> Mapping[tuple[int, ...], Prediction]:
        """Of nested queries: by the numbers of histology and of genomic queries; 0 for a modality that is not read.

        The queries of a modality do not see each other before fusion: patches and pathways are read once.
        """
        genomics = [self._genomics(batch, None)] if self.spec.pathways else []
        histology = [self._histology(batch, None)] if self.spec.patch_features else []
        M, present = _together(histology + genomics)
        h_all, g_all = (sum(tokens.tokens.shape[1] for tokens in one) for one in (histology, genomics))
        sizes = list(product(prefixes(h_all), prefixes(g_all)))
        token = torch.arange(h_all + g_all, device=M.device)
        chosen = torch.stack([(token < h) | ((token >= h_all) & (token < h_all + g)) for h, g in sizes])
        last = self.mix[-1]
        assert self.nested and isinstance(last, ResidualAttention)
        if len(self.mix) == 1:
            pooled = last.pooled_over(M, chosen, present).transpose(0, 1)
        else:
            each = [self._pooled(M[:, own], None if present is None else present[:, own]) for own in chosen]
            pooled = torch.stack(each)
        return {size: Prediction(logits) for size, logits in zip(sizes, self.hazard(pooled), strict=True)}

    def _used(self, Q: Float[Tensor, "query width"]) -> Float[Tensor, "_ width"]:
        """The queries of a modality. A training step of nested ones uses the first of them, a number that it draws."""
        if not (self.nested and self.training):
            return Q
        numbers = prefixes(len(Q))
        return Q[: numbers[int(torch.randint(len(numbers), ()))]]  # from PyTorch's random stream, which a step seeds

    def _histology(self, batch: Batch, kept: dict | None) -> Tokens:
        """Q_h' of each case (1); without queries the mean of X_h, which represents all patches."""
        patches = to_device([len(bag) for bag in batch.bags], torch.long, batch.time.device)
        if self.Q_h is None:
            return Tokens(self._read_each(None, batch.bags, None), patches)
        Q = self._used(self.Q_h)
        shown = kept is not None or any(bag.requires_grad for bag in batch.bags)  # not supported by read_bags
        if isinstance(self.read_patches, Attention) and not shown:
            Q_h = read_bags(self.encode_patches, self.read_patches, Q, batch.bags)
        else:
            Q_h = self._read_each(Q, batch.bags, kept)
        return Tokens(Q_h, (patches > 0) * len(Q))

    def _read_each(self, Q: Tensor | None, bags: Sequence[Tensor], kept: dict | None) -> Float[Tensor, "case _ width"]:
        """What the queries read in each bag, or its mean token without queries; zeros for an empty bag."""
        weight = self.hazard.weight
        tokens = [weight.new_zeros(1 if Q is None else len(Q), weight.shape[1])] * len(bags)
        maps: list[Tensor | None] = [None] * len(bags)
        for members, patches, sizes in pack(bags):
            X_h = self.encode_patches(patches.to(weight.dtype))  # (patch, width)
            if Q is None:
                for position, X in zip(members, X_h.split(sizes), strict=True):
                    tokens[position] = X.mean(dim=0, keepdim=True)
                continue
            reads = self.read_patches.over_bags(Q, X_h, sizes, weights=kept is not None)
            for position, (Q_h, A) in zip(members, reads, strict=True):
                tokens[position], maps[position] = Q_h, A
        if kept is not None and Q is not None:
            kept["histology"] = tuple(maps)
        return torch.stack(tokens)

    def _genomics(self, batch: Batch, kept: dict | None) -> Tokens:
        """Q_g' of each case (2); without queries the mean of X_g, which represents all pathways."""
        X_g = self.encode_pathways(batch.expression)  # (case, pathway, width)
        if self.Q_g is None:
            return Tokens(X_g.mean(dim=1, keepdim=True), batch.has_expression * X_g.shape[1])
        Q = self._used(self.Q_g)
        if isinstance(self.read_pathways, Attention) and kept is None and len(Q) < X_g.shape[1]:
            with products_in(precision(self.read_pathways.key.weight), X_g.device):
                Q_g = self.read_pathways.absorbed(Q, X_g).to(X_g.dtype)
        else:
            Q_g, A = self.read_pathways(Q, X_g, weights=kept is not None)
            if kept is not None:
                kept["genomics"] = A
        return Tokens(Q_g, batch.has_expression * len(Q))

    def _mixed(self, modalities: list[Tokens], kept: dict | None) -> Float[Tensor, "case width"]:
        """z, the mean of the tokens of M' (3) that a case has."""
        M, present = _together(modalities)
        if kept is None:
            return self._pooled(M, present)
        mixed, fusion = M, []
        for layer in self.mix:
            mixed, A = layer(mixed, mixed, present)
            fusion.append(A)
        kept |= {"tokens": M, "fusion": tuple(fusion), "fused": mixed}
        return mean_present(mixed, present)

    def _pooled(self, M: Tensor, present: Tensor | None) -> Float[Tensor, "case width"]:
        """z without the tokens of M'."""
        *before, last = self.mix
        if isinstance(last, Attention):
            with products_in(precision(last.key.weight), M.device):
                return last.pooled(M, present)
        assert isinstance(last, ResidualAttention)
        for layer in before:
            M, _ = layer(M, M, present, weights=False)
        return last.pooled(M, present)


class Tokens(NamedTuple):
    """The tokens of a modality, and how many tokens they represent in each case: 0 if the case lacks the modality."""

    tokens: Float[Tensor, "case _ width"]
    number: Int[Tensor, " case"]


def _together(
    modalities: Sequence[Tokens],
) -> tuple[Float[Tensor, "case token width"], Bool[Tensor, "case token"] | None]:
    """M, and which of its tokens a case has; None if all cases have all of them."""
    M = torch.cat([tokens for tokens, _ in modalities], dim=1)
    there = torch.cat([(number > 0)[:, None].expand(tokens.shape[:2]) for tokens, number in modalities], dim=1)
    return M, None if there.all() else there


def prefixes(queries: int) -> list[int]:
    """The numbers of queries at which nested ones are trained and evaluated: powers of two, and all; 0 without queries.

    >>> prefixes(12)
    [1, 2, 4, 8, 12]
    """
    return [2**power for power in range(queries.bit_length()) if 2**power < queries] + [queries]


def _mean_of_tokens(modalities: list[Tokens]) -> Float[Tensor, "case width"]:
    """The mean over the tokens of all modalities. A mean that represents n tokens has the weight n."""
    means = torch.stack([tokens.mean(dim=1) for tokens, _ in modalities])  # (modality, case, width)
    numbers = torch.stack([number for _, number in modalities])[..., None]
    return (means * numbers).sum(dim=0) / numbers.sum(dim=0)


def _check(histology_queries: int, genomic_queries: int, depth: int, block: str, nested: bool, spec: InputSpec) -> None:
    if min(histology_queries, genomic_queries, depth) < 0:
        raise ValueError("Numbers of queries and depth are 0 or more.")
    if depth > 1 and block == "plain":
        raise ValueError(f'depth={depth} needs block="residual": plain layers on top of each other make tokens alike.')
    without = (spec.patch_features and not histology_queries) or (spec.pathways and not genomic_queries)
    if depth and without:
        raise ValueError("Self-attention mixes queries: with 0 queries of a modality set depth=0.")
    if nested and (block == "plain" or not depth):
        raise ValueError('nested_queries needs block="residual" and a depth of 1 or more.')
    if block not in ("plain", "residual"):
        raise ValueError(f'block={block!r}; expected "plain" or "residual".')
