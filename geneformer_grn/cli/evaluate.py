"""``geneformer-grn evaluate``: what a result is worth, beside the simple baseline it has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import evaluate_effects, evaluate_network, options, verb

Checkpoint = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Shipped name or checkpoint folder.")]
Suite = Annotated[str, typer.Option("--suite", help="Which scores: standard.")]
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

    @evaluate.command("model")
    def model(
        checkpoint: Checkpoint,
        *,
        suite: Suite = "standard",
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
        """Score masked-gene prediction against rank-position frequencies and an untrained copy."""
        with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
            from geneformer_grn.cells.counts import ReadSettings
            from geneformer_grn.workflows.evaluate import EvaluateSettings, evaluate_model, results_table

            settings = EvaluateSettings(
                suite=suite,
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
            results = evaluate_model(checkpoint, cells or (), settings, out=out)
            if not as_json:
                typer.echo(results_table(results))
            summary |= results


def effects(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that perturb wrote.")],
    *,
    truth: Annotated[
        Path,
        typer.Option(
            "--truth",
            metavar="TRUTH",
            help="Measured perturbations: .h5ad of cells or of contrasts, or a table gene, affected, effect, "
            "q_value.",
        ),
    ],
    out: Out = None,
    cells: Annotated[
        Path | None,
        typer.Option(
            "--cells", metavar="FILE", help="Unperturbed cells (default: the truth's control cells)."
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option("--perturbation-column", metavar="COLUMN", help="obs column of the perturbed gene."),
    ] = None,
    control: Annotated[str | None, typer.Option("--control", help="Its value for unperturbed cells.")] = None,
    fdr: Annotated[float, typer.Option("--fdr", help="Responders have a q-value of at most this.")] = 0.05,
    min_effect: Annotated[
        float, typer.Option("--min-effect", min=0, help="Smallest effect of a responder.")
    ] = 0.0,
    min_responders: Annotated[
        int, typer.Option("--min-responders", min=1, help="Fewest responders of a perturbation scored.")
    ] = 5,
    n_rivals: Annotated[
        int, typer.Option("--matched", min=1, help="Matched genes each responder is compared with.")
    ] = 20,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Whose vocabulary to use (default: the model the run names)."),
    ] = None,
    where: options.Where = None,
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    counts_column: options.CountsColumn = None,
    allow_normalised: options.AllowNormalised = False,
    sum_duplicates: options.SumDuplicates = False,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Print how well readouts rank measured responders above matched genes, next to baselines."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.cells.counts import ReadSettings
        from geneformer_grn.workflows.effect_truth import TruthSettings
        from geneformer_grn.workflows.evaluate_effects import (
            EvaluateEffectsSettings,
            effects_text,
            evaluate_effects,
        )

        reading = ReadSettings(
            layer=layer,
            gene_column=gene_column,
            counts_column=counts_column,
            allow_normalised=allow_normalised,
            sum_duplicates=sum_duplicates,
            drop_empty=True,
            where=where,
        )
        settings = EvaluateEffectsSettings(
            truth=TruthSettings(column=column, control=control, fdr=fdr, min_effect=min_effect, read=reading),
            n_rivals=n_rivals,
            min_responders=min_responders,
            seed=seed,
            model=model,
        )
        results = evaluate_effects(folder, truth, settings, cells=cells, out=out)
        if not as_json:
            typer.echo(effects_text(results))
        summary |= results
