"""``geneformer-grn pretrain``: train a model from a corpus, as a config file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geneformer_grn.cli import options, verb

if TYPE_CHECKING:
    from geneformer_grn.training.config import PretrainConfig


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
    branch_from: Annotated[
        str | None,
        typer.Option(
            "--branch-from",
            metavar="RUN_DIR@STEP",
            help="Begin at this checkpoint of another run; only length and decline may differ.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print size, steps, arithmetic, memory and hours, and exit.")
    ] = False,
    cells: Annotated[
        int | None,
        typer.Option("--cells", min=1, help="For --dry-run without the corpus: the number of its cells."),
    ] = None,
    mean_length: Annotated[
        float | None, typer.Option("--mean-length", help="Likewise: mean tokens of a cell, cropped.")
    ] = None,
    setting: Annotated[
        str, typer.Option("--setting", help="Likewise: its vocabulary, v1, v2 or default.")
    ] = "default",
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="For --dry-run: how many; default: those of the launcher."),
    ] = None,
    mfu: Annotated[
        float, typer.Option("--mfu", help="For --dry-run: share of an H100's peak that hours assume.")
    ] = 0.4,
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

        given = {"run.seed": seed, "run.device": device, "run.threads": threads}
        overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
        settings = read_config(config, [*(changes or []), *overrides])
        stated = {"--cells": cells, "--mean-length": mean_length}
        if dry_run:
            summary.update(_dry_run(settings, stated, setting=setting, processes=processes, mfu=mfu))
            for line in _lines(summary):
                typer.echo(line)
        elif any(value is not None for value in (*stated.values(), processes)):
            raise ValueError(
                "--cells, --mean-length and --processes belong to --dry-run; a run reads its corpus"
            )
        else:
            from geneformer_grn.training.branching import read_branch_point
            from geneformer_grn.training.pretrain import run_pretraining

            point = None if branch_from is None else read_branch_point(branch_from)
            summary.update(run_pretraining(settings, out, resume=resume, branch_from=point))
    if not dry_run and not summary["finished"]:
        raise typer.Exit(130)


def _dry_run(
    settings: PretrainConfig, stated: dict[str, Any], *, setting: str, processes: int | None, mfu: float
) -> dict[str, Any]:
    """Return plan and cost, of the corpus or of what is stated in its place."""
    from geneformer_grn.training.cost import estimate
    from geneformer_grn.training.plan import plan_stated
    from geneformer_grn.training.pretrain import plan_run

    missing = [option for option, value in stated.items() if value is None]
    if len(missing) == 1:
        raise ValueError(f"{missing[0]} is missing: --cells and --mean-length are given together, or neither")
    if missing and not settings.data.corpus.exists():
        raise FileNotFoundError(
            f"data.corpus {settings.data.corpus} is not here; tokenize it, or plan without it: --dry-run "
            "--cells N --mean-length TOKENS --setting v1|v2|default"
        )
    if missing:
        plan = plan_run(settings, world_size=processes)
    else:
        plan = plan_stated(
            settings, n_cells=stated["--cells"], mean_length=stated["--mean-length"], setting=setting,
            world_size=processes or 1,
        )  # fmt: skip
    return plan | estimate(settings, plan, mfu=mfu)


def _lines(summary: dict[str, Any]) -> list[str]:
    """Return the summary as lines of two columns; the parts of a nested entry under its name."""
    flat: dict[str, Any] = {}
    for key, value in summary.items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{key} {part}".replace("_", " ").strip(): item for part, item in nested}
    return [f"{key:>36}  {f'{value:,}' if isinstance(value, int) else value}" for key, value in flat.items()]
