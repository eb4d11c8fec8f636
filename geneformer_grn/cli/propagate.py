"""``geneformer-grn propagate``: what a perturbation does downstream, along the edges of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("propagate", help="Follow perturbations through a network, hop by hop.")(propagate)


def propagate(
    file: Annotated[
        Path, typer.Argument(metavar="EDGES.tsv", help="Edges: source, target, weight.", show_default=False)
    ],
    *,
    sources: Annotated[
        str, typer.Option("--sources", metavar="G1,G2", help="Genes to perturb, each on its own.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="OUT.tsv", help="Table to write.")],
    kind: Annotated[str, typer.Option("--kind", help="delete or overexpress.")] = "delete",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="iterated (hop by hop), linear (all hops), walk (ranking only), clamped (hop by hop in each "
            "cell, as CellOracle), covariance (no network: the control), ordered (no table: networks that "
            "lead downwards only, from raw counts), rerank (no table: through the model, in ranks).",
        ),
    ] = "iterated",
    hops: Annotated[
        int, typer.Option("--hops", min=1, help="Depth of iterated and clamped; times rerank asks the model.")
    ] = 3,
    cells_per_source: Annotated[
        int, typer.Option("--cells-per-source", min=1, help="For rerank: cells each gene is deleted in.")
    ] = 50,
    edge_method: Annotated[
        str | None, typer.Option("--edge-method", help="Use only the edges of this method.")
    ] = None,
    regulators: Annotated[
        Path | None,
        typer.Option(
            "--regulators",
            metavar="FILE",
            help="For ordered: who may regulate (default: the edges' sources).",
        ),
    ] = None,
    expression: Annotated[
        Path | None,
        typer.Option("--expression", metavar="FILE", help="Cells (.h5ad) to refit the edges to, with signs."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups", metavar="COLUMN", help="obs column of the edges' groups (default: as scored)."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="Whose vocabulary reads the cells; rerank runs it.")
    ] = "mini",
    where: options.Where = None,
    species: options.Species = "human",
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    counts_column: options.CountsColumn = None,
    allow_normalised: options.AllowNormalised = False,
    sum_duplicates: options.SumDuplicates = False,
    drop_empty: options.DropEmpty = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the effects, the parameters beside them and, after a refit, the signed edges."""
    with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
        from geneformer_grn.cells.counts import ReadSettings
        from geneformer_grn.network.propagation import PropagationSettings
        from geneformer_grn.workflows.cells import OpenSettings
        from geneformer_grn.workflows.propagation import PropagateRequest
        from geneformer_grn.workflows.propagation_file import propagate_file
        from geneformer_grn.workflows.regulators import read_gene_list

        request = PropagateRequest(
            sources=tuple(filter(None, map(str.strip, sources.split(",")))),
            kind=kind,
            edge_method=edge_method,
            settings=PropagationSettings(
                method=method,  # type: ignore[arg-type]  # checked there
                n_hops=hops,
                cells_per_source=cells_per_source,
                seed=seed,
            ),
            regulators=None if regulators is None else read_gene_list(regulators),
        )
        opening = OpenSettings(
            model=model,
            device=device,
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
        effects = propagate_file(file, out, request, expression=expression, opening=opening)
        summary |= {
            "out": out,
            "n_effects": len(effects),
            "sources": sorted(effects["source"].unique()),
            "groups": sorted(effects["group"].unique()),
            "n_genes_moved": int(effects["gene"].nunique()),
            "seed": seed,
        }
