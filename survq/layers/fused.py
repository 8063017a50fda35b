"""`Attention.over_bags(Q, encode(bag))`, computed exactly with few matrix products and little memory.

The patch MLP is H = dropout(relu(W_1 x + b_1)), X = W_2 H + b_2 for patches x. One head of attention computes

    A = softmax(F_q(Q) F_k(X)^T / sqrt(D)),    Q' = A F_v(X)

Nothing is approximated:

- Queries are shared by all cases, so F_k is absorbed into them: the scores are q X with
  q = `Attention.absorbed_queries(Q)`. b_2 adds the same constant to the scores of all patches, which softmax ignores.
- The rows of A sum to 1, so F_v is applied after pooling: Q' = F_v(A X), and A X = (A H) W_2^T + b_2. With few queries
  W_2 is absorbed as well, and H is the only activation per patch.
- Patches are processed in chunks that fit the cache, with a running maximum (Milakov & Gimelshein, 2018). H is
  (hidden, patch) and X is (width, patch), so that all products of the backward pass read memory contiguously.
- The backward pass uses the activations that the forward pass kept of a chunk, and recomputes them if the budget was
  exceeded, so that memory does not grow with the patches. Dropout is stored as one seed per chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from survq.layers.attention import Attention

PATCHES = {"cpu": 1024, "cuda": 16384}  # per chunk: fits the CPU's cache, occupies a GPU
ACTIVATION_BUDGET = 2 * 2**30  # bytes that the forward pass may keep for the backward pass
# bytes per case, about the memory of the gradients later; the end of a very large slide is recomputed
CASE_ACTIVATION_BUDGET = 90 * 2**20
BLOCK_BYTES = 32 * 2**20  # bytes allocated at once from the budget


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
        present = torch.tensor([len(bag) > 0 for bag in bags], device=Q.device)
        return attention.value(pooled) * present[:, None, None]


def precision(weight: Tensor) -> torch.dtype:
    """The dtype of matrix products: bf16 if it is much faster than fp32. Sums are in fp32."""
    if weight.dtype != torch.float32:
        return weight.dtype
    if weight.device.type == "cpu":  # casts would cost small products more than they gain
        return torch.bfloat16 if computes_bf16() and weight.numel() >= 2**16 else torch.float32
    return torch.bfloat16 if torch.is_autocast_enabled(weight.device.type) else torch.float32


def computes_bf16() -> bool:
    """Whether this CPU has bf16 matrix units (AMX), about eight times as fast as fp32."""
    return torch.cpu._is_amx_tile_supported()


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
    """softmax(q X) X^T of every bag, with X = W_2 H, or X = H if W_2 is None. Dropout does not rescale."""
    chunks = list(_chunks([len(bag) for bag in bags], PATCHES.get(q.device.type, PATCHES["cuda"])))
    seeds = torch.randint(2**62, (len(chunks),)).tolist() if p else [0] * len(chunks)
    return _Pool.apply(_Patches(bags, chunks, seeds, p, dtype), torch.is_grad_enabled(), q, W_1, b_1, W_2)


class _Piece(NamedTuple):
    """Some patches of a case, and their columns in the chunk."""

    case: int
    rows: slice
    columns: slice


def _chunks(sizes: Sequence[int], most: int) -> Iterator[list[_Piece]]:
    """Chunks of at most `most` patches: small bags are combined, a large bag is split evenly."""
    chunk: list[_Piece] = []
    end = 0
    for case, size in enumerate(sizes):
        if chunk and end + size > most:
            yield chunk
            chunk, end = [], 0
        if size > most:
            parts = -(-size // most)
            cuts = [part * size // parts for part in range(parts + 1)]
            for start, stop in pairwise(cuts):
                yield [_Piece(case, slice(start, stop), slice(0, stop - start))]
        elif size:
            chunk.append(_Piece(case, slice(0, size), slice(end, end + size)))
            end += size
    if chunk:
        yield chunk


class _Weights(NamedTuple):
    """For a patch x: H = relu(W_1 x + b_1), X = W_2 H or X = H, scores = q X."""

    q: Float[Tensor, "query width"]
    W_1: Float[Tensor, "hidden feature"]
    b_1: Float[Tensor, " hidden"]
    W_2: Float[Tensor, "width hidden"] | None

    def to(self, dtype: torch.dtype) -> _Weights:
        q, W_1, b_1, W_2 = self
        return _Weights(q.to(dtype), W_1.to(dtype), b_1.to(dtype), None if W_2 is None else W_2.to(dtype))


class _Patches(NamedTuple):
    """Bags in chunks, with the settings to compute a chunk."""

    bags: Sequence[Tensor]
    chunks: list[list[_Piece]]
    seeds: list[int]  # of dropout
    p: float
    dtype: torch.dtype

    @property
    def largest(self) -> int:
        """Number of patches of the largest chunk."""
        return max((chunk[-1].columns.stop for chunk in self.chunks), default=0)

    def features(self, number: int, memory: Float[Tensor, "patches feature"]) -> Float[Tensor, "patch feature"]:
        """The patches of a chunk in `dtype`, written to `memory`."""
        for case, rows, columns in self.chunks[number]:
            x = self.bags[case][rows]
            if x.device.type == "cpu" and self.dtype == torch.bfloat16:
                x = x.float()  # on a CPU, fp16 to bf16 is six times as fast by way of fp32
            memory[columns] = x
        return memory[: self.chunks[number][-1].columns.stop]

    def read(
        self, number: int, x: Tensor, weights: _Weights, memory: Float[Tensor, "row patch"]
    ) -> tuple[Float[Tensor, "hidden patch"], Float[Tensor, "width patch"], Float[Tensor, "query patch"]]:
        """H, X and the scores of a chunk, written to `memory`."""
        q, W_1, b_1, W_2 = weights
        H, X, S = memory.split([len(W_1), 0 if W_2 is None else len(W_2), len(q)])
        torch.addmm(b_1[:, None], W_1, x.T, out=H).relu_()
        if self.p:
            _drop(H, self.p, self.seeds[number])
        X = H if W_2 is None else torch.mm(W_2, H, out=X)
        return H, X, torch.mm(q, X, out=S)


class _Scratch:
    """Memory reused by all chunks, because new pages cost more than writing to them."""

    def __init__(self, like: Tensor, patches: int, rows: int):
        self.rows, self.whole = rows, like.new_empty(rows * patches)

    def of(self, patches: int) -> Float[Tensor, "row patch"]:
        return self.whole[: self.rows * patches].view(self.rows, patches)


class _Memory:
    """Memory for the chunks that the forward pass keeps.

    On the CPU it is reused in the next step, because allocating it anew takes a tenth of the step.
    """

    def __init__(self, weights: _Weights, room: int = 0):
        self.rows = len(weights.W_1) + (0 if weights.W_2 is None else len(weights.W_2)) + len(weights.q)
        self.like, self.room = weights.q, room
        self.slabs: list[Tensor] = []
        self.left = torch.empty(0, dtype=torch.uint8)  # of the last slab

    def allocate(self, chunk: list[_Piece], bags: Sequence[Tensor]) -> Float[Tensor, "row patch"] | None:
        """Memory for a chunk that the forward pass keeps; None if the budget does not suffice."""
        patches, (case, rows, _) = chunk[-1].columns.stop, chunk[-1]
        size = self.rows * patches * self.like.itemsize
        most = CASE_ACTIVATION_BUDGET // (self.rows * self.like.itemsize)  # patches
        if size > self.room or rows.stop > most:
            return None
        self.room -= size
        # on a GPU, PyTorch caches memory
        if len(bags[case]) > most or size > BLOCK_BYTES or self.like.device.type != "cpu":
            return self.like.new_empty(self.rows, patches)
        if size > len(self.left):
            self.left = _idle_slabs.pop() if _idle_slabs else torch.empty(BLOCK_BYTES, dtype=torch.uint8)
            self.slabs.append(self.left)
        memory, self.left = self.left[:size], self.left[-(-size // 64) * 64 :]
        return memory.view(self.like.dtype).view(self.rows, patches)


_idle_slabs: list[Tensor] = []


class _Pool(torch.autograd.Function):
    """The prefix d denotes the gradient of the loss."""

    @staticmethod
    def forward(ctx, patches, needs_grad, *parameters):
        weights = _Weights(*parameters).to(patches.dtype)
        P = parameters[0].new_zeros(len(patches.bags), *weights.q.shape)
        total, highest = torch.zeros_like(P[..., :1]), torch.full_like(P[..., :1], -math.inf)
        memory = _Memory(weights, ACTIVATION_BUDGET if needs_grad else 0)
        features = weights.W_1.new_empty(patches.largest, weights.W_1.shape[1])
        scratch = _Scratch(weights.q, patches.largest, memory.rows)
        kept = []
        for number, chunk in enumerate(patches.chunks):
            x, room = patches.features(number, features), memory.allocate(chunk, patches.bags)
            H, X, E = patches.read(number, x, weights, scratch.of(len(x)) if room is None else room)
            subtracted = []
            for case, _, columns in chunk:
                e = E[:, columns]
                higher = torch.maximum(highest[case], e.amax(1, keepdim=True))
                fade = (highest[case] - higher).exp_()
                e.sub_(higher).exp_()
                total[case] = total[case] * fade + e.sum(1, keepdim=True, dtype=total.dtype)
                P[case] *= fade
                _add_product(P[case], e, X[:, columns].T)
                highest[case] = higher
                subtracted.append(higher)
            kept.append(None if room is None else (H, X, E, subtracted))
        P /= total.clamp_min(torch.finfo(total.dtype).tiny)  # an empty bag stays zero
        ctx.patches, ctx.kept, ctx.slabs = patches, kept, memory.slabs
        ctx.save_for_backward(*parameters, P, highest + total.log())
        return P

    @staticmethod
    @once_differentiable
    def backward(ctx, dP):
        *parameters, P, log_total = ctx.saved_tensors
        patches, kept = ctx.patches, ctx.kept
        dq, dW_1, db_1, dW_2 = (None if parameter is None else torch.zeros_like(parameter) for parameter in parameters)
        weights = _Weights(*parameters).to(patches.dtype)
        q, _, _, W_2 = weights
        dP = dP.to(patches.dtype)
        along = (dP * P).sum(-1, keepdim=True)  # the term that the backward pass of softmax subtracts from dA
        features = weights.W_1.new_empty(patches.largest, weights.W_1.shape[1])
        again = _Scratch(q, patches.largest, _Memory(weights).rows)
        of_scores, of_tokens = (_Scratch(q, patches.largest, rows) for rows in q.shape)
        of_hidden = of_tokens if W_2 is None else _Scratch(q, patches.largest, len(weights.W_1))
        for number, chunk in enumerate(patches.chunks):
            x = patches.features(number, features)
            if kept[number] is None:
                H, X, A = patches.read(number, x, weights, again.of(len(x)))
                for case, _, columns in chunk:
                    A[:, columns].sub_(log_total[case]).exp_()
            else:
                (H, X, A, subtracted), kept[number] = kept[number], None
                for (case, _, columns), higher in zip(chunk, subtracted, strict=True):
                    A[:, columns].mul_((higher - log_total[case]).exp_())
            dS, dX = of_scores.of(len(x)), of_tokens.of(len(x))
            for case, _, columns in chunk:
                torch.mm(dP[case], X[:, columns], out=dS[:, columns])  # dA
                torch.mm(dP[case].T, A[:, columns], out=dX[:, columns])
                dS[:, columns].sub_(along[case])
            dS.mul_(A)
            dX.addmm_(q.T, dS)
            _add_product(dq, dS, X.T)
            dH = dX if W_2 is None else torch.mm(W_2.T, dX, out=of_hidden.of(len(x)))
            if W_2 is not None:
                _add_product(dW_2, dX, H.T)
            _where_positive(dH, H)  # elsewhere relu or dropout gave 0
            db_1 += dH.sum(1, dtype=db_1.dtype)
            _add_product(dW_1, dH, x)
        _idle_slabs.extend(ctx.slabs)
        ctx.slabs = []
        return None, None, dq, dW_1, db_1, dW_2


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:  # accumulate in the precision of the parameters
        total += a @ b


def _drop(H: Tensor, p: float, seed: int) -> None:
    """Set a share p of H to 0 (to within 1/32768). The elements depend only on the seed."""
    random = torch.Generator(H.device).manual_seed(seed)
    bits = torch.empty(-(-H.numel() // 4), dtype=torch.int64, device=H.device).random_(-(2**63), None, generator=random)
    number = bits.view(torch.int16)[: H.numel()].view_as(H).bitwise_right_shift_(1)  # -16384 to 16383
    _where_positive(H, number.sub_(round(p * 32768) - 16385).to(H.dtype))


def _where_positive(x: Tensor, y: Tensor) -> None:
    """Set x to 0 where y is not above 0."""
    torch.ops.aten.threshold_backward.grad_input(x, y, 0, grad_input=x)
