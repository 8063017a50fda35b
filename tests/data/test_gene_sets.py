"""Gene sets: read as they are, names never trusted, coverage as in the paper."""

import pytest

from survq.data.gene_sets import Pathways
from survq.data.problems import DataError


def gmt(tmp_path, text):
    file = tmp_path / "sets.gmt"
    file.write_text(text)
    return file


def test_gmt_round_trip_keeps_order_and_odd_names(tmp_path):
    pathways = Pathways(("z/+-()", "a"), (("HLA-DRB1", "MT-ATP6"), ("B",)))
    assert Pathways.from_gmt(gmt(tmp_path, pathways.to_gmt())) == pathways


def test_genes_stand_once_and_blanks_are_skipped(tmp_path):
    read = Pathways.from_gmt(gmt(tmp_path, "p\thttp://x\tB\tA\tB\t\t\n\nq\t\tC\n"))
    assert read == Pathways(("p", "q"), (("B", "A"), ("C",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p x A B\n", "sets.gmt:1: no genes in pathway 'p x A B'"),
        ("p\tx\n", "sets.gmt:1: no genes in pathway 'p'"),
        ("p\t\tA\np\t\tB\n", "sets.gmt:2: pathway 'p' stands here a second time"),
        ("", "holds no pathway"),
    ],
)
def test_bad_gmt_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match="problem") as error:
        Pathways.from_gmt(gmt(tmp_path, text))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no pathways"),
        ("p,q\nA,\n", "column 2: no genes in pathway 'q'"),
        ("p,p\nA,B\n", "column 2: pathway 'p' stands here a second time"),
        (",p\n0,A\n", "column 1: pathway name ''"),
        ('"p\tq"\nA\n', "column 1: pathway name"),
    ],
)
def test_bad_signatures_are_refused(tmp_path, text, message):
    file = tmp_path / "signatures.csv"
    file.write_text(text)
    with pytest.raises(DataError) as error:
        Pathways.from_signatures(file)
    assert message in str(error.value)


def test_coverage_keeps_nine_of_ten_and_cuts_to_the_measured():
    ten = tuple("ABCDEFGHIJ")
    pathways = Pathways(("nine of ten", "eight of ten", "none"), (ten, (*ten[:8], "X", "Y"), ("Z",)))
    covered = pathways.covered_by(ten[:9])
    assert covered == Pathways(("nine of ten",), (ten[:9],))


def test_the_331_sets(real_data):
    table = Pathways.from_signatures(real_data / "survpath/datasets_csv/metadata/combine_signatures.csv")
    assert len(table) == 331
    assert len({gene for genes in table.genes for gene in genes}) == 4999
    assert sorted(map(len, table.genes))[:20] == [1] * 19 + [2]
    derived = Pathways.from_gmt(real_data / "pathways/combine.gmt")
    assert dict(zip(table.names, map(set, table.genes), strict=True)) == dict(
        zip(derived.names, map(set, derived.genes), strict=True)
    )
