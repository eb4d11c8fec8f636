"""``geneformer-grn pretrain``: train a model from a corpus, as a config file says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("pretrain", help="Pretrain a model on a corpus of ranked cells.")(pretrain)


def pretrain(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.toml", help="What to train, see pretrain/configs.", show_default=False
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override one key, such as optim.lr=2e-4; none unsets an optional one; repeatable.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run.")] = Path(
        "pretrained"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in DIR.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print size, steps and cost, and exit.")] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=options.LARGEST_SEED, help="Overrides run.seed of the config."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Overrides run.device of the config.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Overrides run.threads of the config.")
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Pretrain a model; exits 130 when it was stopped before the end and can be resumed."""
    with verb(quiet=quiet, as_json=as_json, resumable=True) as summary:
        from geneformer_grn.training.config import read_config
        from geneformer_grn.training.pretrain import plan_run, run_pretraining

        given = {"run.seed": seed, "run.device": device, "run.threads": threads}
        overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
        settings = read_config(config, [*(changes or []), *overrides])
        if dry_run:
            summary.update(plan_run(settings))
            for key, value in summary.items():
                typer.echo(f"{key:>24}  {value:,}" if isinstance(value, int) else f"{key:>24}  {value}")
        else:
            summary.update(run_pretraining(settings, out, resume=resume))
    if not dry_run and not summary["finished"]:
        raise typer.Exit(130)
