"""The harness works: what it says of pairs is right, the reference is survq, and the GPU script runs at a tiny size."""

import json

import pytest
import torch

from survq.training.learner import SURVIVAL

from . import __main__ as program
from . import gpu, measure, reference
from .work import FEATURES, WIDTH, make_run, make_work, put_beside, strict_fp32, useful_flops


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_ratios_are_medians_and_exponents_are_slopes():
    assert measure.ratio([(1.0, 3.0), (1.0, 2.0), (2.0, 20.0)]) == 3.0
    assert measure.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)


def test_rows_are_judged_and_skipped_ones_are_not():
    assert measure.at_least("speed", 8.9, 9, "x").holds is False
    assert measure.at_most("memory", 16, 16, "MiB").holds is True
    row = measure.skipped("speed", 9, "x", "no AMX")
    assert row.holds is None and row.as_json()["value"] is None and "SKIPPED" in str(row)


def test_useful_work_is_that_of_the_flop_table():
    assert useful_flops(12_000, training=False) == pytest.approx(19.7e9, rel=5e-3)
    assert useful_flops(12_000, training=True) == pytest.approx(46.6e9, rel=5e-3)


def test_the_reference_has_the_numbers_and_the_gradients_of_survq(tmp_path):
    work = make_work(10, 40, sizes=(1, 3, 3, 2))
    run = make_run(work, work.one_fold(), epochs=1, pathway_dropout=0.0, histology_queries=5, genomic_queries=3)
    with strict_fp32():
        both = put_beside(work, run, tmp_path, cases=3)
        learner = both.learner
        batch = learner.table.batch(work.case_ids[:3], [work.bags[case] for case in work.case_ids[:3]])
        learner.optimizer.step = lambda: None
        ours = learner.step(batch, 3, 0)[SURVIVAL]
    theirs = reference.accumulate(both.model, both.files, 3)
    assert ours / 3 == pytest.approx(theirs, rel=1e-5)
    for name, mine, other in reference.paired(learner.model, both.model, lambda parameter: parameter.grad):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5, msg=name)
    with torch.no_grad():
        both.model.hazard.bias += 0.1
    with pytest.raises(AssertionError), strict_fp32():
        reference.check(learner.model, both.model, batch)


def test_a_row_of_the_table_is_printed_and_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program, "BENCHMARKS", {("good", "left out"): good_and_other, ("bad",): bad})
    program.main(["--only", "good", "bad", "--json", str(tmp_path / "table.json")])
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["good"] == {"value": 2.0, "bar": 1.5, "holds": True, "unit": "x B0", "binds": True, "note": ""}
    assert table["bad"]["holds"] is False and "it broke" in table["bad"]["note"]
    assert "1 of 2 bars that bind here hold; missed: bad" in capsys.readouterr().out


def good_and_other(quick):
    return [measure.at_least("good", 2.0, 1.5, "x B0"), measure.at_least("left out", 1.0, 1.5, "x B0")]


def bad(quick):
    raise RuntimeError("it broke")


def test_conversions_of_features_are_counted():
    half, weight = torch.ones(2000, FEATURES).half(), torch.ones(FEATURES, WIDTH)
    with measure.HalfPrecisionWork() as nothing:
        weight @ weight.T
    with measure.HalfPrecisionWork() as conversion:
        half.float() @ weight
    assert nothing.seconds == 0 < conversion.seconds


def test_the_gpu_script_runs_without_a_gpu():
    seconds, utilisation, memory = gpu.brca(torch.device("cpu"), cases=20, patches=8, measured=1, width=16)
    assert seconds.value > 0 and utilisation.value > 0 and memory.value is None
    assert not seconds.binds
