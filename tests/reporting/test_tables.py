import numpy as np
import pandas as pd
import pytest

from survq.reporting.tables import paper_table

# Table 3 of the paper for three cohorts: histology and genomic queries, then mean and deviation by cohort
TABLE_3 = {
    (400, 128): [(0.743, 0.046), (0.657, 0.037), (0.813, 0.095)],
    (300, 128): [(0.794, 0.062), (0.677, 0.047), (0.812, 0.079)],
    (300, 64): [(0.800, 0.039), (0.679, 0.045), (0.807, 0.098)],
}
SIZES = {"BRCA": (869, 70), "BLCA": (359, 113), "COADREAD": (296, 37)}
ROWS = ["histology_queries", "genomic_queries"]


def record(cohort="BLCA", c_index=0.65, seed=0, **settings):
    cases, events = SIZES.get(cohort, (100, 30))
    measured = {"c_index": c_index, "deviation": 0.05, "low": c_index - 0.06, "high": c_index + 0.04, "folds": 5}
    return {"cohort": cohort, "seed": seed, "n_cases": cases, "n_events": events, **measured, **settings}


def records():
    rows = []
    for (histology, genomic), cells in TABLE_3.items():
        for cohort, (mean, deviation) in zip(SIZES, cells, strict=True):
            settings = {"histology_queries": histology, "genomic_queries": genomic, "depth": 1}
            rows.append(record(cohort, mean, deviation=deviation, **settings))
    return pd.DataFrame(rows)


def test_the_layout_is_that_of_the_paper():
    assert str(paper_table(records(), ROWS)).splitlines() == [
        "histology  genomic  BRCA            BLCA            COADREAD        Avg.",
        "queries    queries  70/869 events   113/359 events  37/296 events",
        "─────────  ───────  ──────────────  ──────────────  ──────────────  ─────",
        "400        128      0.743 ± 0.046   0.657 ± 0.037   0.813 ± 0.095   0.738",
        "                    [0.683, 0.783]  [0.597, 0.697]  [0.753, 0.853]",
        "",
        "300        128      0.794 ± 0.062   0.677 ± 0.047   0.812 ± 0.079   0.761",
        "                    [0.734, 0.834]  [0.617, 0.717]  [0.752, 0.852]",
        "",
        "300        64       0.800 ± 0.039   0.679 ± 0.045   0.807 ± 0.098   0.762",
        "                    [0.740, 0.840]  [0.619, 0.719]  [0.747, 0.847]",
        "",
        "C-index after the last epoch: mean ± population standard deviation over 5",
        "folds; below, the 95 % interval by patient bootstrap.",
    ]


def test_markdown_has_one_line_per_row():
    lines = paper_table(records(), ROWS).to_markdown().splitlines()
    assert lines[0] == (
        "| histology<br>queries | genomic<br>queries | BRCA<br>70/869 events | BLCA<br>113/359 events "
        "| COADREAD<br>37/296 events | Avg. |"
    )
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert lines[2].startswith("| 400 | 128 | 0.743 ± 0.046<br>[0.683, 0.783] |")
    assert len(lines) == 2 + 3 + 2


def test_a_bar_in_a_name_does_not_break_the_markdown():
    table = paper_table(pd.DataFrame([record(model="a|b")]), ["model"])
    assert "| a\\|b |" in table.to_markdown()


def test_cohorts_of_the_paper_come_first_in_its_order():
    table = paper_table(pd.DataFrame([record(cohort, model="survq") for cohort in ("OURS", "STAD", "BRCA")]), ["model"])
    assert str(table).splitlines()[0].split() == ["model", "BRCA", "STAD", "OURS", "Avg."]


def test_the_average_needs_every_cohort():
    partial = records().iloc[1:]  # BRCA with 400 queries is not finished
    table = paper_table(partial, ROWS)
    assert np.isnan(table.average.loc[(400, 128)])
    assert table.average.loc[(300, 128)] == pytest.approx((0.794 + 0.677 + 0.812) / 3)
    unfinished = str(table).splitlines()[3]
    assert unfinished.split()[2] == "–" and unfinished.split()[-1] == "–"


def test_an_undefined_c_index_is_shown_and_not_averaged():
    table = paper_table(pd.DataFrame([record("BLCA", np.nan, model="survq"), record("BRCA", model="survq")]), ["model"])
    assert "undefined" in str(table) and "nan" not in str(table)
    assert table.average.isna().all()


def test_seeds_are_averaged_and_counted():
    runs = [record(c_index=c, seed=seed, model="survq") for seed, c in enumerate([0.60, 0.63, 0.69])]
    table = paper_table(pd.DataFrame([*runs, record(c_index=0.5, model="mlp")]), ["model"])
    cell = table.cells.set_index("model").loc["survq"]
    assert (cell["mean"], cell["low"], cell["high"], cell["seeds"]) == pytest.approx((0.64, 0.58, 0.68, 3))
    assert "mean over 1–3 seeds" in str(table).replace("\n", " ")


def test_runs_that_differ_in_more_than_the_seed_are_refused():
    runs = pd.DataFrame([record(model="survq", depth=1), record(model="survq", depth=2, seed=1)])
    with pytest.raises(ValueError, match=r"differ in \['depth'\]"):
        paper_table(runs, ["model"])
    assert len(paper_table(runs, ["model", "depth"]).cells) == 2
    with pytest.raises(ValueError, match=r"differ in \['n_cases'\]"):
        paper_table(pd.DataFrame([record(), record(seed=1, n_cases=358)]), [])
    with pytest.raises(ValueError, match="1 records repeat the settings, cohort and seed of another"):
        paper_table(pd.DataFrame([record(model="survq"), record(model="survq")]), ["model"])


def test_missing_columns_and_missing_runs_are_reported():
    with pytest.raises(ValueError, match=r"lack the columns \['width', 'low'\]"):
        paper_table(records().drop(columns="low"), ["width"])
    with pytest.raises(ValueError, match="at least one finished run"):
        paper_table(records().iloc[:0], ROWS)


def test_one_fold_has_no_deviation():
    table = str(paper_table(pd.DataFrame([record(folds=1, deviation=0.0, model="survq")]), ["model"]))
    assert (
        "0.650" in table and "±" not in table and "C-index after the last epoch: one fold" in table.replace("\n", " ")
    )


def test_settings_of_every_kind_are_printed():
    runs = [
        record(model="survq", learned=True, rate=5e-4, widths=[256, 128], queries=300),
        record(model="mlp", learned=False, rate=1e-3, widths=[64], queries=None),
    ]
    lines = str(paper_table(pd.DataFrame(runs), ["model", "learned", "rate", "widths", "queries"])).splitlines()
    assert lines[3].split()[:6] == ["survq", "✓", "0.0005", "[256,", "128]", "300"]
    assert lines[6].split()[:4] == ["mlp", "0.001", "[64]", "–"]


def test_saved_numbers_are_read_back_unchanged(tmp_path):
    tried = records().assign(configurations=16)
    table = paper_table(tried, ROWS)
    csv, markdown = table.save(tmp_path / "tables" / "table.3")
    assert (csv.name, markdown.name) == ("table.3.csv", "table.3.md")
    back = pd.read_csv(csv)
    pd.testing.assert_frame_equal(back, table.cells)
    measured = ["cohort", "mean", "deviation", "low", "high", "folds", "cases", "events", "seeds", "configurations"]
    assert list(back.columns) == [*ROWS, *measured]
    assert back["configurations"].eq(16).all()
    assert markdown.read_text(encoding="utf-8") == table.to_markdown()
    assert "Configurations tried per cell: 16." in markdown.read_text(encoding="utf-8")
