"""``geneformer-grn evaluate effects``: perturbation effects against perturbations as measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(evaluate: typer.Typer) -> None:
    """Register the subcommand."""
    evaluate.command("effects", help="Score perturbation effects against measured perturbations.")(effects)


def effects(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that perturb wrote.")],
    *,
    truth: Annotated[
        Path,
        typer.Option(
            "--truth",
            metavar="TRUTH",
            help="As measured: .h5ad of cells or of contrasts, or a table gene, affected, effect[, q_value].",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RESULTS.json", help="File to write the scores to.")
    ] = None,
    cells: Annotated[
        Path | None,
        typer.Option("--cells", metavar="FILE", help="Unperturbed cells (default: the truth's controls)."),
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
        typer.Option("--model", help="Whose vocabulary to use (default: of the model the run names)."),
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
