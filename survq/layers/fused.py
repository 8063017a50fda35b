"""`Attention.over_bags(Q, encode(bag))`, computed exactly with few matrix products and little memory.

The patch MLP is H = dropout(relu(W_1 x + b_1)), X = W_2 H + b_2 for patches x. One head of attention computes

    A = softmax(F_q(Q) F_k(X)^T / sqrt(D)),    Q' = A F_v(X)

Nothing is approximated:

- Queries are shared by all cases, so F_k is absorbed into them: the scores are S = q X with
  q = `Attention.absorbed_queries(Q)`. b_2 adds the same constant to the scores of all patches, which softmax ignores.
- The rows of A sum to 1, so F_v is applied after pooling: Q' = F_v(P) with P = A X^T, and P = (A H^T) W_2^T + b_2. With
  few queries W_2 is absorbed as well, and H is the only activation per patch.
- A = E / total, with E = exp(S - level) and total the sum of E over the patches of the case, for any level. The level
  of a query in a case is its highest score among the first patches, so that total and P are plain sums over chunks. If
  a total shows that far higher scores followed, all is computed again with the highest score of all patches.
- Patches are processed in chunks that fit the cache. H is (hidden, patch) and X is (width, patch), so that all products
  of the backward pass read memory contiguously. A chunk may end in padding: its x and its E are 0, so that it adds
  nothing to any sum or gradient.
- The backward pass uses the activations that the forward pass kept of a chunk, and recomputes them if the budget was
  exceeded, so that memory does not grow with the patches. Dropout is stored as one seed per chunk.

With d for the gradient of the loss and * elementwise, the backward pass is

    dS = E * (dP' X - dP' P^T),  dP' = dP / total        dX = dP'^T E + q^T dS        dq = dS X^T
    dH = W_2^T dX where H > 0                            dW_2 = dX H^T                dW_1 = dH x
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from survq.data.batch import to_device
from survq.data.half_floats import convert
from survq.layers import chunks
from survq.layers.attention import Attention
from survq.layers.chunks import Activations, Chunk, Scratch, Sizes, chunked, empty_rows, in_rows
from survq.layers.precision import precision, products_in, relu, where_positive

# a chunk fits the CPU's cache, or occupies a GPU
PATCHES = {"cpu": Sizes(1024), "cpu bf16": Sizes(3072, 256, 64), "cuda": Sizes(16384)}
LEVEL_PATCHES = 64  # first patches of a case, whose scores set the level
HIGHEST_TOTAL = 2.0**50  # a higher sum of E means that the level was too low for floats

Levels = Float[Tensor, "case query 1"]


def read_bags(
    encode: nn.Sequential, attention: Attention, Q: Float[Tensor, "query width"], bags: Sequence[Tensor]
) -> Float[Tensor, "case query width"]:
    """The tokens that the queries attend to in each bag of patches (patch, feature); zeros for an empty bag.

    `encode` is Linear, ReLU, Dropout, Linear.
    """
    first, _, dropout, second = encode
    assert isinstance(first, nn.Linear) and isinstance(dropout, nn.Dropout) and isinstance(second, nn.Linear)
    p = dropout.p if dropout.training else 0.0
    dtype = precision(first.weight)
    with torch.autocast(Q.device.type, enabled=False):
        q = attention.absorbed_queries(Q)
        scale = 1 / (1 - p) if p < 1 else 0.0  # of dropout: c relu(h) = relu(c h), so it is applied to the weights once
        W_1, b_1 = scale * first.weight, scale * first.bias
        if _is_cheaper_without_tokens(len(Q), second):
            pooled = second(_pool(bags, p, dtype, q @ second.weight, W_1, b_1))
        else:
            pooled = _pool(bags, p, dtype, q, W_1, b_1, second.weight) + second.bias
    present = to_device([len(bag) > 0 for bag in bags], torch.bool, Q.device)
    with products_in(dtype, Q.device):
        return attention.value(pooled).to(Q.dtype) * present[:, None, None]


def _is_cheaper_without_tokens(queries: int, second: nn.Linear) -> bool:
    """Whether six products of (query, hidden, patch) cost less than six of (query, width, patch) and three of
    (width, hidden, patch)."""
    width, hidden = second.weight.shape
    return 2 * queries * (hidden - width) < width * hidden


def _pool(
    bags: Sequence[Tensor],
    p: float,
    dtype: torch.dtype,
    q: Float[Tensor, "query width"],
    W_1: Float[Tensor, "hidden feature"],
    b_1: Float[Tensor, " hidden"],
    W_2: Float[Tensor, "width hidden"] | None = None,
) -> Float[Tensor, "case query width"]:
    """P of every bag, with X = W_2 H, or X = H if W_2 is None. Dropout does not rescale."""
    kind = "cpu bf16" if q.device.type == "cpu" and dtype == torch.bfloat16 else q.device.type
    parts = list(chunked([len(bag) for bag in bags], PATCHES.get(kind, PATCHES["cuda"])))
    seeds = torch.randint(2**62, (len(parts),)).tolist() if p else [0] * len(parts)
    return _Pool.apply(_Patches(bags, parts, seeds, p, dtype), torch.is_grad_enabled(), q, W_1, b_1, W_2)


class _Weights(NamedTuple):
    """For a patch x: H = relu(W_1 x + b_1), X = W_2 H or X = H, S = q X."""

    q: Float[Tensor, "query width"]
    W_1: Float[Tensor, "hidden feature"]
    b_1: Float[Tensor, " hidden"]
    W_2: Float[Tensor, "width hidden"] | None

    def to(self, dtype: torch.dtype) -> _Weights:
        q, W_1, b_1, W_2 = self
        if q.dtype == dtype:
            return self
        return _Weights(
            in_rows(q, dtype), in_rows(W_1, dtype), b_1.to(dtype), W_2 if W_2 is None else in_rows(W_2, dtype)
        )

    @property
    def rows(self) -> list[int]:
        """Rows of H, of X if it is not H, and of S."""
        return [len(self.W_1), 0 if self.W_2 is None else len(self.W_2), len(self.q)]


class _Patches(NamedTuple):
    """Bags in chunks, with the settings to compute a chunk."""

    bags: Sequence[Tensor]
    chunks: list[Chunk]
    seeds: list[int]  # of dropout
    p: float
    dtype: torch.dtype

    @property
    def largest(self) -> int:
        """Number of patches of the largest chunk."""
        return max((chunk.size for chunk in self.chunks), default=0)

    def features(self, number: int, memory: Float[Tensor, "patches feature"]) -> Float[Tensor, "patch feature"]:
        """The patches of a chunk in `dtype`, with padding of 0: a view of their bag, or written to `memory`."""
        chunk = self.chunks[number]
        if (piece := chunk.only) and not chunk.padding and self.bags[piece.case].dtype == self.dtype:
            return self.bags[piece.case][piece.rows]
        for piece in chunk.pieces:
            convert(self.bags[piece.case][piece.rows], memory[piece.real])
        for columns in chunk.padding:
            memory[columns] = 0
        return memory[: chunk.size]

    def tokens(
        self,
        number: int,
        x: Float[Tensor, "patch feature"],
        weights: _Weights,
        H: Float[Tensor, "hidden patch"],
        X: Float[Tensor, "_ patch"],
        scratch: Float[Tensor, "hidden patch"],
    ) -> Float[Tensor, "width patch"]:
        """Writes H and X of a chunk, and returns X, which is H if W_2 is None."""
        _, W_1, b_1, W_2 = weights
        if H.stride(0) == 1:
            relu(torch.addmm(b_1, x, W_1.T, out=H.T), out=H.T)
        else:  # a product is slow to write to memory that is not in the cache; relu is not
            relu(torch.addmm(b_1[:, None], W_1, x.T, out=scratch), out=H)
        if self.p:
            _drop(H, self.p, self.seeds[number])
        return H if W_2 is None else torch.mm(W_2, H, out=X)


class _Pool(torch.autograd.Function):
    """The prefix d denotes the gradient of the loss."""

    @staticmethod
    def forward(ctx, patches, needs_grad, *parameters):
        weights = _Weights(*parameters).to(patches.dtype)
        P, total, levels, kept, memory = _attend(patches, weights, needs_grad)
        if not (total <= HIGHEST_TOTAL).all():
            memory.release()
            highest = _highest_scores(patches, weights)
            P, total, levels, kept, memory = _attend(patches, weights, needs_grad, highest)
        # NaN if a weight is not finite: relu on bits turns a NaN with the sign of a negative number into 0
        P += 0 * sum(weight.sum() for weight in parameters if weight is not None)
        ctx.patches, ctx.kept, ctx.memory = patches, kept, memory
        ctx.save_for_backward(*parameters, P, total, levels)
        return P

    @staticmethod
    @once_differentiable
    def backward(ctx, dP):
        *parameters, P, total, levels = ctx.saved_tensors
        patches, kept = ctx.patches, ctx.kept
        dq, dW_1, db_1, dW_2 = (None if parameter is None else torch.zeros_like(parameter) for parameter in parameters)
        weights = _Weights(*parameters).to(patches.dtype)
        q, W_1, _, W_2 = weights
        dP = dP / total
        along = -(dP * P).sum(-1, keepdim=True).to(patches.dtype)
        dP = dP.to(patches.dtype)
        qT, dPT = in_rows(q.T, q.dtype), dP.mT.contiguous()
        W_2T = None if W_2 is None else in_rows(W_2.T, q.dtype)
        features = empty_rows(q, patches.largest, W_1.shape[1])
        again, hot, scores, of_tokens = (
            Scratch(q, patches.largest, rows)
            for rows in (sum(weights.rows), len(W_1), 2 * len(q), 0 if W_2 is None else len(W_2))
        )
        joined = -1  # the case of dPT_qT
        for number, chunk in enumerate(patches.chunks):
            x = patches.features(number, features)
            E_dS = scores.of(len(x))
            E, dS = E_dS.split(len(q))
            if kept[number] is None:
                H, X, _ = again.of(len(x)).split(weights.rows)
                X = patches.tokens(number, x, weights, H, X, hot.of(len(x)))
                _scores(q, X, chunk, levels, out=dS)
                _exp(dS, chunk, out=E)
            else:
                (H, X, A), kept[number] = kept[number], None
                E.copy_(A)
            dH = hot.of(len(x))
            dX = dH if W_2 is None else of_tokens.of(len(x))
            if piece := chunk.only:
                torch.addmm(along[piece.case], dP[piece.case], X, out=dS).mul_(E)
                if piece.case != joined:
                    joined, dPT_qT = piece.case, in_rows(torch.cat([dPT[piece.case], qT], 1), q.dtype)
                torch.mm(dPT_qT, E_dS, out=dX)
            else:
                dS[:, chunk.pieces[-1].columns.stop :] = 0
                dX[:, chunk.pieces[-1].columns.stop :] = 0
                for case, _, columns in chunk.pieces:
                    torch.addmm(along[case], dP[case], X[:, columns], out=dS[:, columns]).mul_(E[:, columns])
                    torch.mm(dPT[case], E[:, columns], out=dX[:, columns])
                dX.addmm_(qT, dS)
            _add_product(dq, dS, X.T)
            if W_2 is not None:
                torch.mm(W_2T, dX, out=dH)
                _add_product(dW_2, dX, H.T)
            dH = where_positive(dH, H, out=H)  # elsewhere relu or dropout gave 0
            db_1 += dH.sum(1)
            _add_product(dW_1, dH, x)
        ctx.memory.release()
        return None, None, dq, dW_1, db_1, dW_2


def _attend(
    patches: _Patches, weights: _Weights, needs_grad: bool, levels: Levels | None = None
) -> tuple[Float[Tensor, "case query width"], Levels, Levels, list, Activations]:
    """P, total, levels, the activations that are kept of each chunk, and their memory."""
    q, W_1, _, _ = weights
    cases = len(patches.bags)
    P = torch.zeros(cases, *q.shape, dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    total, fixed = torch.zeros_like(P[..., :1]), levels is not None
    levels = q.new_zeros(cases, len(q), 1) if levels is None else levels
    memory = Activations(q, sum(weights.rows), chunks.ACTIVATION_BUDGET if needs_grad else 0)
    features, by_patch = (empty_rows(q, patches.largest, columns) for columns in (W_1.shape[1], len(W_1)))
    scratch, hot = (Scratch(q, patches.largest, rows) for rows in (sum(weights.rows), max(len(W_1), len(q))))
    kept = []
    for number, chunk in enumerate(patches.chunks):
        x = patches.features(number, features)
        room = memory.allocate(chunk, len(patches.bags[chunk.pieces[-1].case]))
        H, X, E = (scratch.of(len(x)) if room is None else room).split(weights.rows)
        if not needs_grad:
            H = by_patch[: len(x)].T  # computed faster, but of no use to the backward pass
        X = patches.tokens(number, x, weights, H, X, hot.of(len(x))[: len(W_1)])
        S = hot.of(len(x))[: len(q)]
        _scores(q, X, chunk, levels, out=S, set_levels=not fixed)
        _exp(S, chunk, out=E)
        for case, _, columns in chunk.pieces:
            total[case] += E[:, columns].sum(1, keepdim=True)
            _add_product(P[case], E[:, columns], X[:, columns].T)
        kept.append(None if room is None else (H, X, E))
    total += total == 0  # of an empty bag, whose P is 0
    P /= total
    return P, total, levels, kept, memory


def _scores(
    q: Float[Tensor, "query width"],
    X: Float[Tensor, "width patch"],
    chunk: Chunk,
    levels: Levels,
    out: Float[Tensor, "query patch"],
    *,
    set_levels: bool = False,
) -> None:
    """Writes S - level. With `set_levels`, first sets the levels of the cases whose first patches are in the chunk."""
    if piece := chunk.only:
        if set_levels and piece.rows.start == 0:
            levels[piece.case] = torch.mm(q, X[:, piece.real][:, :LEVEL_PATCHES]).amax(1, keepdim=True)
        torch.addmm(-levels[piece.case], q, X, out=out)
        return
    torch.mm(q, X, out=out)
    for piece in chunk.pieces:
        S, level = out[:, piece.real], levels[piece.case]
        if set_levels and piece.rows.start == 0:
            torch.amax(S[:, :LEVEL_PATCHES], 1, keepdim=True, out=level)
        S.sub_(level)


def _exp(S: Float[Tensor, "query patch"], chunk: Chunk, out: Float[Tensor, "query patch"]) -> None:
    """Writes E, which is 0 for padding."""
    torch.exp(S, out=out)
    for columns in chunk.padding:
        out[:, columns] = 0


def _highest_scores(patches: _Patches, weights: _Weights) -> Levels:
    """The highest score of each query in each case."""
    q, W_1, _, _ = weights
    highest = q.new_full((len(patches.bags), len(q), 1), torch.finfo(q.dtype).min)
    features = empty_rows(q, patches.largest, W_1.shape[1])
    scratch, hot = (Scratch(q, patches.largest, rows) for rows in (sum(weights.rows), len(W_1)))
    for number, chunk in enumerate(patches.chunks):
        x = patches.features(number, features)
        H, X, S = scratch.of(len(x)).split(weights.rows)
        X = patches.tokens(number, x, weights, H, X, hot.of(len(x)))
        torch.mm(q, X, out=S)
        for piece in chunk.pieces:
            highest[piece.case] = torch.maximum(highest[piece.case], S[:, piece.real].amax(1, keepdim=True))
    return highest


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:  # accumulate in the precision of the parameters
        total += a @ b


def _drop(H: Tensor, p: float, seed: int) -> None:
    """Set a share p of H to 0 (to within 1/32768). The elements depend only on the seed."""
    random = torch.Generator(H.device).manual_seed(seed)
    bits = torch.empty(-(-H.numel() // 4), dtype=torch.int64, device=H.device).random_(-(2**63), None, generator=random)
    number = bits.view(torch.int16)[: H.numel()].view(H.shape).bitwise_right_shift_(1)  # -16384 to 16383
    number.sub_(round(p * 32768) - 16385)
    where_positive(H, number.to(H.dtype), out=H)
