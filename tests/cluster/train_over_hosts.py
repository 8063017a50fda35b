"""A run over the hosts: the driver, which the tests start on host 1.

    python train_over_hosts.py simulate FOLDER CASES PATCHES WIDTH
    python train_over_hosts.py train FOLDER RESULTS '{"folds": 4, "workers": 4, "epochs": 2, "width": 32}'

It says when an epoch has ended.
"""

import json
import sys
from pathlib import Path

import numpy as np

from survq.data.cohort import Cohort
from survq.data.folds import make_folds
from survq.data.write import Slide, write_cohort
from survq.ray_session import connect  # before all else that knows Ray
from survq.reporting.run_progress import Progress
from survq.settings import StudySettings
from survq.simulation.cohort import World
from survq.simulation.gene_sets import draw_gene_sets
from survq.simulation.worlds import WorldConfig
from survq.training.config import TrainConfig
from survq.training.queue import Grid, RunQueue
from survq.training.ray_runs import TrialResources, execute
from survq.training.results import Results
from survq.training.run import Run
from survq.training.shared_cohorts import SharedCohorts

NO_DROPOUT = {"patch_dropout": 0.0, "pathway_dropout": 0.0}


def runs(cohort: Cohort, folds: int, epochs: int, width: int, seeds: int = 1, dropout: bool = True) -> list[Run]:
    hyperparameters = {"histology_queries": 16, "genomic_queries": 16, "width": width} | ({} if dropout else NO_DROPOUT)
    configs = [TrainConfig(hyperparameters=hyperparameters, epochs=epochs, batch_size=8, seed=s) for s in range(seeds)]
    return [Run(cohort.name, config, tuple(make_folds(cohort.cases, folds))) for config in configs]


class Says(Grid):
    def should_stop(self, run, epochs):
        print(f"epoch {len(epochs)} of seed {run.config.seed}", flush=True)
        return False


def train(folder: str, results: str, workers: int, **chosen) -> int:
    connect()
    cohort = Cohort.load(folder, "SIM")
    trial = TrialResources.of(StudySettings(workers_per_trial=workers))
    shared = SharedCohorts({"SIM": cohort})
    shared.processes = trial.trials * max(1, trial.workers)
    schedule = Says(runs(cohort, **chosen))
    queue = RunQueue(schedule, Results(Path(results)), {"SIM": cohort}, [Progress(schedule)])
    execute(queue, shared, trial, checkpoint_minutes=0)
    return len(queue.failures)


def simulate(folder: str, cases: int, patches: int, width: int) -> None:
    """A simulated cohort, in place of its features noise of this size: larger worlds take minutes."""
    config, random = WorldConfig(cases=cases, held_out=0), np.random.default_rng(0)
    cohort = World(config).cohort(cases, seed=0)
    slides = (
        Slide(slide.slide_id, slide.case_id, random.standard_normal((patches, width), np.float32).astype(np.float16))
        for slide in cohort.slides()
    )
    gene_sets = draw_gene_sets(config, cohort.world.transcriptome)
    write_cohort(folder, "SIM", cases=cohort.cases, expression=cohort.expression, slides=slides, gene_sets=gene_sets)


if __name__ == "__main__":
    kind, folder, *rest = sys.argv[1:]
    if kind == "simulate":
        simulate(folder, *map(int, rest))
    else:
        sys.exit(train(folder, rest[0], **json.loads(rest[1])))
