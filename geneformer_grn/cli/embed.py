"""``geneformer-grn embed``: cell and gene embeddings of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("embed", help="Embed cells and genes: obsm['X_geneformer'] and varm['geneformer'].")(embed)


def embed(
    file: options.Cells,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="OUT.h5ad", help="File to write.")],
    model: options.Model = "mini",
    encoder_layer: options.EncoderLayer = -1,
    pooling: Annotated[
        str, typer.Option("--pooling", help="Cells: mean (over their genes) or cls (the <cls> state).")
    ] = "mean",
    where: options.Where = None,
    species: options.Species = "human",
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    counts_column: options.CountsColumn = None,
    allow_normalised: options.AllowNormalised = False,
    sum_duplicates: options.SumDuplicates = False,
    drop_empty: options.DropEmpty = False,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "fp32",
    token_budget: options.TokenBudget = 16_384,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the input with its embeddings, and the parameters beside it."""
    with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
        from geneformer_grn._runtime import atomic_path, logger, write_json
        from geneformer_grn.cells.counts import ReadSettings
        from geneformer_grn.cells.opening import read_anndata
        from geneformer_grn.embedding import EmbedSettings
        from geneformer_grn.workflows.embed import ModelSettings, embed_adata

        if out.suffix != ".h5ad" or out.is_dir():
            raise ValueError(f"--out must name an .h5ad file, got {out}")
        read = ReadSettings(
            layer=layer,
            gene_column=gene_column,
            counts_column=counts_column,
            allow_normalised=allow_normalised,
            sum_duplicates=sum_duplicates,
            drop_empty=drop_empty,
            where=where,
            species=species,  # type: ignore[arg-type]  # checked there, with the known names
        )
        settings = EmbedSettings(
            pooling=pooling,  # type: ignore[arg-type]  # checked there, with the known names
            encoder_layer=encoder_layer,
            token_budget=token_budget,
        )
        run = ModelSettings(device=device, precision=precision)  # type: ignore[arg-type]  # checked there
        with atomic_path(out) as temporary:
            adata = read_anndata(file, layer)
            embed_adata(adata, model, settings, read=read, run=run, name=file.name)
            provenance = adata.uns["geneformer_grn"]["embed"]
            provenance["seed"] = seed
            adata.write_h5ad(temporary)
        write_json(out.with_suffix(".parameters.json"), {"verb": "embed", "file": file, **provenance})
        logger.info("wrote %s", out)
        summary |= {
            "out": out,
            "model": provenance["model"],
            "n_cells": provenance["cells"]["n_cells"],
            "n_dimensions": adata.obsm["X_geneformer"].shape[1],
            "n_genes_matched": provenance["cells"]["n_matched"],
            "n_genes_lost": provenance["cells"]["n_lost"],
            "seed": seed,
        }
