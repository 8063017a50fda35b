"""What the queries of a trained model read in one case: patches, pathways, and each other.

Attention alone is weak evidence: the best query of an untrained model finds planted patches nearly as well as that of a
trained one. Therefore the maps of the untrained model are computed, too, and the relevance of patches and pathways for
the risk stands beside attention (survq/interpretation/relevance.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from survq.data.cohort import Cohort
from survq.data.gene_sets import PATHWAYS
from survq.data.problems import DataError
from survq.interpretation.relevance import (
    gradients,
    patch_regions,
    typical_expression,
    without_pathways,
    without_regions,
)
from survq.models import SurvivalModel
from survq.text import preview
from survq.training.fold import FittedFold, digest_of
from survq.training.learner import initial_model


@dataclass(frozen=True, eq=False)
class QueryMaps:
    """The attention of one case, and what its risk depends on. Row i of `positions` belongs to patch i."""

    case_id: str
    histology: Float[np.ndarray, "query patch"]  # rows sum to 1
    genomics: Float[np.ndarray, "genomic_query pathway"]  # rows sum to 1
    fusion: Float[np.ndarray, "token token"]  # histology queries, then genomic ones; the mean over layers
    patch_gradient: Float[np.ndarray, " patch"]  # length of the gradient of the risk
    patch_occlusion: Float[np.ndarray, " patch"]  # change of the risk without the patch's region
    pathway_gradient: Float[np.ndarray, " pathway"]
    pathway_occlusion: Float[np.ndarray, " pathway"]
    positions: pd.DataFrame  # slide_id, x, y, patch_size (level-0 pixels)
    pathways: tuple[str, ...]

    @property
    def relevance(self) -> Mapping[str, Float[np.ndarray, " patch"]]:
        """The maps of patches that are not attention, by name."""
        return {"gradient of the risk": self.patch_gradient, "risk without the region": self.patch_occlusion}

    def leading(self, modality: str, count: int = 2) -> list[int]:
        """The queries of a modality that are shown: the one that receives most attention in fusion, then those whose
        map is least correlated with the maps already chosen.
        """
        maps = self.histology if modality == "histology" else self.genomics
        received = self.fusion.mean(axis=0)
        received = received[: len(self.histology)] if modality == "histology" else received[len(self.histology) :]
        chosen = [int(received.argmax())]
        agreement = np.full(len(maps), -np.inf)
        while len(chosen) < min(count, len(maps)):
            # a constant map has no ranks: it shows nothing and comes last
            agreement = np.maximum(agreement, np.nan_to_num(correlations(maps, maps[chosen[-1]]), nan=1.0))
            agreement[chosen] = np.inf
            chosen.append(int(agreement.argmin()))
        return chosen

    def cross_modal_query(self) -> int:
        """The genomic query that receives the largest total attention from the histology queries (Figures 7 and 8)."""
        queries = len(self.histology)
        return int(self.fusion[:queries, queries:].sum(axis=0).argmax())

    def cross_modal_heat(self, genomic_query: int) -> Float[np.ndarray, " patch"]:
        """What a genomic query reads of the tissue: its fusion attention to histology queries times their maps."""
        queries = len(self.histology)
        return self.fusion[queries + genomic_query, :queries] @ self.histology

    def related_queries(self, genomic_query: int, count: int = 3) -> list[int]:
        """The histology queries with the largest fusion attention of a genomic query."""
        queries = len(self.histology)
        return np.argsort(-self.fusion[queries + genomic_query, :queries], kind="stable")[:count].tolist()


def maps_of(fold: FittedFold, cohort: Cohort, bag: Tensor, case_id: str, *, trained: bool = True) -> QueryMaps:
    """The maps of a case with slides and expression; `bag` are its patches (patch, feature).

    `trained=False`: of the fold's model before its first training step.

    Raises DataError if the case lacks a modality, or the model has no queries of both modalities or no fusion of them.
    """
    model = fold.model if trained else initial_model(fold.config, fold.spec, fold.repeat, fold.index)
    table = fold.preprocessing.table(cohort)
    if case_id not in table.row or not len(bag) or not table.has_expression[table.row[case_id]]:
        raise DataError(
            [f"cohort {cohort.name}: maps need slides and expression; case {preview([case_id])} lacks one."]
        )
    batch = table.batch([case_id], [bag])
    histology, genomics, fusion = _attention(fold, model.eval(), batch)
    (of_patches,), of_genes = gradients(model, batch)
    positions = cohort.patch_positions(case_id)
    pathways = fold.spec.pathways
    mean = typical_expression(table, [case for case in table.row if digest_of(case) in fold.trained_on])
    return QueryMaps(
        case_id=case_id,
        histology=histology,
        genomics=genomics,
        fusion=fusion,
        patch_gradient=_numpy(of_patches.norm(dim=1)),
        patch_occlusion=without_regions(model, batch, patch_regions(positions)),
        pathway_gradient=np.array([float(of_genes[0, list(genes)].norm()) for genes in pathways]),
        pathway_occlusion=without_pathways(model, batch, pathways, mean),
        positions=positions,
        pathways=fold.gene_set_names[PATHWAYS],
    )


def correlations(
    maps: Float[np.ndarray, "*rows item"], other: Float[np.ndarray, " item"]
) -> Float[np.ndarray, "*rows"]:
    """The rank correlation of each map with another one (Spearman's); NaN where one of them is constant."""
    one, two = (rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (maps, other))
    lengths = np.sqrt((one**2).sum(axis=-1) * (two**2).sum())
    with np.errstate(invalid="ignore"):
        return np.where(lengths > 0, (one @ two) / lengths, np.nan)


@torch.no_grad()
def _attention(fold: FittedFold, model: SurvivalModel, batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    attention = model(batch, keep_attention=True).attention
    if attention is None or attention.histology is None or attention.genomics is None or not attention.fusion:
        raise DataError(
            [
                f"{fold.config.model} has no attention of histology and genomic queries and of their fusion. "
                f"Fix: use a SurvQ with queries of both modalities and a depth of 1 or more."
            ]
        )
    (histology,) = attention.histology
    assert histology is not None
    fusion = torch.stack([layer[0] for layer in attention.fusion]).mean(dim=0)
    return _numpy(histology), _numpy(attention.genomics[0]), _numpy(fusion)


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
