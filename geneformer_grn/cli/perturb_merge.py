"""``geneformer-grn perturb-merge``: the tables of a perturbation whose parts many machines made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("perturb-merge", help="Join the parts of a perturbation, and write its tables.")(
        perturb_merge
    )


def perturb_merge(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="What was given as --out of perturb --part.", show_default=False
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write the tables to.")],
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Refuse parts of another seed (default: take theirs).")
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the tables of perturb; cells and options are those of the parts, the file must still be there."""
    with verb(quiet=quiet, as_json=as_json, repeatable=True) as summary:
        from geneformer_grn._runtime import logger
        from geneformer_grn.workflows.perturb import merge_perturbation

        facts = merge_perturbation(folders, out, seed=seed)
        logger.info("wrote %s", out)
        summary |= {"out": out, **facts}
