"""``geneformer-grn network-page``: an edge table as an interactive page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneformer_grn.cli import options, verb


def add(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("network-page", help="Show an edge table as an interactive page, in one file.")(network_page)


def network_page(
    edges: Annotated[
        Path,
        typer.Argument(metavar="EDGES.tsv", help="Edges: source, target, weight.", show_default=False),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="PAGE.html", help="Page to write.")],
    title: Annotated[str | None, typer.Option("--title", help="Heading; by default the file's name.")] = None,
    shown: Annotated[int, typer.Option("--shown", min=1, help="Strongest edges drawn at first.")] = 150,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write the page: zoom, search, neighbourhoods, a threshold, groups; it loads nothing from anywhere."""
    with verb(quiet=quiet, as_json=as_json) as summary:
        from geneformer_grn.network.formats import read_network
        from geneformer_grn.report.network_page import check_page, write_network_page

        check_page(out)
        table = read_network(edges)
        heading = f"Gene network of {edges.name}" if title is None else title
        write_network_page(table, out, title=heading, shown=shown)
        summary |= {"out": out, "n_edges": len(table), "shown": min(shown, len(table)), "seed": seed}
