"""A fifteenth model, as a user would write it: one file, and one line that lists it."""

from typing import ClassVar

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.hazard_head import HazardHead
from survq.layers.pathway_encoder import PathwayEncoder
from survq.models import MODELS
from survq.models.base import Prediction, SurvivalModel
from survq.models.space import Integers


class PathwayMean(SurvivalModel):
    """The mean of the pathways' tokens, and a linear layer."""

    reads = needs = frozenset({"genomics"})
    gene_sets = ("pathways",)
    space: ClassVar = {"width": Integers(8, 64, log=True)}
    sizes = ("width",)

    def __init__(self, spec: InputSpec, *, width: int = 32, dropout: float = 0.25):
        super().__init__()
        self.encode = PathwayEncoder(spec.pathways, width, dropout)
        self.hazard = HazardHead(width, spec.intervals)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        return Prediction(self.hazard(self.encode(batch.expression).mean(dim=1)))


MODELS["pathway_mean"] = PathwayMean
