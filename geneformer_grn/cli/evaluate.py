"""``geneformer-grn evaluate``: what a result is worth, beside the simple baseline it has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import evaluate_effects, evaluate_embeddings, evaluate_network, options, verb

Checkpoint = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Shipped name or checkpoint folder.")]
Suite = Annotated[
    str, typer.Option("--suite", help="masked-genes, or standard: every question of a model card.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Files of the standard suite (default: $GENEFORMER_GRN_SHARED/data, else ../shared/data).",
    ),
]
Only = Annotated[
    str | None,
    typer.Option("--only", metavar="TASKS", help="Of the suite, the tasks that begin so, by commas."),
]
CellFiles = Annotated[
    list[Path] | None,
    typer.Option("--cells", metavar="FILE", help="Held-out cells (repeatable; default: the demo cells)."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="RESULTS.json", help="File to write the scores to.")
]
MaxCells = Annotated[int, typer.Option("--max-cells", min=1, help="Score at most so many cells of a file.")]


def add(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    evaluate = typer.Typer(
        help="Score a model, a network or effects beside simple baselines.", no_args_is_help=True
    )
    app.add_typer(evaluate, name="evaluate")
    evaluate_network.add(evaluate)
    evaluate_effects.add(evaluate)
    evaluate_embeddings.add(evaluate)

    @evaluate.command("model")
    def model(
        checkpoint: Checkpoint,
        *,
        suite: Suite = "masked-genes",
        data: Data = None,
        only: Only = None,
        cells: CellFiles = None,
        out: Out = None,
        max_cells: MaxCells = 1000,
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
        """Score a checkpoint beside simple baselines and an untrained copy of itself."""
        with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
            from geneformer_grn.cells.counts import ReadSettings
            from geneformer_grn.workflows.evaluate import EvaluateSettings, evaluate_model, results_table
            from geneformer_grn.workflows.suite import suite_table, suite_verdict

            settings = EvaluateSettings(
                suite=suite,
                only=() if only is None else tuple(part.strip() for part in only.split(",")),
                max_cells=max_cells,
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
            results = evaluate_model(checkpoint, cells or (), settings, data=data, out=out)
            if not as_json:
                typer.echo(results_table(results))
                if "suite" in results:
                    typer.echo(f"\n{suite_table(results['suite'])}\n\n{suite_verdict(results['suite'])}")
            summary |= results
