import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from survq.evaluation.epochs import Epoch
from survq.evaluation.kaplan_meier import log_rank, risk_groups
from survq.reporting.figures import kaplan_meier_figure, learning_curves_figure, query_count_figure
from survq.reporting.tables import paper_table


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    n = 100
    risk = rng.normal(size=n)
    return pd.DataFrame(
        {
            "case_id": [f"case-{i}" for i in range(n)],
            "repeat": 0,
            "fold": np.arange(n) % 5,
            "time": rng.exponential(30 * np.exp(-risk)).round() + 1,
            "event": rng.random(n) < 0.6,
            "risk": risk,
        }
    )


def p_shown(axes):
    return axes.get_legend().get_title().get_text()


def drawn(figure: Figure, tmp_path):
    """Render a figure, because invalid figures fail only then."""
    path = tmp_path / "figure.png"
    figure.savefig(path)
    assert path.stat().st_size > 5000
    return figure


def test_kaplan_meier_shows_both_groups_p_and_numbers_at_risk(predictions, tmp_path):
    figure = drawn(kaplan_meier_figure(predictions, "BLCA"), tmp_path)
    curves, at_risk = figure.axes
    assert curves.get_title() == "BLCA"
    assert p_shown(curves) == "log-rank p < 0.001"
    groups = risk_groups(predictions)
    assert log_rank(groups).p_value < 0.001
    deaths = groups.groupby("high")["event"].sum()
    legend = [text.get_text() for text in curves.get_legend().get_texts()]
    assert legend == [f"low risk: {deaths[False]} of 50 died", f"high risk: {deaths[True]} of 50 died"]

    numbers = {(text.get_position()[0], text.get_position()[1]): int(text.get_text()) for text in at_risk.texts}
    ticks = sorted({tick for tick, _ in numbers})
    assert ticks[0] == 0 and numbers[0, 0] == numbers[0, 1] == 50
    for tick in ticks:
        for row, high in enumerate([False, True]):
            assert numbers[tick, row] == ((groups["high"] == high) & (groups["time"] >= tick)).sum()


def test_kaplan_meier_states_why_p_is_undefined(predictions, tmp_path):
    figure = drawn(kaplan_meier_figure(predictions.assign(risk=0.0), "constant"), tmp_path)
    assert p_shown(figure.axes[0]) == "log-rank test: all cases are in one risk group"
    assert len(figure.axes[0].get_legend().get_texts()) == 1
    figure = drawn(kaplan_meier_figure(predictions.assign(event=False), "censored"), tmp_path)
    assert p_shown(figure.axes[0]) == "log-rank test: no events"


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "log-rank p = 0."), (3.0, "log-rank p < 0.001")])
def test_p_is_printed_with_adequate_digits(predictions, shift, expected):
    noise = np.random.default_rng(1).normal(size=len(predictions))
    figure = kaplan_meier_figure(predictions.assign(risk=shift * predictions["risk"] + noise), "")
    assert p_shown(figure.axes[0]).startswith(expected)


def query_table(**more):
    grid = [(400, 128), (300, 128), (200, 128), (300, 256), (300, 64)]
    rows = [
        {
            "cohort": cohort,
            "histology_queries": histology,
            "genomic_queries": genomic,
            "c_index": base + histology / 1e4 + genomic / 1e5,
            "deviation": 0.05,
            "low": base - 0.05,
            "high": base + 0.1,
            "folds": 5,
            "n_cases": 100,
            "n_events": 30,
            "seed": 0,
            **more,
        }
        for histology, genomic in grid
        for cohort, base in [("BRCA", 0.7), ("BLCA", 0.6)]
    ]
    return paper_table(pd.DataFrame(rows), ["histology_queries", "genomic_queries", *more])


def test_query_counts_have_one_panel_per_modality_and_one_line_per_cohort(tmp_path):
    figure = drawn(query_count_figure(query_table(), oracle={"BRCA": 0.83}), tmp_path)
    for axes, counts, title in zip(
        figure.axes,
        [[200, 300, 400], [64, 128, 256]],
        ["with 128 genomic queries", "with 300 histology queries"],
        strict=True,
    ):
        lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
        assert set(lines) == {"BRCA", "BLCA"}
        assert [int(label.get_text()) for label in axes.get_xticklabels()] == counts
        np.testing.assert_allclose(lines["BLCA"].get_xdata(), counts, rtol=0.05)
        assert axes.get_title() == title
        assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [0.83]
    left = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(left["BRCA"].get_ydata(), [0.7 + h / 1e4 + 128 / 1e5 for h in (200, 300, 400)])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["BRCA", "BLCA", "95 % interval", "true risk"]


def test_query_counts_may_be_a_single_one_or_0(tmp_path):
    table = query_table()
    for histology in (300, 0):
        one = table.cells[table.cells["histology_queries"] == 300].assign(histology_queries=histology)
        (axes,) = drawn(query_count_figure(type(table)(one, table.rows, table.columns)), tmp_path).axes
        assert axes.get_title() == f"with {histology} histology queries"


def test_a_table_that_varies_other_settings_is_refused():
    table = query_table(depth=1)
    query_count_figure(table)
    table.cells.loc[0, "depth"] = 2
    with pytest.raises(ValueError, match=r"varies \['depth'\]"):
        query_count_figure(table)
    with pytest.raises(ValueError, match=r"without \['genomic_queries'\]"):
        query_count_figure(type(table)(table.cells, ("histology_queries",), "cohort"))


def test_learning_curves_have_one_line_per_fold_and_their_mean(tmp_path):
    epochs = [
        Epoch(
            e, [e + fold for fold in (0.0, 1.0, 2.0)], [10 * (e + fold) for fold in (0.0, 1.0, 2.0)], [0.5, 0.6, np.nan]
        )
        for e in (1, 2, 3)
    ]
    figure = drawn(learning_curves_figure(epochs, "BLCA"), tmp_path)
    loss, c_index = figure.axes
    assert (len(loss.lines), len(c_index.lines)) == (8, 5)  # folds, means and the line at 0.5
    *folds, training, _, _, _, validation = loss.lines
    assert training.get_linewidth() > folds[0].get_linewidth()
    assert training.get_xdata().tolist() == [1, 2, 3]
    assert (training.get_ydata().tolist(), validation.get_ydata().tolist()) == ([2, 3, 4], [20, 30, 40])
    assert c_index.lines[3].get_ydata().tolist() == pytest.approx([0.55, 0.55, 0.55])


def test_figures_are_not_kept_by_pyplot(predictions):
    """pyplot would keep every figure of a long study in memory."""
    kaplan_meier_figure(predictions, "")
    query_count_figure(query_table())
    assert pyplot.get_fignums() == []
