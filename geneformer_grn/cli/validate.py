"""``geneformer-grn validate``: what a file is, whether it can be used, and what to do."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb
from geneformer_grn.cli.tokenize import OfModel, Vocabulary, vocabulary_of


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("validate", help="Say what a file of cells is, whether it can be used, and what to do.")(
        validate
    )


def validate(
    file: options.Cells,
    *,
    model: OfModel = None,
    vocabulary: Vocabulary = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at some 2,000 cells of a large file, not at all.")
    ] = False,
    where: options.Where = None,
    species: options.Species = "human",
    layer: options.Layer = None,
    gene_column: options.GeneColumn = None,
    counts_column: options.CountsColumn = None,
    allow_normalised: options.AllowNormalised = False,
    sum_duplicates: options.SumUnlessRefused = True,
    drop_empty: options.DropUnlessRefused = True,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Print what was found; exit with 0 if the file can be used as called, else with 2; write nothing."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from dataclasses import asdict

        from geneformer_grn.cells.opening import find_files
        from geneformer_grn.cells.reading import ReadSettings
        from geneformer_grn.workflows.validate import validate_file
        from geneformer_grn.workflows.validation_text import next_commands, one_line, screen

        genes = vocabulary_of(model, vocabulary)
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
        named = f"--model {shlex.quote(model)}" if model else ""
        named = f"--vocabulary {shlex.quote(str(vocabulary))}" if vocabulary else named
        files = find_files([file]) if file.is_dir() else [file]
        single = files == [file]
        if not single and not quiet:
            folder = file.resolve().name
            typer.echo(f"{folder} is a folder of {len(files)} files; validate one of them to see more")
        found = []
        for path in files:
            found.append(validate_file(path, genes, read, quick=quick))
            if not quiet:
                typer.echo(screen(found[-1], path, model=named) if single else one_line(found[-1]))
        reports = [
            {**asdict(one), "usable": one.usable, "next": next_commands(one, path, model=named)}
            for one, path in zip(found, files, strict=True)
        ]
        summary |= {**(reports[0] if single else {"files": reports}), "seed": seed}
    refused = [one for one in found if not one.usable]
    if refused and single:
        raise ValueError(refused[0].problems[0].what)
    if refused:
        raise ValueError(
            f"{len(refused)} of {len(files)} files are refused: {', '.join(one.name for one in refused)}"
        )
