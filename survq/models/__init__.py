"""MODELS: one line per model, in the order of tables."""

from survq.models.abmil import ABMIL
from survq.models.abmil_pathways import ABMILPathways
from survq.models.amisl import AMISL
from survq.models.base import Prediction, SurvivalModel
from survq.models.ccl import CCL
from survq.models.clinical_cox import ClinicalCox
from survq.models.clinical_survq import ClinicalSurvQ
from survq.models.gene_cox import GeneCox
from survq.models.hsfsurv import HSFSurv
from survq.models.kaplan_meier import KaplanMeier
from survq.models.mcat import MCAT
from survq.models.mlp import MLP
from survq.models.mmp import MMP
from survq.models.mome import MoME
from survq.models.motcat import MOTCat
from survq.models.pathway_cox import PathwayCox
from survq.models.pibd import PIBD
from survq.models.porpoise import Porpoise
from survq.models.snn import SNN
from survq.models.survpath import SurvPath
from survq.models.survq import SurvQ

TABLE_1: dict[str, type[SurvivalModel]] = {
    "mlp": MLP,
    "snn": SNN,
    "amisl": AMISL,
    "abmil": ABMIL,
    "porpoise": Porpoise,
    "mcat": MCAT,
    "motcat": MOTCat,
    "survpath": SurvPath,
    "pibd": PIBD,
    "mmp": MMP,
    "ccl": CCL,
    "hsfsurv": HSFSurv,
    "mome": MoME,
    "survq": SurvQ,
}
"""The models of the paper's Table 1, in its order."""

REFERENCES: dict[str, type[SurvivalModel]] = {
    "kaplan_meier": KaplanMeier,
    "clinical_cox": ClinicalCox,
    "gene_cox": GeneCox,
    "pathway_cox": PathwayCox,
    "abmil_pathways": ABMILPathways,
    "clinical_survq": ClinicalSurvQ,
}
"""Simple models beside which they are shown."""

MODELS = TABLE_1 | REFERENCES

__all__ = ["MODELS", "REFERENCES", "TABLE_1", "Prediction", "SurvivalModel"]
