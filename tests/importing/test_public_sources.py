"""The way of README's "Table 1 on real data": files in the layouts of the public sources, to a cohort for all models.

    SurvPath                      labels, gene sets, splits and some expression                       a git repository
    AmayaGS/ProtoPathway          TCGA-BLCA/TCGA-BLCA.csv, rna_clean.csv, splits/splits_0.csv         Hugging Face
    Dearcat/CPathPatchFeature     blca/uni/pt_files/SLIDE.pt, a float32 tensor                        Hugging Face
    sofieneb/uni2h_features       TRIDENT's SLIDE.h5                                                  Hugging Face

The layouts are those that code which reads these sources expects. The sources themselves were not at hand.
"""

from pathlib import Path

import feature_tools as tools
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from csv_files import write_csv
from slide_store import SlideStore

from survq.data.cohort import Cohort
from survq.data.feature_import import readable_index
from survq.data.folds import given_folds
from survq.data.location import Location
from survq.importing.expression import import_expression
from survq.importing.feature_folder import import_slide, make_plan
from survq.importing.labels import import_labels
from survq.importing.pathways import import_gene_sets
from survq.importing.slide_names import Wanted, by_barcode
from survq.importing.splits import import_splits
from survq.importing.survpath import import_survpath
from survq.models import MODELS

CASES = [f"TCGA-{site}-{number:04d}" for number, site in enumerate(["AA", "BB", "CC"] * 4)]
SLIDES = [f"{case}-01Z-00-DX{part}.{case[-4:]}ABCD-12EF" for case in CASES for part in (1, 2)][:-1]  # the last has one
GENES = [f"G{number}" for number in range(12)]
random = np.random.default_rng(0)


def labels(slide_ids: list[str]) -> list[list]:
    """SurvPath's table, one row per slide."""
    header = [
        *["", "case_id", "slide_id", "age", "site", "survival_months", "survival_months_dss", "censorship"],
        *["censorship_dss", "is_female", "oncotree_code", "train"],
    ]
    rows = []
    for number, slide in enumerate(slide_ids):
        case = CASES.index(slide[:12])
        time, censored = 3.5 + 2 * case, case % 2
        survival = [time, time, censored, censored]
        rows.append([number, slide[:12], f"{slide}.svs", 50 + case, slide[5:7], *survival, case % 3 % 2, "BLCA", 1.0])
    return [header, *rows]


def expression(genes: list[str]) -> list[list]:
    return [["", *genes], *([case, *random.normal(5, 3, len(genes)).round(4)] for case in CASES)]


def write_splits(folder: Path) -> None:
    for fold in range(3):
        held_out = [case for number, case in enumerate(CASES) if number // 2 % 3 == fold]
        training = [case for case in CASES if case not in held_out]
        padded = held_out + [""] * (len(training) - len(held_out))
        rows = [[number, *pair] for number, pair in enumerate(zip(training, padded, strict=True))]
        write_csv(folder / f"splits_{fold}.csv", [["", "train", "val"], *rows])


@pytest.fixture
def survpath(tmp_path) -> Path:
    """The repository: its expression lacks most genes."""
    metadata = tmp_path / "SurvPath/datasets_csv/metadata"
    write_csv(metadata / "tcga_blca.csv", labels(SLIDES))
    write_csv(metadata / "combine_signatures.csv", [["HALLMARK_A", "Other/B"], ["G0", "G3"], ["G1", "G4"], ["G2", ""]])
    write_csv(metadata / "signatures.csv", [["Oncogenes", "Protein Kinases"], ["G5", "G7"], ["G6", "G8"]])
    write_csv(metadata / "hallmarks_signatures.csv", [["HALLMARK_A"], ["G0"], ["G1"], ["G2"]])
    write_csv(tmp_path / "SurvPath/datasets_csv/raw_rna_data/xena/blca/rna_clean.csv", expression(GENES[3:5]))
    write_splits(tmp_path / "SurvPath/splits/5foldcv/tcga_blca")
    return tmp_path / "SurvPath"


@pytest.fixture
def protopathway(tmp_path) -> Path:
    folder = tmp_path / "ProtoPathway/TCGA-BLCA"
    write_csv(folder / "TCGA-BLCA.csv", labels(SLIDES))
    write_csv(folder / "rna_clean.csv", expression(GENES))
    write_splits(folder / "splits")
    return folder


def import_slides(source: Path, data: Path, encoder: str | None = None) -> SlideStore:
    store = Location.at(data) / "BLCA" / "features"
    for job in make_plan(source, Wanted(set(CASES)), readable_index(store), by_barcode, encoder).jobs:
        assert import_slide(job, store).state == "written"
    return SlideStore(store)


def test_table_1_on_real_data(tmp_path, survpath, protopathway):
    """All of the section's commands: afterwards every model of Table 1 whose gene sets are public can be trained."""
    data, features = tmp_path / "data", tmp_path / "CPathPatchFeature/blca"
    for slide in SLIDES:
        tools.tensor(features / "uni/pt_files", slide, random.normal(size=(7, 1024)).astype(np.float32))
        tools.tensor(features / "r50/pt_files", slide, random.normal(size=(7, 512)).astype(np.float32))
    metadata = survpath / "datasets_csv/metadata"
    import_survpath(survpath, data, ["BLCA"])
    root = Location.at(data)
    for name, file in (("six_groups", "signatures.csv"), ("hallmarks", "hallmarks_signatures.csv")):
        import_gene_sets([metadata / file], root, name)
    import_expression(protopathway / "rna_clean.csv", root, "BLCA")
    store = import_slides(features / "uni/pt_files", data, "uni")

    cohort = Cohort.load(data, "BLCA")
    assert set(cohort.cases.index) == set(CASES) and cohort.cases["event"].sum() == 6
    assert sorted(cohort.expression) == sorted(GENES[:9]), "the genes of the gene sets"
    assert len(given_folds(cohort.splits, CASES)) == 3
    assert list(store.index["width"].unique()) == [1024] and len(store.index) == len(SLIDES)
    np.testing.assert_array_equal(
        store.read(SLIDES[3]), torch.load(features / f"uni/pt_files/{SLIDES[3]}.pt").numpy().astype(np.float16)
    )
    assert {name for name, kind in MODELS.items() if kind.not_applicable(cohort.spec)} == {"hsfsurv"}
    assert cohort.spec.clinical == ("age", "sex")


def test_protopathway_alone(tmp_path, survpath, protopathway):
    """Table by table, as for BRCA and HNSC, whose expression SurvPath's repository lacks."""
    root = Location.at(tmp_path / "data")
    imported, _ = import_labels(protopathway / "TCGA-BLCA.csv", root, "BLCA")
    assert imported.source["columns"]["layout"] == "SurvPath or PORPOISE"
    import_gene_sets([survpath / "datasets_csv/metadata/combine_signatures.csv"], root)
    import_expression(protopathway / "rna_clean.csv", root, "BLCA")
    import_splits(protopathway / "splits", root, "BLCA")
    cohort = Cohort.load(tmp_path / "data", "BLCA")
    assert (len(cohort.cases), len(cohort.pathways), cohort.expression.shape) == (12, 2, (12, 5))
    values = pd.read_csv(protopathway / "rna_clean.csv", index_col=0)
    assert np.allclose(cohort.expression, values.loc[cohort.cases.index, list(cohort.expression)])
    assert [len(fold.validation) for fold in given_folds(cohort.splits, CASES)] == [4, 4, 4]


def with_leading_axis(store: h5py.File) -> None:
    for name in ("features", "coords"):
        values, attributes = store[name][()], dict(store[name].attrs)
        del store[name]
        store.create_dataset(name, data=values[None]).attrs.update(attributes)


@pytest.mark.parametrize("leading", [False, True], ids=["as TRIDENT writes", "with a leading axis"])
def test_uni2h_features_of_all_projects(tmp_path, leading):
    """Slides of other projects in the same folders are skipped."""
    others = ["TCGA-ZZ-9999-01Z-00-DX1.ZZ", "TCGA-AA-0000-11A-01-TS1.ZZ"]
    coordinates = np.stack([np.arange(5) * 512, np.arange(5)], axis=1)
    bags = {slide: random.normal(size=(5, 1536)).astype(np.float32) for slide in [*SLIDES, others[0]]}
    for slide, bag in bags.items():
        job = tmp_path / "uni2h_features" / ("TCGA-BLCA" if slide in SLIDES else "TCGA-SKCM")
        file = tools.trident(job, slide, bag, coordinates, encoder="uni_v2")
        if leading:
            tools.edit(file, with_leading_axis)
    store = import_slides(tmp_path / "uni2h_features", tmp_path / "data", "uni_v2")
    assert sorted(store.index.index) == sorted(SLIDES)
    assert (store.index["encoder"] == "uni_v2").all() and (store.index["width"] == 1536).all()
    np.testing.assert_array_equal(store.read(SLIDES[0]), bags[SLIDES[0]].astype(np.float16))
    np.testing.assert_array_equal(store.coordinates(SLIDES[0]), coordinates)
