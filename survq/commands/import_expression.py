"""survq import expression"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from survq.commands.console import ByteProgress, show_cohort


@dataclass(frozen=True)
class ImportExpression:
    """Import a table of gene expression; genes may be rows or columns. Import the cohort's labels first.

    Reads tables of UCSC Xena (Toil, TCGA and GDC hubs), SurvPath, MMP and PORPOISE (*_rnaseq): CSV or TSV, optionally
    compressed. Tables larger than memory are fine: only imported genes and cases are held. Ensembl ids need a
    probemap. source.json records the detected unit and all rules applied; coverage.csv lists the genes that each
    gene set lacks.

    example:  survq import expression tcga_RSEM_gene_tpm.gz data --cohort BRCA
                  --gene-map gencode.v23.annotation.gene.probemap

    next:     survq import splits SPLITS data --cohort BRCA
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """Expression table."""
    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Data folder."""
    cohort: Annotated[str, arg(metavar="NAME")]
    """Cohort of the samples."""
    gene_map: Annotated[Path | None, arg(metavar="FILE")] = None
    """Probemap from Ensembl ids to symbols: a table with the columns id and gene."""
    aliases: Annotated[Path | None, arg(metavar="FILE")] = None
    """Gene aliases: a table with the columns alias and symbol, HGNC's complete set, or another release's probemap."""
    all_genes: bool = False
    """Also keep genes that are in no gene set; they affect the scaling of expression."""
    sample_types: Annotated[tuple[str, ...], arg(metavar="NN ...")] = ("01",)
    """Sample types to import, by characters 14-15 of the TCGA barcode, or by a column of sample types."""
    case_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """Column of the case ids, where a row is a case or sample; "" is the column without a name. If omitted: found by
    the names of columns and by the ids in them."""
    sample_column: Annotated[str | None, arg(metavar="COLUMN")] = None
    """Column of the sample ids, which state the sample type."""
    incomplete_genes: Literal["error", "drop", "keep"] = "error"
    """Genes with a missing value of any case: an error, left out, or kept, where a fold reads the mean of its training
    cases for it."""
    missing: Annotated[tuple[str, ...], arg(metavar="TEXT ...")] = ()
    """Further spellings of a missing value, such as -999 (as --missing=-999)."""

    def run(self) -> int:
        from survq.data.location import Location
        from survq.importing.expression import import_expression
        from survq.importing.expression_table import Reading
        from survq.importing.missing import Missing

        root = Location.at(self.data)
        expression, dropped = import_expression(
            self.file,
            root,
            self.cohort,
            gene_map=self.gene_map,
            aliases=self.aliases,
            all_genes=self.all_genes,
            reading=Reading(
                sample_types=self.sample_types,
                case_column=self.case_column,
                sample_column=self.sample_column,
                missing=Missing.and_also(self.missing),
                progress=ByteProgress(smallest=50_000_000),
            ),
            incomplete_genes=self.incomplete_genes,
        )
        cases, genes = expression.values.shape
        show_cohort(
            self.cohort,
            f"expression of {cases} cases, {genes:,} of the {expression.source['genes_in_the_table']:,} genes of "
            f"{self.file.name}, {expression.source['layout']}",
            expression.notes,
            dropped,
        )
        print(f"\nWritten to {root / self.cohort}; dropped.csv lists excluded cases.")
        print(f"Next: survq check {self.data}")
        return 0
