"""Self-attention at a cost that is linear in the number of tokens (Xiong et al., AAAI 2021, arXiv:2102.03902)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

ITERATIONS = 6  # of the pseudo-inverse


class NystromAttention(nn.Module):
    """Attention of n tokens by way of m landmarks, which are the means of m runs of neighbouring tokens.

        A = softmax(Q K_l^T) softmax(Q_l K_l^T)^+ softmax(Q_l K^T),    out = Linear(A V + conv(V))

    in several heads, where Q_l and K_l are the queries (scaled by 1 / sqrt(width / heads)) and keys of landmarks, ^+ is
    the pseudo-inverse in six iterations, and conv a depth-wise convolution over 33 neighbouring tokens, one kernel per
    head. Up to m tokens are their own landmarks, for which the formula is plain attention: so it is computed as such.

    Runs differ in length by at most one token. The authors' code puts zero tokens in front of the others instead, to a
    multiple of m, and these take attention: with m = 256 they are 250 of the 256 tokens that 6 become.
    """

    def __init__(
        self, width: int, heads: int = 8, landmarks: int | None = None, kernel: int = 33, dropout: float = 0.1
    ):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}.")
        self.heads = heads
        self.landmarks = landmarks or width // 2
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.convolve = nn.Conv2d(heads, heads, (kernel, 1), padding=(kernel // 2, 0), groups=heads, bias=False)
        self.output = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, X: Float[Tensor, "case token width"]) -> Float[Tensor, "case token width"]:
        q, k, v = self.query_key_value(X).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.output(self._read(q, k, v).transpose(1, 2).flatten(2))

    def over_bags(self, X: Float[Tensor, "row width"], sizes: Sequence[int]) -> Float[Tensor, "row width"]:
        """The same for ragged bags of tokens that lie in X one after another; none of them is empty."""
        bags = self.query_key_value(X).unflatten(-1, (3, self.heads, -1)).split(list(sizes))
        reads: list[Tensor] = [X] * len(bags)  # (token, head, part) each
        small = [number for number, size in enumerate(sizes) if size <= self.landmarks]
        if small:  # side by side: what a bag is filled up with is attended to by none, and is 0 to the convolution
            padded = pad_sequence([bags[number] for number in small], batch_first=True)
            present = pad_sequence([X.new_ones(sizes[number]) for number in small], batch_first=True) > 0
            q, k, v = padded.permute(2, 0, 3, 1, 4)
            read = self._read(q, k, v, present).transpose(1, 2)
            for number, of_bag in zip(small, read, strict=True):
                reads[number] = of_bag[: sizes[number]]
        for number, bag in enumerate(bags):
            if sizes[number] > self.landmarks:
                q, k, v = bag[None].permute(2, 0, 3, 1, 4)
                reads[number] = self._read(q, k, v)[0].transpose(0, 1)
        return self.output(torch.cat(reads).flatten(1))

    def _read(
        self,
        q: Float[Tensor, "case head token part"],
        k: Float[Tensor, "case head token part"],
        v: Float[Tensor, "case head token part"],
        present: Bool[Tensor, "case token"] | None = None,
    ) -> Float[Tensor, "case head token part"]:
        """A V + conv(V). Where some tokens are not present, there are no more of them than landmarks."""
        if q.shape[2] <= self.landmarks:
            mask = None if present is None else present[:, None, None, :]
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask) + self.convolve(v)
        dtype = torch.promote_types(v.dtype, torch.float32)  # half the digits are too few for the inverse
        with torch.autocast(v.device.type, enabled=False):
            read = self._by_landmarks(q.to(dtype), k.to(dtype), v.to(dtype))
        return read + self.convolve(v)

    def _by_landmarks(
        self, q: Float[Tensor, "*head token part"], k: Tensor, v: Tensor
    ) -> Float[Tensor, "*head token part"]:
        q = q / q.shape[-1] ** 0.5
        q_l, k_l = means_of_runs(q, self.landmarks), means_of_runs(k, self.landmarks)
        left = (q @ k_l.mT).softmax(dim=-1)  # (*head, token, landmark)
        middle = (q_l @ k_l.mT).softmax(dim=-1)
        right = (q_l @ k.mT).softmax(dim=-1)
        return left @ (pseudo_inverse(middle) @ (right @ v))


def means_of_runs(X: Float[Tensor, "*head token part"], runs: int) -> Float[Tensor, "*head _ part"]:
    """The means of so many runs of neighbouring tokens, the first of which are longer by one where need be."""
    length, longer = divmod(X.shape[-2], runs)
    cut = longer * (length + 1)
    first = X[..., :cut, :].unflatten(-2, (longer, length + 1)).mean(dim=-2) if longer else X[..., :0, :]
    rest = X[..., cut:, :].unflatten(-2, (runs - longer, length)).mean(dim=-2)
    return torch.cat([first, rest], dim=-2)


def pseudo_inverse(A: Float[Tensor, "*head row column"]) -> Float[Tensor, "*head column row"]:
    """The Moore-Penrose inverse, by iterations of third order (Razavi et al., 2014)."""
    norms = A.abs().sum(dim=-1).amax(dim=-1) * A.abs().sum(dim=-2).amax(dim=-1)
    Z = A.mT / norms[..., None, None]
    identity = torch.eye(A.shape[-2], dtype=A.dtype, device=A.device)
    for _ in range(ITERATIONS):
        AZ = A @ Z
        Z = 0.25 * Z @ (13 * identity - AZ @ (15 * identity - AZ @ (7 * identity - AZ)))
    return Z
