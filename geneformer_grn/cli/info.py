"""``geneformer-grn info``: what a checkpoint, vocabulary, corpus or edge table is."""

from __future__ import annotations

from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("info", help="Say what a checkpoint, vocabulary, corpus or edge table is.")(info)


def info(
    target: Annotated[
        str, typer.Argument(metavar="mini|CHECKPOINT|CORPUS|EDGES", help="A shipped name, folder or file.")
    ],
    *,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Print the facts, one a line."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.workflows.describe import describe

        facts = describe(target)
        if not quiet:
            width = max(map(len, facts)) + 2
            for name, value in facts.items():
                shown = f"{value:,}" if isinstance(value, int) else value
                typer.echo(f"{name.replace('_', ' ').ljust(width)}{shown}")
        summary |= facts | {"seed": seed}
