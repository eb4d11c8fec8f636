"""``geneformer-grn run``: from a file of cells to embedding, edges, effects, propagation and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write the outputs to.")]
Regulators = Annotated[
    str,
    typer.Option("--regulators", metavar="FILE|auto", help="File with one gene a line, or auto: known ones."),
]
Perturb = Annotated[
    str,
    typer.Option(
        "--perturb", metavar="GENE,...|auto", help="Genes to delete in silico, or auto: network hubs."
    ),
]
NCells = Annotated[int | None, typer.Option("--cells", min=1, help="Use a random sample of so many cells.")]
Passes = Annotated[
    int,
    typer.Option("--passes", min=10, help="Most perturbed cells to run through the model, nulls included."),
]


def add(app: typer.Typer) -> None:
    """Add the verb to the command line."""

    @app.command("run")
    def run(
        cells: options.Cells,
        *,
        out: Out,
        model: options.Model = "mini",
        groups: options.Groups = None,
        regulators: Regulators = "auto",
        perturb: Perturb = "auto",
        n_cells: NCells = None,
        passes: Passes = 3000,
        encoder_layer: options.EncoderLayer = -1,
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
        token_budget: options.TokenBudget = 16384,
        threads: options.Threads = None,
        seed: options.Seed = 0,
        quiet: options.Quiet = False,
        as_json: options.Json = False,
    ) -> None:
        """Run the whole path on FILE: embed, extract edges, perturb, propagate, report."""
        with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
            from geneformer_grn.cells.counts import ReadSettings
            from geneformer_grn.workflows.run import RunSettings, run_file

            settings = RunSettings(
                model=model,
                groups=groups,
                regulators=regulators,
                perturb=perturb,
                n_cells=n_cells,
                max_passes=passes,
                encoder_layer=encoder_layer,
                device=device,
                precision=precision,  # type: ignore[arg-type]  # checked by load_encoder
                token_budget=token_budget,
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
            summary |= run_file(cells, out, settings).summary
