"""``geneformer-grn evaluate embeddings``: labels kept and batches mixed by a model's embedding of cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(evaluate: typer.Typer) -> None:
    """Register the subcommand."""
    evaluate.command("embeddings", help="Score cell embeddings beside variable genes + PCA and Harmony.")(
        embeddings
    )


def embeddings(
    file: options.Cells,
    *,
    label: Annotated[
        str, typer.Option("--label", metavar="COLUMN", help="obs column that should stay apart.")
    ],
    batch: Annotated[str, typer.Option("--batch", metavar="COLUMN", help="obs column that should mix.")],
    model: options.Model = "mini",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RESULTS.json", help="File to write the scores to.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FIGURE", help="UMAP and t-SNE, .png or .svg.")
    ] = None,
    h5ad: Annotated[
        Path | None, typer.Option("--h5ad", metavar="OUT.h5ad", help="Scored cells, with embeddings in obsm.")
    ] = None,
    n_cells: Annotated[int, typer.Option("--cells", min=1, help="Score at most so many cells.")] = 2000,
    n_halves: Annotated[
        int, typer.Option("--halves", min=0, help="Random halves for intervals; below 2: none.")
    ] = 10,
    encoder_layer: options.EncoderLayer = -1,
    where: options.Where = None,
    species: options.Species = "human",
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    counts_column: options.CountsColumn = None,
    sum_duplicates: options.SumDuplicates = False,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "fp32",
    token_budget: options.TokenBudget = 16_384,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Print how well labels stay apart and batches mix, by scib-metrics, next to baselines."""
    with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
        from geneformer_grn.cells.counts import ReadSettings
        from geneformer_grn.workflows.evaluate_embeddings import (
            EvaluateEmbeddingsSettings,
            embeddings_table,
            evaluate_embeddings,
        )

        settings = EvaluateEmbeddingsSettings(
            label=label,
            batch=batch,
            n_cells=n_cells,
            n_halves=n_halves,
            encoder_layer=encoder_layer,
            seed=seed,
            device=device,
            precision=precision,  # type: ignore[arg-type]  # checked by load_encoder
            token_budget=token_budget,
            read=ReadSettings(
                layer=layer,
                gene_column=gene_column,
                counts_column=counts_column,
                sum_duplicates=sum_duplicates,
                drop_empty=True,
                where=where,
                species=species,  # type: ignore[arg-type]  # checked there, with the known names
            ),
        )
        results = evaluate_embeddings(file, settings, model=model, out=out, figure=figure, h5ad=h5ad)
        if not as_json:
            typer.echo(embeddings_table(results))
        summary |= results
