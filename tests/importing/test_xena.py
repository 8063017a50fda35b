"""`survq fetch xena` against a local server with files in the formats of Xena's hubs."""

import gzip
import os

import numpy as np
import pandas as pd
import pytest
from web import Web

from survq.cli import main
from survq.data.cohort import Cohort
from survq.data.cohort_files import read_source
from survq.data.location import Location
from survq.data.lock import locked
from survq.importing.xena import EXPRESSION, GENE_MAPS, HUBS, SURVIVAL, fetch_xena

CASES = [f"TCGA-{site}-{number:04d}" for number, site in enumerate(["A1", "B2", "C3", "D4"] * 5)]
GENES = ["TP53", "BRCA1", "GATA3"]
IDS = {gene: f"ENSG{number:011d}.{number + 3}" for number, gene in enumerate(GENES)}


def survival() -> bytes:
    header = "sample\t_PATIENT\tOS\tOS.time\tDSS\tDSS.time\tDFI\tDFI.time\tPFI\tPFI.time\tRedaction"
    rows = [
        f"{case}-{kind}\t{case}\t1\t600\t{number % 2}\t{30 * (number + 1)}\t\t\t1\t90\t"
        for number, case in enumerate(CASES)
        for kind in ("01", "11")[: 1 + number % 2]
    ]
    return "\n".join([header, *rows, ""]).encode()


def table(suffix: str, first: str, names=None, more=()) -> bytes:
    random = np.random.default_rng(3)
    values = pd.DataFrame(random.uniform(0, 12, (3, 20)), index=GENES, columns=[case + suffix for case in CASES])
    for sample in more:
        values[sample] = 5.0
    values = values.rename(index=names or {}).rename_axis(first)
    return gzip.compress(values.to_csv(sep="\t", float_format="%.4f").encode())


def probemap() -> bytes:
    head = "id\tgene\tchrom\tchromStart\tchromEnd\tstrand\n"
    return (head + "".join(f"{name}\t{gene}\tchr1\t1\t2\t+\n" for gene, name in IDS.items())).encode()


@pytest.fixture
def web():
    others = [f"TCGA-ZZ-{number:04d}-01" for number in range(60)]
    files = {
        SURVIVAL.format("BRCA"): survival(),
        SURVIVAL.format("COADREAD"): survival(),
        SURVIVAL.format("LAML"): survival().replace(b"-01\t", b"-03\t"),
        EXPRESSION["tcga"].format("LAML"): table("-03", "sample"),
        EXPRESSION["tcga"].format("BRCA"): table("-01", "sample", more=[f"{CASES[0]}-11"]),
        EXPRESSION["toil"]: table("-01", "sample", IDS, others),
        EXPRESSION["gdc"].format("BRCA"): table("-01A", "Ensembl_ID", IDS, [f"{CASES[0]}-11A"]),
        GENE_MAPS["toil"]: probemap(),
        GENE_MAPS["gdc"]: probemap(),
    }
    with Web({f"/download/{name}": content for name, content in files.items()}) as web:
        yield web


@pytest.mark.parametrize(
    ("source", "unit"),
    [
        ("tcga", "log2(RSEM normalised count + 1), by its name"),
        ("toil", "log2(x + 1), by its range"),  # these values do not reach the floor of real ones
        ("gdc", "log2(TPM + 1), by its name"),
    ],
)
def test_from_the_hub_to_a_cohort(web, tmp_path, source, unit):
    fetched = fetch_xena("BRCA", tmp_path, source, hub=f"{web.url}/download", pause=0.001)
    (tmp_path / "pathways.gmt").write_text("\t".join(["p", "", *GENES]))
    cohort = Cohort.load(tmp_path, "BRCA")
    assert (len(cohort.cases), cohort.cases["event"].sum()) == (20, 10)
    assert [cohort.cases.loc[case, "time"] for case in CASES] == [float(month) for month in range(1, 21)]
    assert list(cohort.expression) == GENES
    assert read_source(Location.at(tmp_path) / "BRCA")["expression"]["unit"] == unit
    assert all(fetched.files.values())
    assert len(fetched.files) == (2 if source == "tcga" else 3)
    assert len(cohort.dropped) == 0


def test_urls_are_those_of_the_hubs(web, tmp_path):
    """Slashes in file names are quoted as %2F, as on Xena's pages."""
    fetch_xena("BRCA", tmp_path, "toil", hub=f"{web.url}/download", pause=0.001)
    assert [path for path, _ in web.requests] == [
        "/download/survival/BRCA_survival.txt",
        "/download/probeMap/gencode.v23.annotation.gene.probemap",
        "/download/tcga_RSEM_gene_tpm.gz",
    ]
    assert all(hub.startswith("https://") for hub in HUBS.values())


def test_a_repeated_fetch_downloads_nothing_and_keeps_labels(web, tmp_path, tree):
    fetch_xena("BRCA", tmp_path, hub=f"{web.url}/download", pause=0.001)
    before = tree(tmp_path)
    web.requests.clear()
    again = fetch_xena("BRCA", tmp_path, hub=f"{web.url}/download", pause=0.001)
    assert not web.requests
    assert again.labels is None
    assert tree(tmp_path) == before


def test_cohorts_share_downloaded_files(web, tmp_path):
    hub = f"{web.url}/download"
    fetch_xena("BRCA", tmp_path, "toil", hub=hub, pause=0.001)
    web.requests.clear()
    fetch_xena("COADREAD", tmp_path, "toil", hub=hub, pause=0.001)
    assert [path for path, _ in web.requests] == ["/download/survival/COADREAD_survival.txt"]


def test_the_command(web, tmp_path, capsys):
    web.faults = ["cut", 503]
    assert main(["fetch", "xena", "BRCA", str(tmp_path), "--hub", f"{web.url}/download"]) == 0
    captured = capsys.readouterr()
    assert f"downloaded: {tmp_path}/raw/TCGA.BRCA.sampleMap_HiSeqV2.gz" in captured.out
    assert "BRCA: 20 cases, 10 events; expression of 20 cases, 3 genes" in captured.out
    assert "survival_BRCA_survival.txt: 0.0 of 0.0 MB" in captured.err
    assert sorted(os.listdir(tmp_path)) == ["BRCA", "raw"]
    assert main(["fetch", "xena", "BRCA", str(tmp_path), "--hub", f"{web.url}/download"]) == 0
    assert "existing labels kept" in capsys.readouterr().out


def test_a_cohort_of_blood_samples(web, tmp_path, capsys):
    arguments = ["fetch", "xena", "LAML", str(tmp_path), "--hub", web.url + "/download"]
    assert main(arguments) == 65
    assert "Fix: --sample-types 03 11." in capsys.readouterr().err
    assert main([*arguments, "--sample-types", "03"]) == 0
    assert len(Cohort.load(tmp_path, "LAML").cases) == len(CASES)


def test_a_file_locked_by_another_process_exits_with_75(web, tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    with locked(tmp_path / "raw" / "survival_BRCA_survival.txt.lock", "it", "wait"):
        assert main(["fetch", "xena", "BRCA", str(tmp_path), "--hub", f"{web.url}/download"]) == 75
    assert f"raw/survival_BRCA_survival.txt is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert os.listdir(tmp_path / "raw") == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["brca"], 65, "'brca' is not a TCGA cohort"),
        (["../X"], 65, "is not a TCGA cohort"),
        (["COADREAD", "--table", "gdc"], 65, "two projects on the GDC hub"),
        (["STAD"], 66, "the server has no such file (404)"),
        (["BRCA", "--hub", "http://example.org"], 64, "it is not an https URL"),
        (["BRCA", "--hub", "https://user@[::1"], 64, "it is not an https URL"),
        (["BRCA", "--table", "geo"], 64, ""),
    ],
)
def test_errors_have_messages_and_exit_codes(web, tmp_path, capsys, arguments, code, message):
    name, *options = arguments
    hub = [] if "--hub" in options else ["--hub", f"{web.url}/download"]
    assert main(["fetch", "xena", name, str(tmp_path / "data"), *options, *hub]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "data" / "STAD").exists()
