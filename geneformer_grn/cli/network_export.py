"""``geneformer-grn network-export``: an edge table in the format of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("network-export", help="Write an edge table for another tool.")(network_export)


def network_export(
    edges: Annotated[
        Path,
        typer.Argument(metavar="EDGES", help="Edges: ours, decoupler's or arboreto's.", show_default=False),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="edges, decoupler, arboreto, graphml, sif, celloracle_base or celloracle_links; by the name "
            "of FILE for .graphml and .sif.",
        ),
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Only edges of this group.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Only edges of this method.")] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, help="Only the strongest, of each group and method.")
    ] = None,
    names: Annotated[str, typer.Option("--names", help="Genes by symbol or ensembl.")] = "symbol",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Convert, and say how many edges were written."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.network.formats import read_network, write_network

        table = read_network(edges)
        n_written = write_network(table, out, form=form, group=group, method=method, top=top, names=names)
        summary |= {"out": out, "n_edges": n_written, "seed": seed}
