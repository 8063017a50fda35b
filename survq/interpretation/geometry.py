"""Queries and tokens as points: the variance that queries keep (Table 6), and the neighbours of queries (Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from survq.data.cohort import Cohort
from survq.data.streams import torch_seed
from survq.models import SurvivalModel
from survq.training.fold import FittedFold

SUBSPACE = 0.99  # share of the variance that the principal subspace explains at least, as in the paper
TABLE_6 = (
    "Original: the share of the variance of the tokens X in their principal subspace, the fewest principal components "
    f"with {SUBSPACE:.0%} of it. In subspace: the share of the variance of what the queries read, A X, in the same "
    "subspace. Kept: the variance of A X in the subspace, in units of that of X; above 1 where queries prefer "
    "tokens that vary more than the others. Tokens are encoded patches and "
    "pathways of held-out cases; each case has the same weight; means over folds."
)
MODALITIES = {  # of a SurvQ: its encoder, its attention, its queries
    "histology": ("encode_patches", "read_patches", "Q_h"),
    "genomics": ("encode_pathways", "read_pathways", "Q_g"),
}


@dataclass(frozen=True)
class Information:
    """How much of the variance of tokens remains in what queries read; see TABLE_6."""

    components: int
    original: float
    in_subspace: float
    kept: float


def information(
    tokens: Sequence[Float[np.ndarray, "_ width"]],
    reads: Sequence[Float[np.ndarray, "_ width"]],
    share: float = SUBSPACE,
) -> Information:
    """Of the tokens and the reads of each case. NaN where nothing varies."""
    of_tokens, of_reads = _covariance(tokens), _covariance(reads)
    values, vectors = np.linalg.eigh(of_tokens)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    total = values.sum()
    if not total > 0:
        return Information(0, np.nan, np.nan, np.nan)
    cumulative = values.cumsum() / total
    components = int(np.searchsorted(cumulative, share - 1e-12) + 1)
    inside = float(np.trace(vectors[:, :components].T @ of_reads @ vectors[:, :components]))
    varying = float(np.trace(of_reads))
    return Information(
        components=components,
        original=float(cumulative[components - 1]),
        in_subspace=inside / varying if varying > 0 else np.nan,
        kept=inside / float(values[:components].sum()),
    )


def _covariance(groups: Sequence[Float[np.ndarray, "_ width"]]) -> Float[np.ndarray, "width width"]:
    """Of the rows of all groups; each group has the same weight."""
    mean = np.mean([rows.mean(axis=0) for rows in groups], axis=0)
    return np.mean([(rows - mean).T @ (rows - mean) / len(rows) for rows in groups], axis=0)


@torch.no_grad()
def tokens_and_reads(
    fold: FittedFold, cohort: Cohort, bag: Tensor, case_id: str, modality: str
) -> tuple[Float[np.ndarray, "token width"], dict[str, Float[np.ndarray, "query width"]]]:
    """The tokens X of a case, and what reads them, A X: its learned queries; random ones; and shuffled ones, whose
    weights are dealt anew among the tokens.
    """
    model = fold.model.eval()
    batch = fold.preprocessing.table(cohort).batch([case_id], [bag])
    encoder, attention, name = MODALITIES[modality]
    read = model.get_submodule(encoder)
    X = read(batch.bags[0].float()) if modality == "histology" else read(batch.expression)[0]
    Q = model.get_parameter(name)
    random = torch.Generator().manual_seed(torch_seed(fold.config.seed, "random queries", modality, case_id))

    def weights(queries: Tensor) -> Tensor:
        _, A = model.get_submodule(attention)(queries, X)
        return A

    learned = weights(Q)
    order = torch.stack([torch.randperm(len(X), generator=random) for _ in range(len(Q))])
    chosen = {
        "learned": learned,
        "random": weights(torch.randn(Q.shape, generator=random)),
        "shuffled": learned.gather(1, order),
    }
    return X.double().numpy(), {kind: (A @ X).double().numpy() for kind, A in chosen.items()}


def queries_of(model: SurvivalModel) -> tuple[Float[np.ndarray, "query width"], Bool[np.ndarray, " query"]]:
    """The queries of both modalities as rows, and which of them are genomic."""
    both = [model.get_parameter(name).detach().double().numpy() for _, _, name in MODALITIES.values()]
    return np.concatenate(both), np.repeat([False, True], [len(queries) for queries in both])


def principal_plane(points: Float[np.ndarray, "point width"]) -> tuple[Float[np.ndarray, "point 2"], float]:
    """The points on their first two principal components, and the share of their variance there."""
    centred = points - points.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    plane = left[:, :2] * values[:2]
    # the sign of a component is arbitrary: its largest entry is positive
    plane = plane * np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    return plane, float((values[:2] ** 2).sum() / (values**2).sum())


def neighbour_embedding(points: Float[np.ndarray, "point width"], seed: int) -> Float[np.ndarray, "point 2"]:
    """t-SNE (van der Maaten & Hinton, 2008) from a random start."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points) - 1) / 3)
    return TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(points).astype(float)


def same_neighbour(points: Float[np.ndarray, "point width"], genomic: Bool[np.ndarray, " point"]) -> float:
    """The share of points whose nearest other point is of the same modality."""
    squares = (points**2).sum(axis=1)
    distance = squares[:, None] + squares - 2 * points @ points.T
    np.fill_diagonal(distance, np.inf)
    return float((genomic[distance.argmin(axis=1)] == genomic).mean())
