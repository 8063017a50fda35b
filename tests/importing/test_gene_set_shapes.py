"""Gene sets in every shape that people have them in: read as what they are, or refused with the shape expected."""

import io
import zipfile

import openpyxl
import pandas as pd
import pytest

from survq.data.problems import DataError
from survq.importing.gene_set_files import read_file

SETS = {"SET_A": ("TP53", "BRCA1"), "SET_B": ("KRAS", "PTEN", "HLA-A")}
COLUMNS = "SET_A,SET_B\nTP53,KRAS\nBRCA1,PTEN\n,HLA-A\n"
ROWS = "SET_A,TP53,BRCA1\nSET_B,KRAS,PTEN,HLA-A\n"
GMT = "SET_A\thttp://x\tTP53\tBRCA1\nSET_B\thttp://y\tKRAS\tPTEN\tHLA-A\n"
PAIRS = [(name, gene) for name, genes in SETS.items() for gene in genes]
LONG = "".join(f"{name},{gene}\n" for name, gene in PAIRS)
MATRIX = "gene,SET_A,SET_B\nTP53,1,0\nBRCA1,1,0\nKRAS,0,1\nPTEN,0,1\nHLA-A,0,1\n"
FRAME = pd.DataFrame({name: pd.Series(genes) for name, genes in SETS.items()})

SHAPES = {
    "columns": ("t.csv", COLUMNS),
    "columns by tabs": ("t.tsv", COLUMNS.replace(",", "\t")),
    "columns by semicolons": ("t.csv", COLUMNS.replace(",", ";")),
    "columns, old Mac": ("t.csv", COLUMNS.replace("\n", "\r")),
    "columns of Excel": ("t.txt", COLUMNS.replace(",", "\t").encode("utf-16")),
    "columns with NA": ("t.csv", COLUMNS.replace("\n,", "\nNA,")),
    "columns with nan": ("t.csv", COLUMNS.replace("\n,", "\nnan,") + "nan,nan\n,\n"),
    "columns with pandas' index": ("t.csv", FRAME.to_csv()),
    "columns with R's row names": ("t.csv", "SET_A,SET_B\n1,TP53,KRAS\n2,BRCA1,PTEN\n3,,HLA-A\n"),
    "columns with a named index": ("t.csv", FRAME.rename_axis("Unnamed: 0").to_csv()),
    "columns without their suffix": ("t", COLUMNS),
    "rows": ("t.csv", ROWS),
    "rows by tabs": ("t.tsv", ROWS.replace(",", "\t")),
    "rows by semicolons": ("t.csv", ROWS.replace(",", ";")),
    "rows, padded": ("t.csv", ROWS.replace("BRCA1\n", "BRCA1,NA\n")),
    "rows with pandas' index and header": (
        "t.csv",
        pd.DataFrame([[name, *genes] for name, genes in SETS.items()]).to_csv(),
    ),
    "rows with a description": ("t.txt", GMT),
    "GMT": ("t.gmt", GMT),
    "GMT without descriptions": ("t.gmt", GMT.replace("http://x", "").replace("http://y", "NA")),
    "GMT of WikiPathways": ("t.gmt", GMT.replace("http://x", "WP254").replace("http://y", "WP1234")),
    "GMT of Reactome": ("t.gmt", GMT.replace("http://x", "R-HSA-109581").replace("http://y", "R-HSA-109582")),
    "GMT of Enrichr": ("t.gmt", "SET_A\t\tTP53,1.0\tBRCA1,1.0\t\nSET_B\t\tKRAS,0.5\tPTEN,1.0\tHLA-A,-2\t\n"),
    "GMT, Windows": ("t.gmt", GMT.replace("\n", "\r\n")),
    "GMT with quotes": ("t.gmt", "\n".join("\t".join(f'"{c}"' for c in li.split("\t")) for li in GMT.splitlines())),
    "GMX": ("t.gmx", COLUMNS.replace("TP53,", "na,na\nTP53,").replace(",", "\t")),
    "GMX as text": ("t.txt", COLUMNS.replace("TP53,", "http://x,> y\nTP53,").replace(",", "\t")),
    "pairs": ("t.csv", "Pathway,Genes\n" + LONG),
    "pairs the other way": ("t.csv", "gene,term\n" + "".join(f"{gene},{name}\n" for name, gene in PAIRS)),
    "pairs without a header": ("t.csv", LONG),
    "pairs with a header of other words": ("t.csv", "what it is,which\n" + LONG),
    "pairs with an index": ("t.csv", pd.DataFrame(PAIRS, columns=["gs", "x"]).to_csv()),
    "msigdbr": (
        "t.csv",
        "gs_cat,gs_name,gene_symbol,entrez_gene\n" + "".join(f"H,{name},{gene},7157\n" for name, gene in PAIRS),
    ),
    "all genes in a cell": ("t.csv", 'Pathway,Genes\nSET_A,"TP53, BRCA1"\nSET_B,KRAS;PTEN/HLA-A\n'),
    "membership": ("t.csv", MATRIX),
    "membership in words": ("t.csv", MATRIX.replace("1,0\n", "True,False\n").replace("0,1\n", "False,True\n")),
    "membership the other way": ("t.csv", pd.read_csv(io.StringIO(MATRIX), index_col=0).T.to_csv()),
    "a comment above": ("t.csv", "# made by us\n" + COLUMNS),
}


def write(tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / name


def read(file, known=()) -> dict:
    sets = read_file(file, known)
    return dict(zip(sets.names, sets.genes, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_gives_the_same_sets(tmp_path, shape):
    assert read(write(tmp_path, *SHAPES[shape])) == SETS


def test_the_inputs_that_people_had(tmp_path):
    text = "SET_A\tSET_B\tSET_C\nTP53\tKRAS\tERBB2\nBRCA1\tPTEN\tCDK4\n"
    expected = {"SET_A": ("TP53", "BRCA1"), "SET_B": ("KRAS", "PTEN"), "SET_C": ("ERBB2", "CDK4")}
    assert read(write(tmp_path, "t.tsv", text)) == expected
    assert read(write(tmp_path, "t.csv", "SET_A,TP53,BRCA1\nSET_B,KRAS,PTEN\n")) == {
        "SET_A": ("TP53", "BRCA1"),
        "SET_B": ("KRAS", "PTEN"),
    }
    assert read(write(tmp_path, "t.csv", "SET_A,SET_B\rTP53,KRAS\r")) == {"SET_A": ("TP53",), "SET_B": ("KRAS",)}
    assert read(write(tmp_path, "t.csv", "Pathway,Genes\nSET_A,TP53\n")) == {"SET_A": ("TP53",)}


def test_archives_and_workbooks(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.gmt.zip", "w") as archive:
        archive.writestr("t.gmt", GMT)
    assert read(tmp_path / "t.gmt.zip") == SETS
    book = openpyxl.Workbook()
    for row in (["SET_A", "SET_B"], ["TP53", "KRAS"], ["BRCA1", "PTEN"], [None, "HLA-A"]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    assert read(tmp_path / "t.xlsx") == SETS


REFUSED = {
    "a set per row or column": (
        "t.csv",
        "WNT,TP53,BRCA1\nEMT,KRAS,PTEN\n",
        "so its shape is unclear. Fix: save it as GMT",
    ),
    "GMT without a description": (
        "t.gmt",
        "SET_A\tTP53\tBRCA1\nSET_B\tKRAS\tPTEN\n",
        "second column holds genes, such as 'TP53', 'KRAS', where GMT has a description. Fix: put an empty column",
    ),
    "a list of genes": ("t.csv", "TP53\nBRCA1\nKRAS\n", "so its shape is unclear"),
    "Entrez ids": ("t.csv", "SET_A,SET_B\n7157,672\n3845,5728\n", "its genes are Entrez ids"),
    "Ensembl ids": ("t.gmt", "SET_A\tx\tENSG00000141510\tENSG00000012048\n", "its genes are Ensembl ids"),
    "JSON of MSigDB": ("t.json", '{"SET_A": {"geneSymbols": ["TP53"]}}', "is JSON.*gene sets as GMT"),
    "XML of MSigDB": ("t.xml", "<?xml version='1.0'?><MSIGDB>", "is a web page or XML"),
    "a pair without its set": ("t.csv", "Pathway,Genes\nSET_A,TP53\n,BRCA1\n", "t.csv:3: set '', genes 'BRCA1'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_shapes_are_refused_by_name(tmp_path, what):
    name, text, message = REFUSED[what]
    with pytest.raises(DataError, match=message) as error:
        read(write(tmp_path, name, text))
    assert all(len(problem) < 400 for problem in error.value.problems)


def test_a_set_may_have_any_name(tmp_path):
    assert read(write(tmp_path, "t.gmt", "none\t\tTP53\nNA\t\tKRAS\n")) == {"none": ("TP53",), "NA": ("KRAS",)}


def test_the_cures_work(tmp_path):
    cured = "WNT\t\tTP53\tBRCA1\nEMT\t\tKRAS\tPTEN\n"
    assert read(write(tmp_path, "t.gmt", cured)) == {"WNT": ("TP53", "BRCA1"), "EMT": ("KRAS", "PTEN")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WNT,TP53,BRCA1\nEMT,KRAS,PTEN\n", {"WNT": ("TP53", "BRCA1"), "EMT": ("KRAS", "PTEN")}),
        ("WNT,EMT\nTP53,KRAS\nBRCA1,PTEN\n", {"WNT": ("TP53", "BRCA1"), "EMT": ("KRAS", "PTEN")}),
    ],
)
def test_known_genes_tell_names_that_are_written_like_genes(tmp_path, text, expected):
    """Genes of other collections, and of expression in the data folder."""
    assert read(write(tmp_path, "t.csv", text), known={"TP53", "BRCA1", "KRAS", "PTEN"}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name,description,genes\nSET_A,x,TP53 BRCA1\nSET_B,y,KRAS\n",
            {"SET_A": ("TP53", "BRCA1"), "SET_B": ("KRAS",)},
        ),
        ("pathway,gene1,gene2\nSET_A,TP53,BRCA1\nSET_B,KRAS,\n", {"SET_A": ("TP53", "BRCA1"), "SET_B": ("KRAS",)}),
        ("what,a b,c d\nSET_A,TP53,BRCA1\nSET_B,KRAS,\n", {"SET_A": ("TP53", "BRCA1"), "SET_B": ("KRAS",)}),
        ("SET_A,SET_B\nTrp53,Kras\nBrca1,Pten\n", {"SET_A": ("Trp53", "Brca1"), "SET_B": ("Kras", "Pten")}),
        ("SET_A,Trp53,Brca1\nSET_B,Kras,Pten\n", {"SET_A": ("Trp53", "Brca1"), "SET_B": ("Kras", "Pten")}),
        ("set a,tp53,brca1\nset b,kras,pten\n", {"set a": ("tp53", "brca1"), "set b": ("kras", "pten")}),
        (
            "id,set_name,x\n1,SET_A,TP53\n2,SET_A,BRCA1\n3,SET_B,KRAS\n",
            {"SET_A": ("TP53", "BRCA1"), "SET_B": ("KRAS",)},
        ),
    ],
)
def test_headers_and_genes_of_other_kinds(tmp_path, text, expected):
    assert read(write(tmp_path, "t.csv", text)) == expected


def test_cells_that_are_no_genes_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"read as a set 'b' of 'x y', 'some text', which are no genes. Fix: save it as GMT"
    ):
        read(write(tmp_path, "t.csv", "SET_A,b\nTP53,x y\nBRCA1,some text\n"))
