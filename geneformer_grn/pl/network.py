"""``gg.pl.network``: the strongest edges of one group as a drawn network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def network(
    edges: pd.DataFrame,
    *,
    group: str | None = None,
    method: str | None = None,
    n_edges: int = 30,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Draw the strongest edges: regulators as filled labels, their targets as open ones.

    Parameters
    ----------
    edges
        Table of edges: ``source``, ``target``, ``weight``; optional ``source_symbol``, ``target_symbol``,
        ``sign`` (+1 blue arrow, -1 orange bar, else grey), ``group``, ``method``.
    group, method
        Which rows to draw; may be left out where the table holds one.
    n_edges
        At most so many edges; 30 to 60 can be read.
    size
        Width and height in inches; follows from the number of genes where None.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        A required column is missing, or no row has the group or method asked for.

    Examples
    --------
    >>> import pandas as pd
    >>> import geneformer_grn as gg
    >>> edges = pd.DataFrame({"source": ["SPI1", "SPI1"], "target": ["LYZ", "CST3"], "weight": [0.9, 0.4]})
    >>> gg.pl.network(edges).savefig("network.svg")  # doctest: +SKIP
    """
    from geneformer_grn.pl._choose import choose_rows
    from geneformer_grn.report.network_figure import network_figure

    rows = choose_rows(choose_rows(edges, "group", group), "method", method)
    return network_figure(rows, n_edges=n_edges, size=size)
