"""``geneformer-grn evaluate network``: an edge table against known edges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(evaluate: typer.Typer) -> None:
    """Add the verb to ``evaluate``."""
    evaluate.command("network", help="Score any edge table against known edges.")(network)


def network(
    edges: Annotated[Path, typer.Argument(metavar="EDGES.tsv", help="Columns source, target, weight.")],
    *,
    truth: Annotated[
        Path, typer.Option("--truth", metavar="TRUTH.tsv", help="Columns source, target, and sign if known.")
    ],
    confidence: Annotated[
        str | None,
        typer.Option("--confidence", metavar="A,B,C", help="Keep truth edges of these classes only."),
    ] = None,
    circular: Annotated[
        str, typer.Option("--circular", metavar="WHY", help="Label a truth that expression helped to make.")
    ] = "",
    expression: Annotated[
        Path | None,
        typer.Option("--expression", metavar="FILE", help="Cells with counts: adds baselines and residual."),
    ] = None,
    n_null: Annotated[
        int, typer.Option("--random-networks", min=0, help="Random networks of the same degrees.")
    ] = 100,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RESULTS.json", help="File to write the card to.")
    ] = None,
    model: options.Model = "mini",
    groups: options.Groups = None,
    where: options.Where = None,
    species: options.Species = "human",
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    counts_column: options.CountsColumn = None,
    allow_normalised: options.AllowNormalised = False,
    sum_duplicates: options.SumDuplicates = False,
    drop_empty: options.DropEmpty = False,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Print AUPRC ratio, EPR, AUROC and signs, beside correlation and gene-level baselines."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.cells.counts import ReadSettings
        from geneformer_grn.workflows.cells import OpenSettings
        from geneformer_grn.workflows.evaluate_network import (
            NetworkCardSettings,
            card_table,
            evaluate_network_file,
        )

        settings = NetworkCardSettings(
            confidence=None
            if confidence is None
            else tuple(filter(None, map(str.strip, confidence.split(",")))),
            circular=circular,
            n_null=n_null,
            seed=seed,
        )
        opening = OpenSettings(
            model=model,
            groups=groups,
            read=ReadSettings(
                layer=layer,
                gene_column=gene_column,
                counts_column=counts_column,
                allow_normalised=allow_normalised,
                sum_duplicates=sum_duplicates,
                drop_empty=drop_empty,
                where=where,
                species=species,  # type: ignore[arg-type]  # checked there, with the known names
            ),
        )
        cells = None if expression is None else (expression, opening)
        results = evaluate_network_file(edges, truth, settings, cells=cells, out=out)
        if not as_json:
            typer.echo(card_table(results))
        summary |= results
