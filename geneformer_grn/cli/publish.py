"""``geneformer-grn publish``: a checkpoint with its card, pushed to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A folder, a shipped name, or a Hugging Face id on disk.")
]
Repository = Annotated[str, typer.Option("--repo", metavar="OWNER/NAME", help="Where to; made if not there.")]
Card = Annotated[
    Path | None,
    typer.Option(
        "--card", metavar="CARD.md", help="The model card (default: README.md of the checkpoint).",
        show_default=False,
    ),
]  # fmt: skip
DataCard = Annotated[
    Path | None,
    typer.Option(
        "--data-card", metavar="FILE", show_default=False,
        help="The corpus's data_card.md or .json, published as data_card.md (default: the checkpoint's).",
    ),
]  # fmt: skip
License = Annotated[
    Path | None,
    typer.Option(
        "--license-file", metavar="FILE", show_default=False,
        help="Text of the licence that the card states (default: the checkpoint's LICENSE, else Apache's).",
    ),
]  # fmt: skip
Forbid = Annotated[
    Path | None,
    typer.Option(
        "--forbid", metavar="FILE", show_default=False,
        help="Words that must be in no file, one a line: donors' names, say.",
    ),
]  # fmt: skip
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the files with their sha256; no network.")]
Private = Annotated[bool, typer.Option("--private", help="Nobody else sees the repository.")]


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("publish", help="Push a checkpoint with its model card to the Hugging Face Hub.")(publish)


def publish(
    checkpoint: Checkpoint,
    *,
    repo: Repository,
    card: Card = None,
    data_card: DataCard = None,
    license_file: License = None,
    forbid: Forbid = None,
    dry_run: DryRun = False,
    private: Private = False,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Check, list and push."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.workflows.publish import PublishSettings, publish, read_words

        settings = PublishSettings(
            card=card, data_card=data_card, license_file=license_file, forbidden=read_words(forbid),
            private=private, dry_run=dry_run,
        )  # fmt: skip
        found = publish(checkpoint, repo, settings)
        if not quiet:
            for file in found["files"]:
                typer.echo(f"{file['size']:>14,}  {file['sha256']}  {file['name']}")
            typer.echo("nothing was pushed (--dry-run)" if dry_run else f"pushed: {found['url']}")
        summary |= found | {"seed": seed}
