"""``geneformer-grn network``: a gene network per cell group, by several methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import network_export, options, verb

Methods = Annotated[
    str,
    typer.Option(
        "--methods",
        help="Comma-separated. From the model: attention, attention_rank_corrected, attention_rollout, "
        "attention_heads (each head), attention_selected (heads chosen by --truth), embedding, contextual, "
        "influence, gene_shifts. From the counts: "
        "correlation, spearman, partial_correlation, ridge, ... Also combined (of those named; alone: of a "
        "choice), and all that take so many genes.",
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option("--truth", metavar="TRUTH.tsv", help="Known edges: scores every method beside correlation."),
]
Page = Annotated[
    Path | None,
    typer.Option("--page", metavar="FILE.html", help="Also show the edges as an interactive page."),
]
Circular = Annotated[
    str, typer.Option("--circular", metavar="WHY", help="Label a truth that expression helped to make.")
]
Compare = Annotated[
    str | None, typer.Option("--compare", metavar="A,B", help="Two groups: which edges change between them.")
]
Within = Annotated[
    str | None,
    typer.Option("--within", metavar="COLUMN", help="Score within each state of this column, and average."),
]
Heads = Annotated[
    str, typer.Option("--attention-heads", metavar="0:3,2:1", help="Heads to average, layer:head; or all.")
]
Direction = Annotated[
    str, typer.Option("--attention-direction", help="target_reads, regulator_reads or both.")
]
Correction = Annotated[
    str,
    typer.Option("--attention-correction", help="none, average_product, rank_position or row_rank."),
]


def add(app: typer.Typer) -> None:
    """Register the verb, and the one that converts its tables."""
    app.command("network", help="Score regulator → target edges, per cell group and method.")(network)
    network_export.add(app)


def network(
    file: options.Cells,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="EDGES.tsv", help="Table to write (.tsv, .tsv.gz).")],
    page: Page = None,
    model: options.Model = "mini",
    methods: Methods = "attention,correlation",
    regulators: Annotated[
        str, typer.Option("--regulators", metavar="FILE|auto", help="Genes, one a line; auto: known ones.")
    ] = "auto",
    groups: options.Groups = None,
    n_cells: Annotated[
        int | None, typer.Option("--cells", min=1, help="Use a random sample of so many cells.")
    ] = None,
    truth: Truth = None,
    circular: Circular = "",
    compare: Compare = None,
    splits: Annotated[
        int, typer.Option("--splits", min=10, help="Halvings of each group for --compare.")
    ] = 50,
    within: Within = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Edges kept per group and method.")] = 5000,
    max_targets: Annotated[
        int, typer.Option("--max-targets", min=1, help="Most variable genes taken as targets.")
    ] = 2000,
    min_cells: Annotated[int, typer.Option("--min-cells", min=3, help="Smallest group scored.")] = 20,
    attention_heads: Heads = "all",
    attention_direction: Direction = "target_reads",
    attention_correction: Correction = "none",
    cells_per_regulator: Annotated[
        int, typer.Option("--cells-per-regulator", min=1, help="For influence and gene_shifts.")
    ] = 50,
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
        from geneformer_grn.workflows.network_card import methods_card
        from geneformer_grn.workflows.network_file import NetworkExtras, network_of_file
        from geneformer_grn.workflows.network_settings import NetworkSettings, heads_of, methods_of
        from geneformer_grn.workflows.regulators import read_gene_list

        settings = NetworkSettings(
            methods=methods_of(methods),
            regulators="auto" if regulators == "auto" else read_gene_list(regulators),
            top=top,
            max_targets=max_targets,
            min_cells=min_cells,
            attention_heads=heads_of(attention_heads),
            attention_direction=attention_direction,
            attention_correction=attention_correction,
            cells_per_regulator=cells_per_regulator,
            token_budget=token_budget,
            device=device,
            seed=seed,
        )
        opening = OpenSettings(
            model=model,
            device=device,
            precision=precision,  # type: ignore[arg-type]  # checked there, with the known names
            groups=groups,
            n_cells=n_cells,
            seed=seed,
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
        extras = NetworkExtras(
            truth=truth, circular=circular, within=within, compare=compare, n_splits=splits
        )
        result = network_of_file(file, out, settings=settings, opening=opening, extras=extras, page=page)
        if result.card is not None and not as_json:
            typer.echo(methods_card(result.card))
        summary |= {
            "out": out,
            "page": page,
            "n_edges": len(result.edges),
            "n_regulators": len(result.universe.regulators),
            "n_targets": len(result.universe.targets),
            "n_cells": result.universe.n_cells,
            "skipped": result.skipped,
            "agreement": result.agreement,
            "card": result.card,
            "n_differences": None if result.differences is None else len(result.differences),
            "seed": seed,
        }
