"""The preset `rare`: the curve of one nested training, beside trainings of each number of queries.

    pytest -m slow -s tests/science/test_nested_worlds.py     # 4 minutes on one core; -s shows the table

Both modalities have the same number of queries. The nested model is trained for as many epochs as each of the others.
"""

import io

import pandas as pd
import pytest
from planted import Planted, show, train, train_in_turns

from survq.evaluation.concordance import fold_concordance
from survq.training.config import TrainConfig
from survq.training.record import CURVE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the first test waits for all training

WORLDS = (0, 1, 2, 3)
COUNTS = (1, 4, 16, 32)


def config(count: int, **hyperparameters) -> TrainConfig:
    counts = {"width": 32, "block": "residual", "histology_queries": count, "genomic_queries": count}
    return TrainConfig(
        hyperparameters=counts | hyperparameters, learning_rate=1e-3, epochs=20, expression_scale="zscore"
    )


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> pd.DataFrame:
    """By world and count: the C-index of the nested curve and of the training of this count, and seconds of CPU."""
    root = tmp_path_factory.mktemp("worlds")
    rows = []
    for world in WORLDS:
        planted = Planted.draw("rare", world, root)
        if not rows:
            train(planted, config(1))  # the first training of a process is slower
        configs = {"nested": config(max(COUNTS), nested_queries=True)} | {count: config(count) for count in COUNTS}
        outcomes = train_in_turns(planted, configs)
        nested, nested_seconds = outcomes["nested"]
        curve = pd.read_parquet(io.BytesIO(nested.files[CURVE]))
        for count in COUNTS:
            own = curve[(curve["histology_queries"] == count) & (curve["genomic_queries"] == count)]
            (on_curve,) = fold_concordance(own)["c_index"]
            alone, seconds = outcomes[count]
            rows.append((world, count, on_curve, alone.epochs[-1].c_index[0], nested_seconds / len(COUNTS), seconds))
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["world", "count", "nested", "alone", "nested_seconds", "seconds"])
    show(table.pivot(index="world", columns="count", values=["nested", "alone"]))
    show(table.groupby("count")[["nested", "alone"]].mean().T)
    by_world = table.groupby("world")[["nested_seconds", "seconds"]].sum()
    show(by_world.assign(share=by_world["nested_seconds"] / by_world["seconds"]))
    return table


def test_the_curve_is_that_of_separate_trainings(figures):
    """In the mean over worlds: in each world, a training with another seed moves a point of either curve as much."""
    mean = figures.groupby("count")[["nested", "alone"]].mean()
    assert ((mean["nested"] - mean["alone"]).abs() <= 0.015).all()
