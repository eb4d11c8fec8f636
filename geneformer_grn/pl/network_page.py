"""``gg.pl.network_page``: a network as an interactive page, in one file that loads nothing from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def network_page(
    edges: pd.DataFrame, path: Path | str, *, title: str = "Gene network", shown: int = 150
) -> None:
    """Write the edges as a page to zoom, search and filter, for any browser, without network access.

    Parameters
    ----------
    edges
        Table of edges: ``source``, ``target``, ``weight``; optional ``source_symbol``, ``target_symbol``,
        ``sign`` (+1, -1; else unknown), ``support``, ``q_value``, ``group`` and ``method`` (to choose from).
    path
        The .html file to write.
    title
        Heading of the page.
    shown
        How many of the strongest edges are drawn at first; a slider changes it.

    Raises
    ------
    ValueError
        A required column is missing, there are no edges or too many, or `path` does not end in .html.
    PermissionError, NotADirectoryError
        The folder cannot be created or written.

    Examples
    --------
    >>> import pandas as pd
    >>> import geneformer_grn as gg
    >>> edges = pd.DataFrame({"source": ["SPI1", "SPI1"], "target": ["LYZ", "CST3"], "weight": [0.9, 0.4]})
    >>> gg.pl.network_page(edges, "network.html")  # doctest: +SKIP
    """
    from geneformer_grn.report.network_page import write_network_page

    write_network_page(edges, path, title=title, shown=shown)
