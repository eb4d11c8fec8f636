"""``geneformer-grn genes build``: the gene table that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    genes = typer.Typer(help="The gene table: symbols, aliases, regulators.", no_args_is_help=True)
    genes.command("build", help="Build the gene table from HGNC, GENCODE, 10x and ortholog tables.")(build)
    app.add_typer(genes, name="genes")


def build(
    *,
    genes: Annotated[Path, typer.Option("--genes", metavar="DIR", help="Folder of the source tables.")],
    regulators: Annotated[
        list[Path],
        typer.Option("--regulators", metavar="FILE", help="A list of transcription factors; repeatable."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write (default: the package's own data)."),
    ] = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Build the gene table."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from dataclasses import asdict

        from geneformer_grn.genes.build import build_gene_table

        summary |= {**asdict(build_gene_table(genes, regulators, out)), "seed": seed}
