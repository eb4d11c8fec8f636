"""``gg.pl.network`` and ``gg.pl.network_differences``: edges drawn as networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def network(
    edges: pd.DataFrame,
    *,
    group: str | Sequence[str] | None = None,
    method: str | None = None,
    n_edges: int = 30,
    size: tuple[float, float] | None = None,
    legend: bool = True,
) -> Figure:
    """Draw the strongest edges: regulators as filled labels, their targets as open ones.

    Parameters
    ----------
    edges
        Table of edges: ``source``, ``target``, ``weight``; optional ``source_symbol``, ``target_symbol``,
        ``sign`` (+1 blue arrow, -1 orange bar, else grey), ``group``, ``method``.
    group
        Which group to draw; may be left out where the table holds one. Several: side by side, every gene at
        the same place in each, and faint where it has no edge.
    method
        Which method's edges to draw; may be left out where the table holds one.
    n_edges
        At most so many edges (of each group); every gene is named, and the figure grows. 30 to 60 fit a
        column, 300 a page.
    size
        Width and height in inches (of each panel, for several groups); follows from the number of genes
        where None.
    legend
        Whether the looks of edges are explained under the picture.

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
    from geneformer_grn.report.network_figure import network_figure, network_panels_figure

    if group is None or isinstance(group, str):
        rows = choose_rows(edges, group=group, method=method)
        return network_figure(rows, n_edges=n_edges, size=size, legend=legend)
    if not group:
        raise ValueError("no group was asked for; pass group=None, a name or several")
    for name in group:
        choose_rows(edges, group=name)
    inside = edges[edges["group"].astype(str).isin(list(group)).to_numpy()]
    rows = choose_rows(inside, method=method)
    return network_panels_figure(rows, list(group), n_edges=n_edges, size=size, legend=legend)


def network_differences(
    table: pd.DataFrame,
    *,
    between: tuple[str, str] | None = None,
    method: str | None = None,
    n_edges: int = 60,
    max_q: float | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Draw the edges that differ most between two groups: solid stronger in the first, dashed in the second.

    Parameters
    ----------
    table
        Tested differences (``source``, ``target``, ``weight_a``, ``weight_b``, ``difference``, optional
        ``q_value``, ``group_a``, ``group_b``, ``method``, symbols), or a table of edges with ``group``. Of
        the latter, an edge that one group's list does not hold counts as 0 there, tested by nothing.
    between
        The two groups, for a table of edges.
    method
        Which method's rows to draw; may be left out where the table holds one.
    n_edges
        At most so many, the largest differences first.
    max_q
        Draw edges of this q-value at most; None: whatever it is.
    size
        Width and height in inches; follows from the number of genes where None.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        A required column is missing, `between` is missing for a table of edges, or a group has no rows.

    Examples
    --------
    >>> import geneformer_grn as gg
    >>> gg.pl.network_differences(edges, between=("CD4+ T", "NK"))  # doctest: +SKIP
    """
    from geneformer_grn.pl._choose import choose_rows
    from geneformer_grn.report.network_differences_figure import differences_figure, weights_of_groups

    rows = choose_rows(table, method=method)
    if "difference" not in rows:
        if between is None:
            raise ValueError("this is a table of edges; pass between=(first, second), two of its groups")
        rows = weights_of_groups(rows, *between)
    elif between is not None:
        rows = choose_rows(rows, group_a=between[0], group_b=between[1])
    return differences_figure(rows, n_edges=n_edges, max_q=max_q, size=size)
