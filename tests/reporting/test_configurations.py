import pandas as pd
from writers import CONFIG, report, save

from survq.data.folds import Fold
from survq.reporting.configurations import differing, index_table, short_labels
from survq.training.config import TrainConfig
from survq.training.results import Results
from survq.training.run import Run

FOLDS = (Fold(0, 0, ("A", "B"), ("C",)),)


def run(cohort="BLCA", group="", **settings) -> Run:
    return Run(cohort, TrainConfig(**settings), FOLDS, group)


def test_differing_returns_names_with_several_values():
    assert differing([{"a": 1, "b": 2, "c": [1]}, {"a": 1, "b": 3, "c": [1], "d": None}]) == ["b"]
    assert differing([{"a": 1}, {}]) == differing([{"a": 1}]) == differing([]) == []


def test_a_label_states_the_settings_in_which_runs_differ():
    runs = [
        run(hyperparameters={"depth": 0}, learning_rate=0.00051234567),
        run(learning_rate=1e-3, seed=1),
        run("BRCA", "outer-0-1/trial-003"),
    ]
    label = short_labels(runs)
    assert [label(run.path) for run in runs] == [
        "BLCA depth 0 learning_rate 0.000512 seed 0",
        "BLCA depth 1 learning_rate 0.001 seed 1",
        "BRCA outer-0-1 trial-003 depth 1 learning_rate 0.0005 seed 0",
    ]
    for alone in (runs[:1], runs[:1] * 2):
        assert short_labels(alone)(runs[0].path) == "BLCA survq"
    seeds = short_labels([run(seed=0), run(seed=1)])
    assert [seeds(run(seed=seed).path) for seed in range(2)] == ["seed 0", "seed 1"]


def test_the_index_has_one_row_per_run_and_the_differing_settings(tmp_path):
    results = Results(tmp_path)
    save(results, "BLCA/a")
    other = CONFIG | {"cohort": "BRCA", "hyperparameters": {"depth": 2}, "training": CONFIG["training"] | {"seed": 1}}
    save(results, "BRCA/x/b", config=other)
    results.save("BRCA/c", CONFIG | {"model": "mlp", "hyperparameters": {}}, report(state="stopped"))
    index = index_table(results.records(), results.runs)
    assert list(index) == [
        *("path", "cohort", "group", "model", "seed", "state", "c_index", "deviation", "low", "high", "depth")
    ]
    assert index[["path", "cohort", "model", "seed", "state"]].to_numpy().tolist() == [
        ["BLCA/a", "BLCA", "survq", 0, "finished"],
        ["BRCA/c", "BLCA", "mlp", 0, "stopped"],
        ["BRCA/x/b", "BRCA", "survq", 1, "finished"],
    ]
    assert index["depth"].tolist()[::2] == [1, 2] and pd.isna(index["depth"][1])
