"""A finished run predicts new cases. Incompatible cohorts and damaged runs are refused, and nothing is written."""

import pickle
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from survq.cli import main
from survq.data.cohort import Cohort
from survq.data.folds import given_folds
from survq.data.gene_sets import GeneSets
from survq.data.problems import DataError
from survq.data.write import Slide, write_cohort
from survq.evaluation.concordance import concordance_index
from survq.simulation.data_folder import write_simulated
from survq.training.config import TrainConfig
from survq.training.ensemble import ENSEMBLE, load_run, predict
from survq.training.queue import Grid, RunQueue
from survq.training.results import Results
from survq.training.run import Run

SMALL = {"histology_queries": 8, "genomic_queries": 8, "width": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two cohorts of one simulated world without common patients."""
    root = tmp_path_factory.mktemp("data")
    write_simulated(root, "demo", name="SIM")
    write_simulated(root, "demo", name="NEW", seed=1)
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a finished run with weights."""
    from survq.training.loop import train_folds

    torch.set_num_threads(1)
    cohort = Cohort.load(data, "SIM")
    config = TrainConfig("survq", SMALL, epochs=8, learning_rate=4e-3)
    run = Run("SIM", config, tuple(given_folds(cohort.splits, list(cohort.cases.index))), keep_weights=True)
    queue = RunQueue(Grid([run]), Results(tmp_path_factory.mktemp("results")), {"SIM": cohort})
    queue.end(queue.take(), train_folds(run, cohort, cohort.bags(), keep_weights=True))
    return queue.records[run.path].folder


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_new_cases_are_predicted_by_all_folds_and_the_ensemble(data, trained):
    record, folds = load_run(trained)
    new = Cohort.load(data, "NEW")
    assert not set(new.cases.index) & set(Cohort.load(data, "SIM").cases.index)
    bags = new.bags()
    found = predict(record, folds, new, bags)
    assert (found["seen"] == "new").all()
    assert found.groupby("model").size().to_dict() == dict.fromkeys(
        ["fold-0-0", "fold-0-1", "fold-0-2", ENSEMBLE], len(new.cases)
    )
    for fold in folds:
        own = found[found["model"] == fold.file.removesuffix(".safetensors")]
        cases = list(own["case_id"])
        batch = fold.preprocessing.table(new).batch(cases, [bags.get(case, torch.empty(0, 64)) for case in cases])
        with torch.no_grad():
            risk = fold.model(batch).risk
        assert own["risk"].to_numpy() == pytest.approx(risk.numpy(), abs=1e-6)

    together = found[found["model"] == ENSEMBLE].set_index("case_id").loc[new.cases.index]
    c_index = concordance_index(
        together["risk"].to_numpy(), new.cases["time"].to_numpy(float), new.cases["event"].to_numpy(bool)
    )
    assert c_index == pytest.approx(record.c_index, abs=0.03)

    few = predict(record, folds, new.select(list(new.cases.index[:5])), bags)
    expected = found[found["case_id"].isin(new.cases.index[:5])].reset_index(drop=True)
    pd.testing.assert_frame_equal(few.drop(columns="risk"), expected.drop(columns="risk"), atol=1e-6)


def test_cases_of_the_run_are_predicted_by_the_fold_that_held_them_out(data, trained):
    record, folds = load_run(trained)
    cohort = Cohort.load(data, "SIM")
    found = predict(record, folds, cohort, cohort.bags())
    by_fold = found[found["model"] != ENSEMBLE]
    assert (by_fold["seen"] == "held out").all() and by_fold["case_id"].is_unique
    expected = record.predictions.set_index("case_id").loc[by_fold["case_id"]]
    assert by_fold["risk"].to_numpy() == pytest.approx(expected["risk"].to_numpy(), abs=1e-6)
    # percentiles within the held-out cases of a fold: all folds have the same mean
    assert by_fold.groupby("model")["percentile"].mean().to_numpy() == pytest.approx(0.5, abs=0.01)


def test_a_model_of_covariates_predicts_new_cases_and_refuses_a_cohort_without_them(data, tmp_path):
    from survq.training.loop import train_folds

    cohort, new = Cohort.load(data, "SIM"), Cohort.load(data, "NEW")
    folds = tuple(given_folds(cohort.splits, list(cohort.cases.index)))
    run = Run("SIM", TrainConfig("clinical_cox", epochs=1), folds, keep_weights=True)
    queue = RunQueue(Grid([run]), Results(tmp_path), {"SIM": cohort})
    queue.end(queue.take(), train_folds(run, cohort, {}, keep_weights=True))
    record, fitted = load_run(queue.records[run.path].folder)
    some_men = new.select(list(new.cases.index[new.cases["sex"] == "male"][:20]))
    assert some_men.spec.clinical == ("age", "stage"), "but the model knows the effect of sex"
    found = predict(record, fitted, new, {}).set_index(["model", "case_id"])["risk"]
    of_men = predict(record, fitted, some_men, {}).set_index(["model", "case_id"])["risk"]
    other_features = replace(new, slides=new.slides.assign(encoder="another"))  # which the model does not read
    assert predict(record, fitted, other_features, {})["risk"].tolist() == found.tolist()
    assert np.allclose(found.loc[of_men.index], of_men)
    unstaged = replace(new, cases=new.cases.assign(stage=np.nan))
    with pytest.raises(DataError, match=r"cohort NEW: 'stage' of no case is known; the model reads it\. Fix"):
        predict(record, fitted, unstaged, {})


def test_a_percentile_counts_ties_one_half(trained):
    from survq.training.ensemble import _percentile

    assert _percentile(np.array([0.0, 1.0, 2.5, 9.0]), np.array([1.0, 2.0, 2.0, 3.0])).tolist() == [0, 0.125, 0.75, 1]


def changed(data, tmp_path, **parts):
    """A copy of the cohort NEW with other parts."""
    new = Cohort.load(data, "NEW")
    expression = parts.get("expression", new.expression)
    bags = new.bags()
    slides = [
        Slide(f"{case}-DX1", case, bag.numpy()[:, : parts.get("width", 64)], encoder=parts.get("encoder", "simulated"))
        for case, bag in bags.items()
    ]
    sets = GeneSets(("one",), (tuple(expression.columns[:3]),))
    write_cohort(
        tmp_path / "data", "X", cases=new.cases, expression=expression, slides=slides, gene_sets={"pathways": sets}
    )
    return tmp_path / "data"


def test_other_gene_sets_in_the_data_folder_do_not_matter(data, trained, tmp_path):
    """The models keep their own gene sets and find genes by name, in any order."""
    record, folds = load_run(trained)
    new = Cohort.load(data, "NEW")
    mixed = new.expression.iloc[:, ::-1].assign(FURTHER=1.0)
    other = Cohort.load(changed(data, tmp_path, expression=mixed), "X")
    found, expected = (predict(record, folds, cohort, cohort.bags()) for cohort in (other, new))
    merged = found.merge(expected, on=["case_id", "model"])
    assert len(merged) == len(expected)
    assert merged["percentile_x"].to_numpy() == pytest.approx(merged["percentile_y"].to_numpy(), abs=0.02)


REFUSED = {
    "a gene is missing": (
        lambda e: {"expression": e.drop(columns=["SIMGENE0003"])},
        "1 of the 426 genes of the model are missing: 'SIMGENE0003'.*Fix",
    ),
    "another scale": (lambda e: {"expression": e * 3 + 40}, "different scale of expression.*Fix"),
    "another encoder": (
        lambda _: {"encoder": "uni"},
        "patch features of uni, 64 wide; the model was trained on those of simulated, 64 wide. Fix",
    ),
    "another width": (lambda e: {"width": 32}, "patch features of simulated, 32 wide.*Fix"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_an_incompatible_cohort_is_refused(data, trained, tmp_path, capsys, change, message):
    folder = changed(data, tmp_path, **change(Cohort.load(data, "NEW").expression))
    output = tmp_path / "out.csv"
    assert main(["predict", str(trained), str(folder), "--cohort", "X", "--output", str(output)]) == 65
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not output.exists()


def rewrite(file, record_folder, content: bytes) -> None:
    """Replace the content of a file and update its checksum, as an attacker would."""
    import hashlib
    import json

    from survq.training.typed_json import to_json

    file.write_bytes(content)
    report = json.loads((record_folder / "report.json").read_bytes())
    report.pop("sha256")
    report["files"][file.name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    report["sha256"] = hashlib.sha256(to_json(report)).hexdigest()
    (record_folder / "report.json").write_bytes(to_json(report))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def damage(kind: str, folder) -> None:
    file = folder / "fold-0-1.safetensors"
    if kind == "a flipped bit":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif kind == "gone":
        file.unlink()
    elif kind == "a pickle":
        rewrite(file, folder, pickle.dumps(Bomb()))
    elif kind == "a larger model than its weights":
        tensors = load_file(file)
        from survq.training.tensor_file import read_tensor_file, tensor_file

        _, description = read_tensor_file(file)
        description["config"]["hyperparameters"]["width"] = 10**6
        rewrite(file, folder, tensor_file(tensors, description))
    elif kind == "no description":
        save_file(load_file(file), folder / "other")
        rewrite(file, folder, (folder / "other").read_bytes())


DAMAGED = {
    "a flipped bit": "does not match its checksum",
    "gone": "damaged|fold-0-1",
    "a pickle": "not a tensor file of survq",
    "a larger model than its weights": "the weights do not match the model",
    "no description": "not a tensor file of survq",
}


@pytest.mark.parametrize(("kind", "message"), DAMAGED.items(), ids=DAMAGED)
def test_damaged_or_hostile_weights_are_refused(copy, data, tmp_path, capsys, kind, message):
    damage(kind, copy)
    output = tmp_path / "out.csv"
    assert main(["predict", str(copy), str(data), "--cohort", "NEW", "--output", str(output)]) == 65
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Fix" in error and "Traceback" not in error and not output.exists()


def test_a_run_without_weights_is_refused(copy):
    record, _ = load_run(copy)
    report = replace(record.report, files={k: v for k, v in record.report.files.items() if "fold" not in k})
    with pytest.raises(DataError, match=r"the weights were not kept.*--keep-weights"):
        results = Results(copy.parent / "again")
        files = {"predictions.parquet": (copy / "predictions.parquet").read_bytes()}
        load_run(results.save("SIM/x", dict(record.config), report, files).folder)
    with pytest.raises(FileNotFoundError, match="no finished run"):
        load_run(copy.parent)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_command_writes_predictions_and_prints_a_summary(data, trained, tmp_path, capsys, suffix):
    output = tmp_path / f"out{suffix}"
    assert main(["predict", str(trained), str(data), "--cohort", "NEW", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    for part in ("3 fold models", "new cases", "C-index of the ensemble 0.", str(output)):
        assert part in printed
    table = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    assert list(table.columns[:5]) == ["case_id", "model", "seen", "risk", "percentile"]
    assert {"hazard_0", "hazard_3"} <= set(table)
    assert main(["predict", str(trained), str(data), "--cohort", "NEW", "--output", "x.xlsx"]) == 64
