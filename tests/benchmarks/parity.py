"""Whether the fast branch learns what the equations learn: the same trials by both, on a cohort whose truth is known."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch

from survq.data.cohort import Cohort
from survq.data.features import FeatureStore
from survq.data.folds import make_folds
from survq.data.simulate import write_simulated
from survq.models import MODELS
from survq.models.survq import SurvQ
from survq.training.config import Run, TrainConfig
from survq.training.loop import train_folds

from .measure import Row, at_most
from .work import CPU

SEEDS = 5
SMALL = {"histology_queries": 64, "genomic_queries": 32, "width": 32}


class Equations(SurvQ):
    """SurvQ as the equations write it: who asks for its attention gets every product and every weight of them."""

    def forward(self, batch, *, keep_attention=False):
        return super().forward(batch, keep_attention=True)


def parity(quick: bool) -> list[Row]:
    """Mean C-index and training loss after the last epoch; dropout as configured, so its masks differ."""
    MODELS["survq_equations"] = Equations
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_simulated(Path(folder), "demo", cases=200)
            cohort = Cohort.load(folder, "SIM")
            pairs = [
                (_train("survq", seed, cohort), _train("survq_equations", seed, cohort))
                for seed in range(1 if quick else SEEDS)
            ]
    finally:
        del MODELS["survq_equations"]
    by_seed = ", ".join(f"{ours[0]:.3f} {theirs[0]:.3f}" for ours, theirs in pairs)
    (c_index, loss), (c_equations, loss_equations) = (
        tuple(statistics.mean(values) for values in zip(*side, strict=True)) for side in zip(*pairs, strict=True)
    )
    return [
        at_most("parity_c_index", abs(c_index - c_equations), 0.01, "apart, mean of seeds", f"by seed {by_seed}"),
        at_most(
            *("parity_loss", abs(loss / loss_equations - 1), 0.01, "apart, mean of seeds"),
            f"training loss {loss:.4f}, of the equations {loss_equations:.4f}",
        ),
    ]


def _train(model: str, seed: int, cohort: Cohort) -> tuple[float, float]:
    """C-index and training loss of the last epoch, means over folds."""
    store = FeatureStore(cohort.features)
    bags = {
        case: torch.from_numpy(store.read(list(rows["slide_id"])).copy())
        for case, rows in cohort.slides.groupby("case_id")
    }
    config = TrainConfig(model=model, hyperparameters=SMALL, epochs=20, learning_rate=2e-3, seed=seed)
    last = train_folds(Run(cohort.name, config, tuple(make_folds(cohort.cases, 3))), cohort, bags, device=CPU).epochs[-1]
    return last.mean_c_index, statistics.mean(last.training_loss)
