"""``geneformer-grn perturb``: in-silico perturbation of genes in the cells of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("perturb", help="Perturb genes in silico; say how far cells move.")(perturb)


def perturb(
    file: options.Cells,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write the tables to.")],
    genes: Annotated[
        str,
        typer.Option("--genes", metavar="G1,G2|all|regulators", help="Genes to perturb, one at a time."),
    ],
    model: options.Model = "mini",
    kind: Annotated[
        str, typer.Option("--kind", help="delete, overexpress, inhibit, activate or knockout.")
    ] = "delete",
    quartiles: Annotated[
        int,
        typer.Option(
            "--quartiles", help="How far inhibit and activate move a gene in the ranking: 1, 2 or 3."
        ),
    ] = 1,
    together: Annotated[
        bool, typer.Option("--together", help="Perturb the genes as one set (cells that hold all).")
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Also perturb all pairs; compare each with the sum of its genes.")
    ] = False,
    anchor: Annotated[
        str | None,
        typer.Option(
            "--anchor", metavar="GENE", help="Perturb each gene with this one; compare with it alone."
        ),
    ] = None,
    groups: options.Groups = None,
    states: Annotated[
        str | None,
        typer.Option("--states", metavar="COLUMN", help="obs column of states; start-state cells are used."),
    ] = None,
    start: Annotated[str | None, typer.Option("--start", help="State the cells are in.")] = None,
    goal: Annotated[str | None, typer.Option("--goal", help="State to measure towards.")] = None,
    alternatives: Annotated[
        str, typer.Option("--alternatives", metavar="B,C", help="Further states to measure towards.")
    ] = "",
    readout: Annotated[
        str | None,
        typer.Option("--readout", help="cell,state,genes (default: cell, with states also state)."),
    ] = None,
    encoder_layer: options.EncoderLayer = -1,
    pooling: Annotated[
        str | None,
        typer.Option("--pooling", help="mean (over genes) or cls; default: what the model's setting uses."),
    ] = None,
    n_null: Annotated[
        int, typer.Option("--null-genes", min=0, help="Genes of the same rank to compare each gene with.")
    ] = 40,
    null_cells: Annotated[
        int, typer.Option("--null-cells", min=1, help="Cells of a group each null gene is perturbed in.")
    ] = 10,
    max_passes: Annotated[
        int | None, typer.Option("--max-passes", min=1, help="Upper bound on passes, nulls included.")
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
    """Write effects.parquet, cells.parquet, parameters.json; for the readout genes gene_shifts.parquet."""
    with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
        from geneformer_grn._runtime import library_versions, logger, staged_folder, write_json
        from geneformer_grn.cells.counts import ReadSettings, read_counts
        from geneformer_grn.model.encoder import load_encoder
        from geneformer_grn.workflows.perturb import (
            PerturbOptions,
            parse_genes,
            perturb_counts,
            record,
            split_names,
        )

        chosen = PerturbOptions(
            genes=parse_genes(genes),
            kind=kind,
            quartiles=quartiles,
            together=together,
            pairs=pairs,
            anchor=anchor,
            groups=groups,
            states=states,
            start=start,
            goal=goal,
            alternatives=split_names(alternatives),
            readouts=None if readout is None else split_names(readout),
            n_null=n_null,
            null_cells=null_cells,
            max_passes=max_passes,
            encoder_layer=encoder_layer,
            pooling=pooling,  # type: ignore[arg-type]  # checked there, with the known names
            token_budget=token_budget,
            seed=seed,
        )
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
        with staged_folder(out) as folder:
            encoder = load_encoder(model, device=device, precision=precision)  # type: ignore[arg-type]
            counts = read_counts(file, encoder.vocabulary, reading, n_cells=n_cells, seed=seed)
            result = perturb_counts(encoder, counts, chosen)
            facts = record(encoder, counts, chosen, result)
            result.effects.to_parquet(folder / "effects.parquet", index=False)
            result.cells.to_parquet(folder / "cells.parquet", index=False)
            if result.gene_shifts is not None:
                result.gene_shifts.to_parquet(folder / "gene_shifts.parquet", index=False)
            write_json(
                folder / "parameters.json",
                {"verb": "perturb", "file": file, **facts, "versions": library_versions()},
            )
        logger.info("wrote %s", out)
        summary |= {"out": out, "model": encoder.name, "kind": kind, **result.facts, "seed": seed}
