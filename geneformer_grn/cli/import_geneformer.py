"""``geneformer-grn import-geneformer``: published dictionaries and weights become a checkpoint of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("import-geneformer", help="Import published Geneformer dictionaries and weights.")(
        import_geneformer
    )


def import_geneformer(
    *,
    dictionaries: Annotated[
        Path, typer.Option("--dictionaries", metavar="DIR", help="Folder of the published pickles.")
    ],
    setting: Annotated[str, typer.Option("--setting", help="v1 (gc30M) or v2 (gc104M).")],
    out: Annotated[Path, typer.Option("--out", metavar="CHECKPOINT", help="Folder to write.")],
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="DIR", help="Folder of the published model.")
    ] = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write vocabulary and tokenizer, and the whole checkpoint where weights are given."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.workflows import import_geneformer as workflow

        vocabulary = workflow.import_geneformer(
            dictionaries,
            setting,  # type: ignore[arg-type]  # checked there, with the known names
            out,
            weights=weights,
        )
        summary |= {
            "checkpoint": out,
            "setting": setting,
            "n_tokens": len(vocabulary),
            "n_regulators": int(vocabulary.is_regulator.sum()),
            "with_weights": weights is not None,
            "fingerprint": vocabulary.fingerprint,
            "seed": seed,
        }
