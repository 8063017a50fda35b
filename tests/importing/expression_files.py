"""Expression tables in the layouts of Xena, SurvPath, MMP and PORPOISE."""

import numpy as np
import pandas as pd

CASES = [f"TCGA-A1-{number:04d}" for number in range(6)]
GENES = ["TP53", "BRCA1", "HLA-DRB1", "NKX2-1"]
ENSEMBL = {gene: f"ENSG0000000000{number}.{number + 1}" for number, gene in enumerate(GENES)}


def random_values() -> pd.DataFrame:
    """case x gene, with 4 decimals as in the files."""
    random = np.random.default_rng(0)
    return pd.DataFrame(random.uniform(0, 15, (6, 4)).round(4), index=CASES, columns=GENES)


def xena(values, suffix="-01", first="sample", names=None) -> str:
    """genes x samples, TSV, with a normal sample and a metastasis in addition to the tumours."""
    table = values.T.rename(index=names or {}).rename(columns=lambda case: case + suffix)
    table[f"{CASES[0]}-11"], table[f"{CASES[1]}-06"] = 77.0, 78.0
    return table.sample(frac=1, random_state=1, axis=1).rename_axis(first).to_csv(sep="\t")


def survpath(values, first="") -> str:
    return values.rename_axis(first).to_csv()


def mmp(values, case="sample") -> str:
    rows = values.rename(index=lambda case: case + "-01")
    normal = pd.DataFrame(99.0, index=[f"{CASES[2]}-11"], columns=GENES)
    return pd.concat([normal, rows]).rename_axis(case).reset_index().to_csv()


def porpoise(values) -> str:
    table = values.add_suffix("_rnaseq").rename_axis("case_id").reset_index()
    table.insert(1, "slide_id", [f"{case}-01Z-00-DX1.AB.svs" for case in values.index])
    table.insert(2, "survival_months", 3.25)
    table["TP53_cnv"], table["TP53_mut"] = 1, 0
    return pd.concat([table, table.head(2)], ignore_index=True).to_csv()
