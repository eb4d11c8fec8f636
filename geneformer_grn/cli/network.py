"""``geneformer-grn network``: a gene network per cell group, by several methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("network", help="Score regulator → target edges, per cell group and method.")(network)


def network(
    file: options.Cells,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="EDGES.tsv", help="Table to write (.tsv, .tsv.gz).")],
    model: options.Model = "mini",
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Comma-separated: attention; from the counts correlation, spearman, partial_correlation, "
            "graphical_lasso (at most 500 genes), ridge, lasso, elastic_net; or all that take so many genes.",
        ),
    ] = "attention,correlation",
    regulators: Annotated[
        str, typer.Option("--regulators", metavar="FILE|auto", help="Genes, one a line; auto: known ones.")
    ] = "auto",
    groups: options.Groups = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Edges kept per group and method.")] = 5000,
    max_targets: Annotated[
        int, typer.Option("--max-targets", min=1, help="Most variable genes taken as targets.")
    ] = 2000,
    min_cells: Annotated[int, typer.Option("--min-cells", min=3, help="Smallest group scored.")] = 20,
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
    """Write the edge table, and the universe scored with all parameters beside it."""
    with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
        from geneformer_grn.cells.counts import ReadSettings
        from geneformer_grn.workflows.cells import OpenSettings
        from geneformer_grn.workflows.network import METHODS, NetworkSettings
        from geneformer_grn.workflows.network_file import network_of_file
        from geneformer_grn.workflows.regulators import read_gene_list

        settings = NetworkSettings(
            methods=METHODS if methods == "all" else tuple(filter(None, map(str.strip, methods.split(",")))),
            regulators="auto" if regulators == "auto" else read_gene_list(regulators),
            top=top,
            max_targets=max_targets,
            min_cells=min_cells,
            token_budget=token_budget,
            device=device,
        )
        opening = OpenSettings(
            model=model,
            device=device,
            precision=precision,  # type: ignore[arg-type]  # checked there, with the known names
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
        result = network_of_file(file, out, settings=settings, opening=opening, seed=seed)
        summary |= {
            "out": out,
            "n_edges": len(result.edges),
            "n_regulators": len(result.universe.regulators),
            "n_targets": len(result.universe.targets),
            "n_cells": result.universe.n_cells,
            "skipped": result.skipped,
            "agreement": result.agreement,
            "seed": seed,
        }
