"""``geneformer-grn demo``: the main job on cells that ship with the package, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write the outputs to.")]


def add(app: typer.Typer) -> None:
    """Add the verb to the command line."""

    @app.command("demo")
    def demo(
        *,
        out: Out = Path("demo_out"),
        seed: options.Seed = 0,
        device: options.Device = "auto",
        precision: options.PrecisionOption = "fp32",
        token_budget: options.TokenBudget = 16_384,
        threads: options.Threads = None,
        quiet: options.Quiet = False,
        as_json: options.Json = False,
    ) -> None:
        """Run the whole path on shipped immune cells (a sample of them, in about half a minute)."""
        with verb(quiet=quiet, as_json=as_json, threads=threads) as summary:
            from geneformer_grn.workflows.run import run_demo

            summary |= run_demo(
                out,
                seed=seed,
                device=device,
                precision=precision,  # type: ignore[arg-type]  # checked by load_encoder
                token_budget=token_budget,
            ).summary
