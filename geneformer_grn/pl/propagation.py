"""``gg.pl.propagation``: what one perturbation does downstream, hop by hop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def propagation(
    propagated: pd.DataFrame,
    *,
    source: str | None = None,
    group: str | None = None,
    n_genes: int = 15,
    width: float = 3.6,
) -> Figure:
    """Draw the propagated effects of one perturbation: genes by hops, blue up and orange down.

    Parameters
    ----------
    propagated
        Table of propagated effects: ``source``, ``gene``, ``hop``, ``effect``; optional ``group``,
        ``gene_symbol``.
    source, group
        Which rows to draw (`source` as in the column ``source``); may be left out where the table holds one.
    n_genes
        At most so many genes, the largest absolute effect at any hop first.
    width
        In inches; the height follows from the number of genes.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        A required column is missing, or no row has the source or group asked for.

    Examples
    --------
    >>> import pandas as pd
    >>> import geneformer_grn as gg
    >>> table = pd.DataFrame({"source": "SPI1", "gene": ["LYZ"], "hop": [1], "effect": [-0.3]})
    >>> gg.pl.propagation(table).savefig("downstream.svg")  # doctest: +SKIP
    """
    from geneformer_grn.pl._choose import choose_rows
    from geneformer_grn.report.figures import propagation_figure

    rows = choose_rows(propagated, source=source, group=group)
    return propagation_figure(rows, n_genes=n_genes, width=width)
