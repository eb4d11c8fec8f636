"""``geneformer-grn finetune``: teach a model labels, and print what that is worth beside simple baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geneformer_grn.cli import options, verb

if TYPE_CHECKING:
    from rich.table import Table


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("finetune", help="Fine-tune a model on labelled cells or genes, beside baselines.")(finetune)


def finetune(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.toml", help="What to learn from what, see finetune/configs.", show_default=False
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override one key, such as optim.lr=2e-4; repeatable."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the run.")] = Path("finetuned"),
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", metavar="FILE", help="Where a file that the config names lies; repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the rows of the table that DIR lacks.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=options.LARGEST_SEED, help="Overrides run.seed of the config."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Overrides run.device of the config.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Overrides optim.precision of the config.")
    ] = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune a model, run every baseline on the same split, and print the table."""
    with verb(quiet=quiet, as_json=as_json, threads=threads, resumable=True) as summary:
        from geneformer_grn.training.finetune_config import read_finetune_config
        from geneformer_grn.workflows.finetune import run_finetuning

        given = {"run.seed": seed, "run.device": device, "optim.precision": precision, "run.threads": threads}
        overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
        settings = read_finetune_config(config, [*(changes or []), *overrides])
        results = run_finetuning(settings, out, files=files or [], resume=resume).results
        _show(results)
        summary |= {"out": out, "name": results["name"], "split": results["data"]["split"]}
        summary["tasks"] = {name: _short(task) for name, task in results["tasks"].items()}


def _short(task: dict[str, Any]) -> dict[str, Any]:
    """Return what the JSON line says of a task."""
    measure = task["main_measure"]
    return {
        "measure": measure,
        **{name: card[measure] for name, card in task["methods"].items()},
        "best_baseline": task["best_baseline"],
        "goals": [{"text": goal["text"], "met": goal["met"]} for goal in task["goals"]],
    }


def _show(results: dict[str, Any]) -> None:
    """Print the tables, what they rest on, and whether the goals are met."""
    from rich.console import Console

    from geneformer_grn.workflows.finetune_outputs import terminal_tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # in a file nothing needs to wrap
    data = results["data"]
    console.print(f"split: {data['split']}.", highlight=False)
    if data["split_why"]:
        console.print(data["split_why"], highlight=False)
    for title, heads, rows in terminal_tables(results):
        console.print(_rich_table(title, heads, rows))
    for task in results["tasks"].values():
        for goal in task["goals"]:
            word = {True: "met", False: "missed", None: "open"}[goal["met"]]
            console.print(f"goal {word}: {goal['text']}", highlight=False, markup=False)


def _rich_table(title: str, heads: list[str], rows: list[list[str]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table
