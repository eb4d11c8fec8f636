"""``geneformer-grn genes``: build the gene table that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb

Genes = Annotated[Path, typer.Option("--genes", metavar="DIR", help="Folder of the source tables.")]
Regulators = Annotated[
    list[Path],
    typer.Option("--regulators", metavar="FILE", help="A list of transcription factors (repeatable)."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder to write to (default: the package's own).")
]


def add(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    genes_app = typer.Typer(help="The gene table: symbols, aliases, regulators.", no_args_is_help=True)
    app.add_typer(genes_app, name="genes")

    @genes_app.command("build")
    def build(
        *,
        genes: Genes,
        regulators: Regulators,
        out: Out = None,
        quiet: options.Quiet = False,
        as_json: options.Json = False,
    ) -> None:
        """Build the gene table from HGNC, GENCODE, 10x and ortholog tables."""
        with verb(quiet=quiet, as_json=as_json) as summary:
            from dataclasses import asdict

            from geneformer_grn.genes.build import build_gene_table

            summary |= asdict(build_gene_table(genes, regulators, out))
