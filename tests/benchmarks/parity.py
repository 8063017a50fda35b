"""Whether the fast branch learns what the equations learn: the same trials by both, on a cohort of known truth."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from survq.data.cohort import Cohort
from survq.data.folds import make_folds
from survq.models import MODELS
from survq.models.survq import SurvQ
from survq.simulation.data_folder import write_simulated
from survq.training.config import TrainConfig
from survq.training.loop import train_folds
from survq.training.run import Run

from .measure import Row, at_most
from .work import CPU

SMALL = {"histology_queries": 64, "genomic_queries": 32, "width": 32}
NO_DROPOUT = {"patch_dropout": 0.0, "pathway_dropout": 0.0}


class Equations(SurvQ):
    """SurvQ as the equations write it: who asks for its attention gets every product and every weight of them."""

    def forward(self, batch, *, keep_attention=False):
        return super().forward(batch, keep_attention=True)


def parity(quick: bool) -> list[Row]:
    """Means over seeds and folds after the last epoch. With dropout, both drop the same share of other patches."""
    MODELS["survq_equations"] = Equations
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_simulated(Path(folder), "demo", cases=200)
            cohort = Cohort.load(folder, "SIM")
            with_dropout = _both(cohort, SMALL, seeds=1 if quick else 5)
            without = _both(cohort, SMALL | NO_DROPOUT, seeds=1 if quick else 2)
    finally:
        del MODELS["survq_equations"]
    return [
        _c_index("parity_c_index", with_dropout, 0.01),
        _c_index("parity_no_dropout", without, 0.001),
        _loss("parity_loss", with_dropout),
    ]


Results = list[tuple[float, float]]  # C-index and training loss, by seed


def _both(cohort: Cohort, hyperparameters: dict, seeds: int) -> tuple[Results, Results]:
    trials = [
        [_train(model, hyperparameters, seed, cohort) for model in ("survq", "survq_equations")]
        for seed in range(seeds)
    ]
    return [ours for ours, _ in trials], [theirs for _, theirs in trials]


def _c_index(name: str, results: tuple[Results, Results], bar: float) -> Row:
    ours, theirs = ([c_index for c_index, _ in side] for side in results)
    by_seed = ", ".join(f"{a:.3f} {b:.3f}" for a, b in zip(ours, theirs, strict=True))
    apart = abs(statistics.mean(ours) - statistics.mean(theirs))
    return at_most(name, apart, bar, "apart, mean of seeds", f"fast and equations by seed {by_seed}")


def _loss(name: str, results: tuple[Results, Results]) -> Row:
    ours, theirs = (statistics.mean(loss for _, loss in side) for side in results)
    note = f"training loss {ours:.4f}, of the equations {theirs:.4f}"
    return at_most(name, abs(ours / theirs - 1), 0.01, "relative, mean of seeds", note)


def _train(model: str, hyperparameters: dict, seed: int, cohort: Cohort) -> tuple[float, float]:
    """C-index and training loss of the last epoch, means over folds."""
    bags = cohort.bags()
    config = TrainConfig(model=model, hyperparameters=hyperparameters, epochs=20, learning_rate=2e-3, seed=seed)
    run = Run(cohort.name, config, tuple(make_folds(cohort.cases, 3)))
    last = train_folds(run, cohort, bags, device=CPU).epochs[-1]
    return last.mean_c_index, statistics.mean(last.training_loss)
