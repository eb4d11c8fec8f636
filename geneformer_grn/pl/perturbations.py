"""``gg.pl.volcano``, ``effect_heatmap`` and ``state_plane``: many perturbations in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def volcano(
    effects: pd.DataFrame,
    *,
    group: str | None = None,
    readout: str | None = None,
    state: str | None = None,
    n_labels: int = 10,
    size: tuple[float, float] = (4.6, 3.8),
) -> Figure:
    """Draw each gene's shift against its significance.

    Parameters
    ----------
    effects
        Table of effects: ``gene``, ``shift``, ``q_value``; optional ``gene_symbol``, ``group``, ``readout``,
        ``state``.
    group, readout, state
        Which rows to draw; may be left out where the table holds one.
    n_labels
        At most so many genes are named, the smallest q first.
    size
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        A required column is missing, or no row has what was asked for.

    Examples
    --------
    >>> gg.pl.volcano(effects, group="T cells").savefig("volcano.svg")  # doctest: +SKIP
    """
    from geneformer_grn.pl._choose import choose_rows
    from geneformer_grn.report.effect_figures import volcano_figure

    rows = choose_rows(effects, readout=readout, state=state, group=group)
    return volcano_figure(rows, n_labels=n_labels, size=size)


def effect_heatmap(
    effects: pd.DataFrame, *, readout: str | None = None, state: str | None = None, n_genes: int = 25
) -> Figure:
    """Draw the shift of each gene in each group, with a dot where it is significant.

    Parameters
    ----------
    effects
        Table of effects: ``gene``, ``group``, ``shift``; optional ``gene_symbol``, ``q_value``, ``readout``,
        ``state``.
    readout, state
        Which rows to draw; may be left out where the table holds one.
    n_genes
        At most so many genes, the largest absolute shift in any group first.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        A required column is missing, no row has what was asked for, or a gene has several rows in a group.

    Examples
    --------
    >>> gg.pl.effect_heatmap(effects, readout="cell").savefig("groups.svg")  # doctest: +SKIP
    """
    from geneformer_grn.pl._choose import choose_rows
    from geneformer_grn.report.effect_figures import effect_heatmap_figure

    rows = choose_rows(effects, readout=readout, state=state)
    return effect_heatmap_figure(rows, n_genes=n_genes)


def state_plane(
    effects: pd.DataFrame,
    start: str,
    goal: str,
    *,
    group: str | None = None,
    n_labels: int = 10,
    size: tuple[float, float] = (4.6, 4.2),
) -> Figure:
    """Draw how far each gene moves cells away from the start state and towards the goal state.

    Parameters
    ----------
    effects
        Table of effects with the readout ``state``: ``gene``, ``state``, ``shift``; optional ``gene_symbol``,
        ``group``, ``readout``, ``q_value``. Rows of other readouts are left out.
    start, goal
        The states, as in ``gg.tl.perturb``.
    group
        Which rows to draw; may be left out where the table holds one.
    n_labels
        At most so many genes are named, those furthest from start to goal first.
    size
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not held by pyplot.

    Raises
    ------
    ValueError
        A required column is missing, or no row has the state or group asked for.

    Examples
    --------
    >>> gg.pl.state_plane(effects, "diseased", "healthy").savefig("plane.svg")  # doctest: +SKIP
    """
    from geneformer_grn.pl._choose import choose_rows
    from geneformer_grn.report.effect_figures import state_plane_figure

    readout = "state" if "readout" in effects else None
    rows = choose_rows(effects, readout=readout, group=group)
    return state_plane_figure(rows, start, goal, n_labels=n_labels, size=size)
