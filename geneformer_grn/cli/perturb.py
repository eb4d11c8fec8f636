"""``geneformer-grn perturb``: in-silico perturbation of genes in the cells of a file.

The parts that are done lie in ``OUT.unfinished`` until the tables are written: the same command goes on there
after an interruption, ``--part I/N`` does one machine's share, and ``perturb-merge`` joins the shares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb
from geneformer_grn.workflows.perturb_options import NULL_GENES, PART_TOKENS


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
        typer.Option(
            "--readout", help="cell,state,genes,expression (default: cell, with states also state)."
        ),
    ] = None,
    donors: options.Donors = None,
    statistics: Annotated[
        str, typer.Option("--statistics", help="reference: the reference's statistics too, beside ours.")
    ] = "",
    encoder_layer: options.EncoderLayer = -1,
    pooling: Annotated[
        str | None,
        typer.Option("--pooling", help="mean (over genes) or cls; default: what the model's setting uses."),
    ] = None,
    n_null: options.NullGenes = NULL_GENES,
    null_cells: options.NullCells = 10,
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
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            metavar="I/N",
            help="Do share I of N, from 0, of the parts and leave: for many machines.",
        ),
    ] = None,
    part_tokens: Annotated[
        int, typer.Option("--part-tokens", min=1, help="Tokens of a part, and at most lost when interrupted.")
    ] = PART_TOKENS,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write effects.parquet, cells.parquet, parameters.json, and a table for each further readout."""
    with verb(quiet=quiet, as_json=as_json, threads=threads, repeatable=True) as summary:
        from geneformer_grn._runtime import logger
        from geneformer_grn.cells.counts import ReadSettings
        from geneformer_grn.cells.stamps import parse_share
        from geneformer_grn.workflows.perturb import (
            PerturbOptions,
            PerturbSource,
            parse_genes,
            perturb_file,
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
            donors=donors,
            statistics=split_names(statistics),
            n_null=n_null,
            null_cells=null_cells,
            max_passes=max_passes,
            encoder_layer=encoder_layer,
            pooling=pooling,  # type: ignore[arg-type]  # checked there, with the known names
            token_budget=token_budget,
            part_tokens=part_tokens,
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
        source = PerturbSource(
            file=file,
            model=model,
            read=reading,
            n_cells=n_cells,
            device=device,
            precision=precision,  # type: ignore[arg-type]  # checked there, with the known names
        )
        share = None if part is None else parse_share(part, "--part")
        facts = perturb_file(source, out, chosen, share=share)
        if facts["finished"]:
            logger.info("wrote %s", out)
        summary |= {"out": out, "kind": kind, **facts, "seed": seed}
