"""``gg.pl.effects``: the ranking of perturbations of one group against genes matched on rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def effects(
    effects: pd.DataFrame, *, group: str | None = None, n_genes: int = 20, width: float = 4.0
) -> Figure:
    """Draw each perturbed gene's shift with its interval, over the range of genes matched on rank.

    Parameters
    ----------
    effects
        Table of effects: ``gene``, ``shift``; optional ``gene_symbol``, ``group``, ``ci_low``, ``ci_high``,
        ``q_value`` (filled where at most 0.05), ``null_low``, ``null_high``, ``null_mean``.
    group
        Which rows to draw; may be left out where the table holds one group.
    n_genes
        At most so many genes, the largest shifts first.
    width
        In inches; the height follows from the number of genes.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        A required column is missing, or no row has the group asked for.

    Examples
    --------
    >>> import pandas as pd
    >>> import geneformer_grn as gg
    >>> table = pd.DataFrame({"gene": ["SPI1", "PAX5"], "shift": [0.02, 0.004]})
    >>> gg.pl.effects(table).savefig("effects.svg")  # doctest: +SKIP
    """
    from geneformer_grn.pl._choose import choose_rows
    from geneformer_grn.report.figures import effects_figure

    return effects_figure(choose_rows(effects, group=group), n_genes=n_genes, width=width)
