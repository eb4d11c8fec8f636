"""``geneformer-grn finetune-search``: try settings of a fine-tuning run, judged by its validation part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("finetune-search", help="Search settings of a fine-tuning run by its validation part.")(
        finetune_search
    )


def finetune_search(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.toml", help="A fine-tuning config with a section search.", show_default=False
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override one key, such as search.trials=40; repeatable."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the search.")] = Path("search"),
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", metavar="FILE", help="Where a file that the config names lies; repeatable."),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes side by side.")] = 1,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=options.LARGEST_SEED, help="Overrides run.seed of the config."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Overrides run.device of the config.")
    ] = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Run trials until there are enough of them; the same call again does what is missing."""
    with verb(quiet=quiet, as_json=as_json, threads=threads, repeatable=True) as summary:
        from geneformer_grn.training.finetune_config import read_finetune_config
        from geneformer_grn.workflows.search import run_search

        given = {"run.seed": seed, "run.device": device}
        overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
        settings = read_finetune_config(config, [*(changes or []), *overrides])
        facts = run_search(settings, out, files=files or [], processes=processes)
        if not quiet:
            typer.echo(
                f"{facts['n_complete']} trials, {facts['n_pruned']} more cut short; best validation score "
                f"{facts['score']:.4f}\ngeneformer-grn finetune {config} {facts['asked_for']}"
            )
        summary |= {"out": out, **facts}
