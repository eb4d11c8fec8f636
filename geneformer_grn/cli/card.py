"""``geneformer-grn card``: a model card, filled in from the results of ``evaluate model`` or ``finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb

Results = Annotated[
    Path, typer.Argument(metavar="RESULTS.json", help="Written by evaluate model or finetune.")
]
Out = Annotated[Path, typer.Option("--out", metavar="CARD.md", help="Markdown file to write.")]


def add(app: typer.Typer) -> None:
    """Add the verb to the command line."""

    @app.command("card")
    def card(
        results: Results,
        *,
        out: Out,
        seed: options.Seed = 0,
        quiet: options.Quiet = False,
        as_json: options.Json = False,
    ) -> None:
        """Write a model card whose every figure comes from RESULTS.json."""
        with verb(quiet=quiet, as_json=as_json) as summary:
            from geneformer_grn.workflows.card import write_card

            write_card(results, out)
            summary |= {"card": out.name, "seed": seed}
