"""Self-attention at a cost linear in the number of tokens (Xiong et al., AAAI 2021, arXiv:2102.03902)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from survq.data.batch import to_device

ITERATIONS = 6  # of the pseudo-inverse
ROWS = 8192  # tokens per padded batch


class NystromAttention(nn.Module):
    """Attention of n tokens by m landmarks, which are the means of m runs of neighbouring tokens.

        A = softmax(Q K_l^T) softmax(Q_l K_l^T)^+ softmax(Q_l K^T),    out = Linear(A V + conv(V))

    in several heads, where Q_l and K_l are the queries (scaled by 1 / sqrt(width / heads)) and keys of landmarks, ^+ is
    the pseudo-inverse in six iterations, and conv a depth-wise convolution over 33 neighbouring tokens, one kernel per
    head. With at most m tokens, each is its own landmark; the formula is then plain attention and computed as such.

    Runs differ in length by at most one token. The authors' code instead prepends zero tokens up to a multiple of m,
    which receive attention: with m = 256, a bag of 6 tokens gets 250 zero tokens.
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
        return self.over_bags(X.flatten(0, 1), [X.shape[1]] * len(X)).view_as(X)

    def over_bags(self, X: Float[Tensor, "row width"], sizes: Sequence[int]) -> Float[Tensor, "row width"]:
        """`forward` for ragged bags concatenated in X; none of them is empty.

        Bags of similar size are padded to one batch. Padding has the attention weight 0, and is 0 to conv.
        """
        bags = self.query_key_value(X).unflatten(-1, (3, self.heads, -1)).split(list(sizes))
        reads: list[Tensor] = [X] * len(bags)  # (token, head, part) each
        for group in self._groups(sizes):
            padded = pad_sequence([bags[bag] for bag in group], batch_first=True)
            q, k, v = padded.permute(2, 0, 3, 1, 4)  # (bag, head, token, part)
            size = to_device([sizes[bag] for bag in group], torch.long, X.device)
            present = (torch.arange(padded.shape[1], device=X.device) < size[:, None])[:, None, None, :]
            if sizes[group[0]] <= self.landmarks:
                read = F.scaled_dot_product_attention(q, k, v, attn_mask=present)
            else:
                landmarks = torch.stack([means_of_runs(bags[bag][:, :2], self.landmarks) for bag in group])
                read = _by_landmarks(q, k, v, landmarks, present)
            for bag, of_bag in zip(group, (read + self.convolve(v)).transpose(1, 2), strict=True):
                reads[bag] = of_bag[: sizes[bag]]
        return self.output(torch.cat(reads).flatten(1))

    def _groups(self, sizes: Sequence[int]) -> Iterator[list[int]]:
        """Groups of bags of similar size; in a group, either all bags have more tokens than landmarks or none has."""
        group: list[int] = []
        for bag in sorted(range(len(sizes)), key=sizes.__getitem__):
            crosses = group and sizes[group[0]] <= self.landmarks < sizes[bag]
            if group and (crosses or (len(group) + 1) * sizes[bag] > ROWS):
                yield group
                group = []
            group.append(bag)
        if group:
            yield group


def _by_landmarks(
    q: Float[Tensor, "bag head token part"],
    k: Float[Tensor, "bag head token part"],
    v: Float[Tensor, "bag head token part"],
    landmarks: Float[Tensor, "bag landmark 2 head part"],
    present: Bool[Tensor, "bag 1 1 token"],
) -> Float[Tensor, "bag head token part"]:
    dtype = torch.promote_types(v.dtype, torch.float32)  # half precision does not suffice for the inverse
    with torch.autocast(v.device.type, enabled=False):
        q, k, v = q.to(dtype) / q.shape[-1] ** 0.5, k.to(dtype), v.to(dtype)
        q_l, k_l = landmarks.to(dtype).permute(2, 0, 3, 1, 4)  # (bag, head, landmark, part)
        q_l = q_l / q.shape[-1] ** 0.5
        left = (q @ k_l.mT).softmax(dim=-1)  # (bag, head, token, landmark)
        middle = (q_l @ k_l.mT).softmax(dim=-1)
        right = (q_l @ k.mT).masked_fill(~present, -math.inf).softmax(dim=-1)
        return left @ (pseudo_inverse(middle) @ (right @ v))


def means_of_runs(X: Float[Tensor, "token ..."], runs: int) -> Float[Tensor, "run ..."]:
    """The means of `runs` runs of neighbouring tokens. The first runs are longer by one token if needed."""
    length, longer = divmod(len(X), runs)
    cut = longer * (length + 1)
    rest = X[cut:].unflatten(0, (runs - longer, length)).mean(dim=1)
    return torch.cat([X[:cut].unflatten(0, (longer, length + 1)).mean(dim=1), rest]) if longer else rest


def pseudo_inverse(A: Float[Tensor, "*head row row"]) -> Float[Tensor, "*head row row"]:
    """The Moore-Penrose inverse by third-order iterations (Razavi et al., 2014)."""
    norms = A.abs().sum(dim=-1).amax(dim=-1) * A.abs().sum(dim=-2).amax(dim=-1)
    Z = A.mT / norms[..., None, None]
    identity = torch.eye(A.shape[-2], dtype=A.dtype, device=A.device)
    for _ in range(ITERATIONS):
        AZ = A @ Z
        Z = 0.25 * Z @ (13 * identity - AZ @ (15 * identity - AZ @ (7 * identity - AZ)))
    return Z
