"""``geneformer-grn explain``: the genes that made a fine-tuned model say so, and whether they really did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("explain", help="Which genes drive each class of a fine-tuned model.")(explain)


def explain(
    file: options.Cells,
    *,
    model: Annotated[
        list[str],
        typer.Option("--model", help="Folder of a fine-tuned model; again for each fold of the same task."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")],
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="COLUMN", help="obs column of classes (default: as predicted)."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Head to explain, where there are several.")
    ] = None,
    classes: Annotated[
        str, typer.Option("--classes", metavar="A,B", help="Classes to explain (default: all).")
    ] = "",
    method: Annotated[
        str,
        typer.Option("--method", help="integrated_gradients,gradient_x_input,attention,occlusion"),
    ] = "integrated_gradients",
    n_cells: Annotated[
        int, typer.Option("--cells", min=1, help="Cells to explain at most, as many of each class.")
    ] = 200,
    baseline: Annotated[
        str, typer.Option("--baseline", help="Integrated gradients: mask or pad in place of every gene.")
    ] = "mask",
    kind: Annotated[
        str, typer.Option("--kind", help="How genes are taken away: delete or knockout.")
    ] = "delete",
    n_top: Annotated[int, typer.Option("--top", min=1, help="Length of the lists that are compared.")] = 50,
    donors: options.Donors = None,
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
    """Write drivers.tsv, deletion.tsv, agreement.tsv, cells.parquet, scores.parquet and two figures."""
    with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
        from geneformer_grn._runtime import logger
        from geneformer_grn.cells.reading import ReadSettings
        from geneformer_grn.explanation.settings import AttributionSettings, DeletionSettings
        from geneformer_grn.workflows.explain import ExplainOptions, ExplainSource, explain_file
        from geneformer_grn.workflows.perturb_options import split_names

        asked = ExplainOptions(
            label=label,
            task=task,
            classes=split_names(classes),
            methods=split_names(method),
            n_cells=n_cells,
            n_top=n_top,
            donors=donors,
            attribution=AttributionSettings(
                baseline=baseline,  # type: ignore[arg-type]  # checked there, with the known names
                occlusion=kind,  # type: ignore[arg-type]  # checked there
                token_budget=token_budget,
            ),
            deletion=DeletionSettings(kind=kind, token_budget=token_budget, seed=seed),
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
        source = ExplainSource(
            file=file,
            models=tuple(model),
            read=reading,
            device=device,
            precision=precision,  # type: ignore[arg-type]  # checked there
        )
        facts = explain_file(source, out, asked)
        logger.info("wrote %s", out)
        summary |= {"out": out, **facts, "seed": seed}
