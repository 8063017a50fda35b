"""Download a TCGA cohort from the public hubs of UCSC Xena (Goldman et al., Nature Biotechnology 2020).

Labels always come from the TCGA hub, the only one with disease-specific survival.

    tcga    HiSeqV2 of the cohort                          log2(RSEM normalised count + 1), symbols
    toil    tcga_RSEM_gene_tpm of all cohorts, 0.7 GB      log2(TPM + 0.001), Ensembl ids; SurvPath's unit
    gdc     star_tpm of the project                        log2(TPM + 1), Ensembl ids
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pandas as pd

from survq.data.barcodes import PRIMARY
from survq.data.cohort_files import read_cases
from survq.data.location import Location
from survq.data.problems import DataError
from survq.importing.decompress import OnBytes
from survq.importing.download import download
from survq.importing.expression import Expression, import_expression
from survq.importing.expression_table import Reading
from survq.importing.labels import Labels, import_labels
from survq.importing.outcomes import Endpoint

Table = Literal["tcga", "toil", "gdc"]
HUBS = {
    "tcga": "https://tcga-xena-hub.s3.us-east-1.amazonaws.com/download",
    "toil": "https://toil-xena-hub.s3.us-east-1.amazonaws.com/download",
    "gdc": "https://gdc-hub.s3.us-east-1.amazonaws.com/download",
}
SURVIVAL = "survival/{}_survival.txt"
EXPRESSION = {
    "tcga": "TCGA.{}.sampleMap/HiSeqV2.gz",
    "toil": "tcga_RSEM_gene_tpm.gz",
    "gdc": "TCGA-{}.star_tpm.tsv.gz",
}
GENE_MAPS = {"toil": "probeMap/gencode.v23.annotation.gene.probemap", "gdc": "gencode.v36.annotation.gtf.gene.probemap"}


@dataclass(frozen=True)
class Fetched:
    files: dict[Path, bool]  # file -> whether it was downloaded now
    labels: Labels | None  # None if the cohort already had labels, which are kept
    expression: Expression
    cases: pd.DataFrame
    dropped: pd.DataFrame


def fetch_xena(
    cohort: str,
    destination: Path,
    table: Table = "tcga",
    *,
    endpoint: Endpoint = "DSS",
    sample_types: Collection[str] = PRIMARY,
    hub: str | None = None,
    progress: OnBytes | None = None,
    pause: float = 1.0,
) -> Fetched:
    """Download the tables of a cohort into DESTINATION/raw and import them; labels only if the cohort has none yet.

    `hub` is the URL of a mirror with all of these files. Raises the errors of `download` and of the imports.
    """
    if not re.fullmatch(r"[A-Z]{2,10}", cohort):
        raise DataError([f"{cohort!r} is not a TCGA cohort; expected a name such as BRCA."])
    if table == "gdc" and cohort == "COADREAD":
        raise DataError(["COADREAD is two projects on the GDC hub, COAD and READ. Fix: use --table tcga or toil."])
    raw = destination / "raw"
    files: dict[Path, bool] = {}

    def fetch(name: str, place: str) -> Path:
        file = raw / name.replace("/", "_")
        url = f"{(hub or HUBS[place]).rstrip('/')}/{quote(name, safe='')}"
        files[file] = download(url, file, progress=progress, pause=pause)
        return file

    root = Location.at(destination)
    is_new = not (root / cohort / "cases.parquet").is_file()
    survival = fetch(SURVIVAL.format(cohort), "tcga") if is_new else None
    gene_map = fetch(GENE_MAPS[table], table) if table in GENE_MAPS else None
    expression_file = fetch(EXPRESSION[table].format(cohort), table)
    labels = None
    if survival:
        labels, _ = import_labels(survival, root, cohort, endpoint=endpoint, sample_types=sample_types)
    reading = Reading(sample_types=sample_types, progress=progress)
    expression, dropped = import_expression(expression_file, root, cohort, gene_map=gene_map, reading=reading)
    return Fetched(files, labels, expression, read_cases(root / cohort), dropped)
