"""Trained models whose weights were kept are told which modalities they use, from the folder of the study and data."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from study_files import run

from survq.data.cohort import Cohort
from survq.data.folds import make_folds
from survq.data.location import Location, parquet
from survq.data.write import write_cohort
from survq.interpretation.modality_shuffle import CannotShuffle, shuffled_risks
from survq.models import MODELS
from survq.models.abmil import ABMIL
from survq.reporting.fusion import is_fused
from survq.reporting.fusion_shuffle import shuffle_table
from survq.reporting.report_material import material_of
from survq.simulation.cohort import World
from survq.simulation.gene_sets import draw_gene_sets
from survq.simulation.worlds import PRESETS
from survq.training.config import TrainConfig
from survq.training.loop import train_folds
from survq.training.queue import Grid, RunQueue
from survq.training.record import read_record
from survq.training.results import Results
from survq.training.run import Run

BLIND = "blind_to_genes"
CORRELATION = 0.75  # of the genes with the part of the hazard that the slides show


class BlindToGenes(ABMIL):
    """A model that is given slides and genes, and reads slides."""

    reads = frozenset({"histology", "genomics"})
    needs = frozenset({"histology"})


@pytest.fixture(scope="module")
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, BLIND, BlindToGenes)
        yield


def write_world(root, seed=0, shift=0.0):
    """Slides alone change the hazard; all genes are correlated with what they show."""
    config = replace(PRESETS["demo"], patches=24, pathways=8, effect_histology=2.0, effect_genomics=0.0, world=seed)
    simulated = World(config).cohort(160, seed)
    h = simulated.truth["h"]
    score = (h - h.mean()) / h.std()
    random = np.random.default_rng(seed)
    genes = simulated.expression
    common = CORRELATION * score.loc[genes.index] + np.sqrt(1 - CORRELATION**2) * random.normal(size=len(genes))
    genes = (0 * genes + shift + 0.3 * random.normal(size=genes.shape)).add(common, axis=0).astype(np.float32)
    sets = draw_gene_sets(config, simulated.world.transcriptome)
    write_cohort(root, "SIM", cases=simulated.cases, expression=genes, slides=simulated.slides(), gene_sets=sets)


@pytest.fixture(scope="module")
def study(known, tmp_path_factory):
    """A study of a model of slides and genes, one that does not read the genes, and one of each modality."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("audited")
    write_world(folder / "data")
    cohort = Cohort.load(folder / "data", "SIM")
    both = cohort.select(cohort.cases.index[cohort.has_slides & cohort.has_expression])
    folds = tuple(make_folds(both.cases, 2))
    configs = [
        TrainConfig("abmil_pathways", {"width": 16}, learning_rate=2e-3, epochs=2),
        TrainConfig(BLIND, learning_rate=2e-3, epochs=6),
        TrainConfig("abmil", learning_rate=2e-3, epochs=1),  # knows less of the slides
        TrainConfig("pathway_cox", epochs=1),
    ]
    results, bags = Results(folder / "study"), cohort.bags()
    runs = [Run("SIM", config, folds, keep_weights=True) for config in configs]
    queue = RunQueue(Grid(runs), results, {"SIM": cohort})
    while (one := queue.take()) is not None:
        queue.end(one, train_folds(one, cohort, bags, keep_weights=True))
    (results.folder / "study.json").write_text(json.dumps({"data": str(folder / "data")}))
    return results.folder


@pytest.fixture
def copy(study, tmp_path):
    return shutil.copytree(study, tmp_path / "study")


def test_a_trained_model_that_reads_slides_only_is_told_so_by_the_shuffle_and_not_by_correlations(copy, capsys):
    assert run("fusion_audit", copy) == 0
    found = pd.read_csv(copy / "tables/fusion_shuffled.csv").set_index(["method", "shuffled"])
    assert found["reason"].isna().all()
    slides, genes = found.loc[(BLIND, "slides")], found.loc[(BLIND, "genes")]
    assert slides["verdict"] == "used" and slides["drop_low"] > 0 and slides["p"] < 0.01
    assert genes["verdict"] == "not read" and genes["drop"] == 0 and genes["p"] == 1 and genes["rank_agreement"] == 1
    correlations = pd.read_csv(copy / "tables/fusion_audit.csv").set_index("method")
    assert correlations.loc[BLIND, "genes_p"] < 0.05, "correlated genes are taken for read"
    assert found.loc[("abmil_pathways", "genes"), "rank_agreement"] < 0.99
    assert found.loc[("abmil_pathways", "genes"), "c_index"] == found.loc[("abmil_pathways", "slides"), "c_index"]
    assert (copy / "figures/fusion_shuffled_SIM.png").stat().st_size > 5000
    printed = capsys.readouterr().out
    assert "not read" in printed and "rank_agreement" in printed
    report = (copy / "report.md").read_text()
    assert "Fusion shuffled" in report and "not read" in report


def test_kept_models_give_the_risks_of_the_run(study):
    cohort = Cohort.load(study.parent / "data", "SIM")
    for file in study.glob("runs/SIM/[!p]*/report.json"):
        record = read_record(file.parent)
        keys = ["repeat", "fold", "case_id"]
        own = shuffled_risks([record], cohort, shuffles=1).own.sort_values(keys)["risk"]
        assert own.tolist() == pytest.approx(record.predictions.sort_values(keys)["risk"].tolist(), abs=1e-6)


def test_without_data_or_with_other_data_the_reason_stands_in_place_of_numbers(copy, tmp_path):
    said = []

    def reason(data):
        fused = [method for method in material_of(copy).methods if is_fused(method)]
        found = shuffle_table(fused, Location.at(data), said.append)
        assert len(found) == 4 and (found["verdict"] == "").all()
        assert found[["c_index", "c_index_shuffled", "drop", "drop_low", "p", "rank_agreement"]].isna().all(axis=None)
        return set(found["reason"])

    assert reason(tmp_path / "nowhere") == {"the data or the weights cannot be read"}
    assert "no cohort 'SIM'" in " ".join(said)
    write_world(tmp_path / "shifted", shift=1.0)
    assert reason(tmp_path / "shifted") == {"the data have changed since the run: 'expression'"}
    for file in copy.glob("runs/SIM/*/*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    assert reason(json.loads((copy / "study.json").read_text())["data"]) == {"the data or the weights cannot be read"}


def test_a_fold_with_one_case_that_has_slides_cannot_be_shuffled(study):
    cohort = Cohort.load(study.parent / "data", "SIM")
    (file,) = study.glob("runs/SIM/abmil_pathways*/report.json")
    record = read_record(file.parent)
    few = record.predictions.drop_duplicates(["repeat", "fold"])
    with pytest.raises(CannotShuffle, match="fewer than two held-out cases of fold 0 have histology"):
        shuffled_risks([replace(record, table=parquet(few))], cohort)


def test_other_weights_are_noticed(study):
    cohort = Cohort.load(study.parent / "data", "SIM")
    (file,) = study.glob("runs/SIM/abmil_pathways*/report.json")
    record = read_record(file.parent)
    other = record.predictions.assign(risk=record.predictions["risk"] + 0.2)
    with pytest.raises(CannotShuffle, match="gives other risks than those of the run"):
        shuffled_risks([replace(record, table=parquet(other))], cohort)
