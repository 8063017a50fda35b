"""survq import expression"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from survq.commands.console import Meter, show_cohort


@dataclass(frozen=True)
class ImportExpression:
    """Expression of a cohort whose labels are there: a table with genes and samples, whichever way round.

    UCSC Xena (Toil, TCGA and GDC hubs), SurvPath, MMP, PORPOISE (*_rnaseq); CSV or TSV, packed or not, of any size:
    only what is kept is held in memory. Ensembl ids need a probemap. The unit is told and noted in source.json, with
    all rules that were applied; coverage.csv lists the missing genes of each gene set.

    example:  survq import expression tcga_RSEM_gene_tpm.gz data --cohort BRCA
                  --gene-map gencode.v23.annotation.gene.probemap

    next:     survq import splits SPLITS data --cohort BRCA
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """Table of expression."""
    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Data folder."""
    cohort: Annotated[str, arg(metavar="NAME")]
    """Cohort to give it to."""
    gene_map: Annotated[Path | None, arg(metavar="FILE")] = None
    """Probemap from Ensembl ids to symbols: a table with the columns id and gene."""
    aliases: Annotated[Path | None, arg(metavar="FILE")] = None
    """Names of the same gene: columns alias and symbol, or HGNC's complete set, or the probemap of another release."""
    all_genes: bool = False
    """Keep the genes of no gene set, too; they count where expression is scaled."""
    sample_types: Annotated[tuple[str, ...], arg(metavar="NN ...")] = ("01",)
    """Sample types to take, by characters 14-15 of a TCGA barcode."""

    def run(self) -> int:
        from survq.data.location import Location
        from survq.importing.expression import import_expression

        root = Location.at(self.data)
        expression, dropped = import_expression(
            self.file,
            root,
            self.cohort,
            gene_map=self.gene_map,
            aliases=self.aliases,
            all_genes=self.all_genes,
            sample_types=self.sample_types,
            progress=Meter(least=50_000_000),
        )
        cases, genes = expression.values.shape
        show_cohort(
            self.cohort,
            f"expression of {cases} cases, {genes:,} of the {expression.source['genes_in_the_table']:,} genes of "
            f"{self.file.name}, {expression.source['layout']}",
            expression.notes,
            dropped,
        )
        print(f"\nWritten to {root / self.cohort}; who was left out stands in dropped.csv.")
        print(f"Next: survq check {self.data}")
        return 0
