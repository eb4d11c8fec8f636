"""``geneformer-grn screen``: many genes estimated from a few passes a cell, the top of them run exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("screen", help="Estimate the effect of many genes; run the top of them exactly.")(screen)


def screen(
    file: options.Cells,
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write; DIR.unfinished keeps the work.")
    ],
    genes: Annotated[
        str, typer.Option("--genes", metavar="G1,G2|all|regulators", help="Genes to screen.")
    ] = "all",
    model: options.Model = "mini",
    kind: Annotated[str, typer.Option("--kind", help="delete or knockout.")] = "delete",
    share: Annotated[
        float | None,
        typer.Option(
            "--share",
            help="Share of each group's genes to run exactly (default: what a third of passes allows).",
        ),
    ] = None,
    audit: Annotated[
        float,
        typer.Option("--audit", help="Share of all genes, at random, to run exactly: measures the recall."),
    ] = 0.05,
    effort: Annotated[
        float,
        typer.Option("--effort", help="What the estimate may cost, as a share of running every gene."),
    ] = 0.125,
    groups: options.Groups = None,
    states: Annotated[
        str | None,
        typer.Option("--states", metavar="COLUMN", help="obs column of states; start-state cells are used."),
    ] = None,
    start: Annotated[str | None, typer.Option("--start", help="State the cells are in.")] = None,
    goal: Annotated[
        str | None, typer.Option("--goal", help="State to measure towards; genes are ranked by that.")
    ] = None,
    alternatives: Annotated[
        str, typer.Option("--alternatives", metavar="B,C", help="Further states to measure towards.")
    ] = "",
    readout: Annotated[
        str | None, typer.Option("--readout", help="cell,state (default: cell, with states also state).")
    ] = None,
    donors: options.Donors = None,
    encoder_layer: options.EncoderLayer = -1,
    pooling: Annotated[
        str | None,
        typer.Option("--pooling", help="mean (over genes) or cls; default: what the model's setting uses."),
    ] = None,
    n_cells: Annotated[
        int | None, typer.Option("--cells", min=1, help="Use a random sample of at most this many cells.")
    ] = None,
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
    """Write genes.parquet (estimates), and of the genes run exactly effects.parquet and cells.parquet."""
    with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
        from geneformer_grn._runtime import logger
        from geneformer_grn.cells.counts import ReadSettings
        from geneformer_grn.workflows.perturb_options import PerturbOptions, parse_genes, split_names
        from geneformer_grn.workflows.perturb_parts import PerturbSource
        from geneformer_grn.workflows.screen import ScreenOptions, screen_file

        asked = PerturbOptions(
            genes=parse_genes(genes),
            kind=kind,
            groups=groups,
            states=states,
            start=start,
            goal=goal,
            alternatives=split_names(alternatives),
            readouts=None if readout is None else split_names(readout),
            donors=donors,
            n_null=0,
            encoder_layer=encoder_layer,
            pooling=pooling,  # type: ignore[arg-type]  # checked there, with the known names
            token_budget=token_budget,
            seed=seed,
        )
        chosen = ScreenOptions(perturb=asked, share=share, audit=audit, effort=effort)
        reading = ReadSettings(
            layer=layer,
            gene_column=gene_column,
            counts_column=counts_column,
            allow_normalised=allow_normalised,
            sum_duplicates=sum_duplicates,
            drop_empty=drop_empty,
            where=where,
            species=species,  # type: ignore[arg-type]  # checked there, with the known names
        )
        source = PerturbSource(
            file=file,
            model=model,
            read=reading,
            n_cells=n_cells,
            device=device,
            precision=precision,  # type: ignore[arg-type]  # checked there
        )
        facts = screen_file(source, out, chosen)
        logger.info("wrote %s", out)
        summary |= {"out": out, "kind": kind, **facts, "seed": seed}
