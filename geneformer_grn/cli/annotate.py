"""``geneformer-grn annotate``: labels for cells, with probabilities, and "unknown" for what is unlike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("annotate", help="Label cells by a labelled file or a fine-tuned model.")(annotate)


def annotate(
    file: options.Cells,
    *,
    reference: Annotated[
        str,
        typer.Option(
            "--reference", metavar="LABELLED|CHECKPOINT", help="Labelled cells, or what finetune wrote."
        ),
    ],
    label: Annotated[
        str,
        typer.Option("--label", metavar="COLUMN", help="obs column of the reference, or the model's task."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="OUT.h5ad", help="File to write.")],
    model: options.Model = "mini",
    donors: Annotated[
        str | None,
        typer.Option("--donors", metavar="COLUMN", help="Donors of the reference: held out whole."),
    ] = None,
    features: Annotated[
        str, typer.Option("--features", help="auto (what predicts best), expression, model or both.")
    ] = "auto",
    unknown: Annotated[
        float, typer.Option("--unknown", help="Share of known cells that may be called unknown; 0: none.")
    ] = 0.05,
    min_probability: Annotated[
        float, typer.Option("--min-probability", help="With a fine-tuned model: below it, unknown.")
    ] = 0.5,
    folds: Annotated[int, typer.Option("--folds", help="Parts that the reference is cut into.")] = 5,
    reference_cells: Annotated[
        int, typer.Option("--reference-cells", min=20, help="Reference cells used at most.")
    ] = 10_000,
    where: options.Where = None,
    species: options.Species = "human",
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    counts_column: options.CountsColumn = None,
    allow_normalised: options.AllowNormalised = False,
    sum_duplicates: options.SumDuplicates = False,
    drop_empty: options.DropEmpty = False,
    reference_layer: Annotated[
        str | None, typer.Option("--reference-layer", help="Layer of the reference with raw counts.")
    ] = None,
    reference_gene_column: Annotated[
        str | None,
        typer.Option("--reference-gene-column", help="var column of the reference with gene names."),
    ] = None,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "fp32",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the input with labels and probabilities, and what they are worth beside it."""
    with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
        from geneformer_grn._runtime import atomic_path, logger, write_json
        from geneformer_grn.cells.opening import read_anndata
        from geneformer_grn.cells.reading import ReadSettings
        from geneformer_grn.evaluation.annotation import AnnotationSettings
        from geneformer_grn.workflows.annotate import AnnotateOptions, annotate_adata, annotation_text
        from geneformer_grn.workflows.embed import ModelSettings

        if out.suffix != ".h5ad" or out.is_dir():
            raise ValueError(f"--out must name an .h5ad file, got {out}")
        if not Path(reference).exists():
            raise FileNotFoundError(f"--reference {reference}: there is no such file or folder")
        read = ReadSettings(
            layer=layer,
            gene_column=gene_column,
            counts_column=counts_column,
            allow_normalised=allow_normalised,
            sum_duplicates=sum_duplicates,
            drop_empty=drop_empty,
            where=where,
            species=species,  # type: ignore[arg-type]  # checked there, with the known names
        )
        chosen = AnnotateOptions(
            label=label,
            donors=donors,
            max_reference=reference_cells,
            min_probability=min_probability,
            read=read,
            read_reference=ReadSettings(
                layer=reference_layer, gene_column=reference_gene_column, sum_duplicates=True, drop_empty=True
            ),
            run=ModelSettings(device=device, precision=precision),  # type: ignore[arg-type]  # checked there
        )
        settings = AnnotationSettings(
            features=features,  # type: ignore[arg-type]  # checked there, with the known names
            folds=folds,
            unknown=unknown,
            seed=seed,
        )
        with atomic_path(out) as temporary:
            adata = read_anndata(file, layer)
            report = annotate_adata(adata, reference, chosen, model=model, settings=settings)
            adata.write_h5ad(temporary)
        write_json(
            out.with_suffix(".parameters.json"), {"verb": "annotate", "file": file, **report, "seed": seed}
        )
        logger.info("wrote %s", out)
        if not quiet:
            typer.echo(annotation_text(report))
        shown = ("by", "label", "classes", "features", "n_cells", "share_unknown", "called")
        summary |= {"out": out, **{name: report[name] for name in shown}, "seed": seed}
