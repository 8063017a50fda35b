"""Gene sets: read unchanged, with names that are never trusted, and covered as in the paper."""

import pytest

from survq.data.gene_sets import GeneSets, collection_path, least_coverage, read_collections
from survq.data.location import Location
from survq.data.problems import DataError
from survq.importing.gene_set_files import read_file


def gmt(tmp_path, text):
    file = tmp_path / "sets.gmt"
    file.write_text(text)
    return file


def test_a_gmt_round_trip_preserves_order_and_unusual_names(tmp_path):
    pathways = GeneSets(("z/+-()", "a"), (("HLA-DRB1", "MT-ATP6"), ("B",)))
    assert GeneSets.from_gmt(gmt(tmp_path, pathways.to_gmt())) == pathways


def test_repeated_genes_and_blanks_are_dropped(tmp_path):
    read = GeneSets.from_gmt(gmt(tmp_path, "p\thttp://x\tB\tA\tB\t\t\n\nq\t\tC\n"))
    assert read == GeneSets(("p", "q"), (("B", "A"), ("C",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p x A B\n", "sets.gmt:1: no genes in gene set 'p x A B'"),
        ("p\tx\n", "sets.gmt:1: no genes in gene set 'p'"),
        ("p\t\tA\np\t\tB\n", "sets.gmt:2: gene set 'p' is already above"),
        ("", "holds no gene set"),
    ],
)
def test_bad_gmt_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match="problem") as error:
        GeneSets.from_gmt(gmt(tmp_path, text))
    assert message in str(error.value)


def test_pathways_need_90_percent_coverage_and_keep_only_measured_genes():
    ten = tuple("ABCDEFGHIJ")
    pathways = GeneSets(("nine of ten", "eight of ten", "none"), (ten, (*ten[:8], "X", "Y"), ("Z",)))
    covered = pathways.covered_by(ten[:9], least_coverage("pathways"))
    assert covered == GeneSets(("nine of ten",), (ten[:9],))


def test_other_collections_need_one_measured_gene():
    """A group of 82 genes, of which 53 were measured, is one of the six groups that a model reads."""
    group = tuple(f"G{number}" for number in range(82))
    groups = GeneSets(("53 of 82", "1 of 2", "none"), (group, ("G0", "X"), ("Z",)))
    covered = groups.covered_by(group[:53], least_coverage("six_groups"))
    assert covered == GeneSets(("53 of 82", "1 of 2"), (group[:53], ("G0",)))


def test_collections_of_a_folder(tmp_path):
    root = Location.at(tmp_path)
    assert read_collections(root) == ({}, [])
    sets = {name: GeneSets((name,), (("A",),)) for name in ("pathways", "eight_families", "six-groups")}
    for name, of_name in sets.items():
        (root / collection_path(name)).write(of_name.to_gmt().encode())
    assert (tmp_path / "pathways.gmt").is_file() and (tmp_path / "gene_sets" / "six-groups.gmt").is_file()
    read, problems = read_collections(root)
    assert read == sets and list(read) == list(sets) and not problems
    (tmp_path / "gene_sets" / "six-groups.gmt").write_text("A")
    (tmp_path / "gene_sets" / "notes.txt").write_text("A")
    read, problems = read_collections(root)
    assert list(read) == ["pathways", "eight_families"]
    assert len(problems) == 1 and "six-groups.gmt:1: no genes" in problems[0]


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "_a", "-a", "a.b", "ä", "a b", "a\n", "a" * 101])
def test_collection_names_never_become_other_paths(name):
    with pytest.raises(DataError, match="cannot be the name of a collection of gene sets"):
        collection_path(name)


def test_the_331_sets(real_data):
    table = read_file(real_data / "survpath/datasets_csv/metadata/combine_signatures.csv")
    assert len(table) == 331
    assert len({gene for genes in table.genes for gene in genes}) == 4999
    assert sorted(map(len, table.genes))[:20] == [1] * 19 + [2]
    derived = GeneSets.from_gmt(real_data / "pathways/combine.gmt")
    assert dict(zip(table.names, map(set, table.genes), strict=True)) == dict(
        zip(derived.names, map(set, derived.genes), strict=True)
    )
