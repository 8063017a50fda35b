"""Gene names from tables of the user; ambiguous names are never changed."""

import pytest

from survq.data.problems import DataError
from survq.importing.genes import Aliases, GeneMap, are_ensembl

MAP = "id\tgene\tchrom\nENSG00000000001.5\tMUT\tchr6\nENSG00000000002.1\tTP53\tchr17\nENSG00000000003.2\t\tchr1\n"


def write(tmp_path, text, name="t.tsv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("ENSG00000000001.5", "MUT"),
        ("ENSG00000000001.9", "MUT"),
        ("ENSG00000000001", "MUT"),
        ("ENSG00000000002.1_PAR_Y", "TP53"),
        ("ENSG00000000003.2", None),
        ("ENSG00000000009.1", None),
        ("TP53", None),
    ],
)
def test_a_probemap_maps_ids_of_any_version(tmp_path, name, symbol):
    assert GeneMap.read(write(tmp_path, MAP)).symbol(name) == symbol


def test_an_exact_version_takes_precedence(tmp_path):
    more = "ENSG00000000001.6\tMMUT\tchr6\n"
    gene_map = GeneMap.read(write(tmp_path, MAP + more))
    assert (gene_map.symbol("ENSG00000000001.5"), gene_map.symbol("ENSG00000000001.6")) == ("MUT", "MMUT")


@pytest.mark.parametrize(
    ("text", "message"),
    [("probe\tgene\nENSG1\tA\n", "lacks the columns 'id'"), ("id\tgene\nTP53\tTP53\n", "expected Ensembl ids")],
)
def test_other_tables_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        GeneMap.read(write(tmp_path, text))


def test_ensembl_ids_are_recognised():
    assert are_ensembl(["ENSG00000141510.16", "ENSG00000141510", "ENSG00000002586.18_PAR_Y", "?"])
    assert not are_ensembl(["ENSA", "ENSG1", "TP53", "ENSG00000141510"])
    assert not are_ensembl([])


@pytest.mark.parametrize(
    "text",
    [
        "alias,symbol\nMUT,MMUT\nMCM,MMUT\n",
        "symbol\talias\nMMUT\tMUT\nMMUT\tMCM\n",
        'hgnc_id\tsymbol\tname\talias_symbol\tprev_symbol\nHGNC:7526\tMMUT\tmutase\tMCM\tMUT\nHGNC:1\tA1BG\tx\t"B|C"\t\n',
    ],
    ids=["two columns", "columns swapped", "HGNC"],
)
def test_aliases_work_in_both_directions(tmp_path, text):
    aliases = Aliases.read(write(tmp_path, text))
    assert aliases.of_any(["MMUT"]) == {"MUT", "MCM"}
    assert aliases.renamed({"MMUT", "X"}, {"MUT"}) == ({"MMUT": "MUT"}, [])
    assert aliases.renamed({"MUT", "X"}, {"MMUT"}) == ({"MUT": "MMUT"}, [])


def test_two_probemaps_give_aliases(tmp_path):
    newer = write(tmp_path, MAP.replace("MUT", "MMUT").replace(".5", ".11"), "newer")
    aliases = Aliases.read(newer, GeneMap.read(write(tmp_path, MAP)))
    assert aliases.others == {"MUT": frozenset({"MMUT"}), "MMUT": frozenset({"MUT"})}
    with pytest.raises(DataError, match="together with --gene-map"):
        Aliases.read(newer)


@pytest.mark.parametrize(
    ("measured", "wanted", "renamed", "ambiguous"),
    [
        ({"A"}, {"A"}, {}, []),  # measured under the wanted name
        ({"B"}, {"A"}, {"B": "A"}, []),
        ({"A", "B"}, {"A"}, {}, []),
        ({"B"}, {"A", "B"}, {}, []),  # B is itself wanted
        ({"B", "C"}, {"A"}, {}, ["A"]),  # two candidates
        ({"B"}, {"A", "Z"}, {}, ["A", "Z"]),  # one gene is the candidate of two
        ({"X"}, {"A"}, {}, []),
    ],
)
def test_only_unambiguous_genes_are_renamed(measured, wanted, renamed, ambiguous):
    aliases = Aliases.of([("A", "B"), ("A", "C"), ("Z", "B"), ("", "A"), ("A", "A")])
    assert aliases.renamed(measured, wanted) == (renamed, ambiguous)
