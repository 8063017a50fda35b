"""The report of a study: from its files alone, everything escaped, nothing loaded, no secrets."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from held_out_table import predictions, save_run

from survq.cli import main
from survq.reporting.document import Details, Document, Grid, Heading, Items, Paragraph, Section
from survq.reporting.report_sections import without_secrets
from survq.reporting.saved import saved_grid
from survq.training.report import Report
from survq.training.results import Results

EVIL = "<img src=x onerror=alert(1)>"
MARKUP = re.compile(r"(?<!\\)<(?!br>)")  # in Markdown: not escaped


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of a cohort, two models, a search and a diverged run, all with evil names; and its report."""
    results = Results(tmp_path_factory.mktemp("reports") / "study")
    table = predictions(90)
    table["case_id"] = table["case_id"].replace("C000", EVIL)
    save_run(results, "run", table, cohort=EVIL)
    save_run(results, "other", predictions(90, seed=1), cohort=EVIL, model="snn", rate=EVIL)
    save_run(results, "trial", table, cohort=EVIL, group="outer-0-0/trial-000")
    config = {"cohort": EVIL, "group": "", "model": "snn", "hyperparameters": {}, "training": {"seed": 3}}
    results.save("diverged", config, Report("diverged", (), reason=f"the loss became nan {EVIL}"))
    address = "s3://KEY-CANARY:SECRET-CANARY@bucket/data?token=TOKEN-CANARY"
    (results.folder / "study.json").write_text(json.dumps({"data": address, "cohorts": [EVIL], "results": "r"}))
    counts = {"cases": 99, "events": 40, "excluded": {f"no slides {EVIL}": 9}, "not_applicable": {"snn": EVIL}}
    about = {"protocol": f"paper {EVIL}", "simulated": True, "cohorts": {EVIL: counts}}
    (results.folder / "about.json").write_text(json.dumps(about))
    (results.folder / "tables").mkdir()
    pd.DataFrame({"cohort": [EVIL], "case_id": ["C001"], "c": [0.71234567]}).to_csv(
        results.folder / "tables/ranks.csv", index=False
    )
    (results.folder / "tables/table_1.md").write_text(
        f"| a | b |\n| --- | --- |\n| {EVIL} | **0.7**<br>[0.6] |\n\ncap {EVIL}\n"
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_SECRET_ACCESS_KEY", "ENVIRONMENT-CANARY")
        assert main(["report", str(results.folder)]) == 0
    return results


def test_a_report_is_one_page_without_loads_in_which_all_names_are_text(study):
    html, markdown = ((study.folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    sources = [value for name, value in page.attributes if name == "src"]
    assert sources and all(value.startswith("data:image/png;base64,") for value in sources)
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert ("http-equiv", "Content-Security-Policy") in page.attributes
    assert any(name == "content" and value.startswith("default-src 'none'") for name, value in page.attributes)
    for expected in (EVIL, "Simulated data", "no slides", "0.712", "[0.6]", "diverged, the loss became nan", "trial"):
        assert expected in page.text, expected
    assert "\\<img src=x" in markdown and not MARKUP.search(markdown)
    everything = html + markdown + (study.folder / "tables/metrics.csv").read_text()
    assert "CANARY" not in everything and "C001" not in everything, "keys or ids"
    for section in ("What was asked", "Cohorts", "Calibration", "Learning curves", "Search", "Reporting checklist"):
        assert section in page.text and f"## {section}" in markdown
    for name in re.findall(r"\]\((figures/report/.*?)\)", markdown):
        assert (study.folder / name).read_bytes()[:4] == b"\x89PNG"


def test_a_report_is_the_same_again_and_its_paths_are_printed(study, capsys):
    first = (study.folder / "report.html").read_bytes()
    main(["report", str(study.folder)])
    assert (study.folder / "report.html").read_bytes() == first
    printed = capsys.readouterr().out
    assert str(study.folder / "report.html") in printed and "CANARY" not in printed


def test_studies_without_results_or_with_few_files_have_a_report(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "study.json").write_text("{}")
    assert main(["report", str(folder)]) == 0
    assert "No run with held-out predictions has finished." in (folder / "report.md").read_text()
    save_run(Results(folder), "bare", predictions(60).drop(columns=[f"hazard_{k}" for k in range(4)]))
    assert main(["report", str(folder)]) == 0
    assert "the run has no hazards" in (folder / "report.md").read_text()


def test_a_report_says_which_runs_are_missing(study, tmp_path):
    folder = Path(shutil.copytree(study.folder, tmp_path / "study"))
    about = json.loads((folder / "about.json").read_text())
    plan = {"run": ("survq seed 0", 1), "gone": (f"survq {EVIL}", 1), "trial": ("outer-0-0", 3)}
    about["plan"] = {path: {"label": label, "runs": runs} for path, (label, runs) in plan.items()}
    (folder / "about.json").write_text(json.dumps(about))
    main(["report", str(folder)])
    page = Page((folder / "report.html").read_text())
    assert "Incomplete: runs are missing." in page.text and "3 runs have no result" in page.text
    assert f"survq {EVIL}" in page.text and "1 of 3" in page.text and "0 of 1" in page.text
    assert "survq seed 0" not in page.text and "is of its last end" in page.text
    assert "Incomplete" not in (study.folder / "report.md").read_text(), "an older study has no plan"


def test_what_is_no_study_is_refused(tmp_path, capsys):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/study.json").write_text("{}")
    assert main(["report", str(tmp_path)]) == 64
    assert "it has the studies 'one'" in capsys.readouterr().err


def test_blocks_as_markdown():
    blocks = [Heading("a*b"), Paragraph("x\ny"), Items(["1", "2"]), Details("d", [Grid(["h"], [["p|q\nr"]], "c")])]
    text = Document("t", ["l"], [Section("s", blocks)], footer="f").to_markdown("figures")
    assert (
        text
        == "# t\n\nl\n\n## s\n\n### a\\*b\n\nx y\n\n* 1\n* 2\n\n### d\n\n| h |\n| --- |\n| p\\|q<br>r |\n\nc\n\nf\n"
    )


def test_a_saved_table_has_intervals_in_one_cell_and_no_ids(tmp_path):
    table = pd.DataFrame({"case_id": ["C1", "C2"], "c_index": [0.5, 0.61], "drop": [0.123456, None]})
    table = table.assign(
        drop_low=[0.1, None], drop_high=[0.2, None], difference=[-0.1, 0], low=-0.2, high=0.3, best=[True, False]
    )
    table.to_csv(tmp_path / "a.csv", index=False)
    grid = saved_grid(tmp_path / "a", 60)
    assert grid.header == ["C-index", "drop", "difference", "best"]
    assert grid.rows == [
        ["0.500", "0.123\n[0.100, 0.200]", "-0.100\n[-0.200, 0.300]", "yes"],
        ["0.610", "–", "0.000\n[-0.200, 0.300]", "no"],
    ]


def test_addresses_without_secrets():
    assert without_secrets("gs://user:key@bucket/a?token=1") == "gs://bucket/a"
    assert without_secrets("/home/a@b/data?x") == "/home/a@b/data?x"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_shows_the_page_without_errors(study, tmp_path):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    address = (study.folder / "report.html").as_uri()
    shown = subprocess.run(
        [*command, f"--user-data-dir={tmp_path}", address], capture_output=True, text=True, timeout=60
    )
    assert "CONSOLE" not in shown.stderr
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown.stdout and "<img src=x" not in shown.stdout
