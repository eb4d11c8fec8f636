"""Figures of explanations: which genes drive a class, and whether losing them hurts more than others.

As in `report.figures`, each takes a table and returns a `matplotlib.figure.Figure` unknown to pyplot. What
was named and what was random differ in their line as well as in their colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geneformer_grn.report.drawing import (
    INK,
    MUTED,
    NEGATIVE,
    POSITIVE,
    RULE,
    figure_style,
    label_genes,
    new_figure,
    require_columns,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = (1.9, 1.9)  # inches of a panel of the deletion curve
_ROW = 0.19  # inches of a gene's bar
_COLUMNS = 4


def deletion_figure(deletion: pd.DataFrame, *, ranking: str = "class") -> Figure:
    """Draw how far the output falls when the leading genes are taken away, a panel a method.

    Parameters
    ----------
    deletion
        Rows with ``method``, ``ranking``, ``class`` (empty: all cells), ``share`` and ``drop_named``,
        ``drop_random``, each with ``_low`` and ``_high``.
    ranking
        Whose rows are drawn: ``class`` or ``cell``.

    Raises
    ------
    ValueError
        A column is missing, or there is no such row.
    """
    drops = [f"drop_{name}{end}" for name in ("named", "random") for end in ("", "_low", "_high")]
    require_columns(deletion, ["method", "ranking", "class", "share", *drops], "the deletion curve")
    table = deletion[(deletion["ranking"] == ranking) & (deletion["class"] == "")]
    if not len(table):
        raise ValueError(f"the deletion table has no row of all cells with the ranking {ranking!r}")
    methods = list(dict.fromkeys(table["method"]))
    size = np.array([len(methods) * (_PANEL[0] + 0.2) + 0.55, _PANEL[1] + 1.0])
    with figure_style():
        figure = new_figure(*size)
        first: Axes | None = None
        for number, method in enumerate(methods):
            left = 0.6 + number * (_PANEL[0] + 0.2)
            place = (left / size[0], 0.5 / size[1], _PANEL[0] / size[0], _PANEL[1] / size[1])
            axes = figure.add_axes(place, sharey=first)
            _curves(axes, table[table["method"] == method])
            axes.set_title(method.replace("_", " "), fontsize=8.5, loc="left", color=INK)
            axes.set_xlabel("% of genes taken away")
            if first is None:
                first = axes
                axes.set_ylabel("fall of the log odds")
                axes.legend(frameon=False, fontsize=7.5, loc="upper left", handlelength=2.4)
            else:
                axes.tick_params(labelleft=False)
    return figure


def driver_figure(drivers: pd.DataFrame, *, n_genes: int = 10, width: float = 1.5) -> Figure:
    """Draw the leading driver genes of each class as bars with their intervals.

    Parameters
    ----------
    drivers
        Rows of one method: ``class``, ``gene`` (or ``gene_symbol``), ``score``, ``ci_low``, ``ci_high``.
    n_genes
        Genes a class.
    width
        Inches of a panel.

    Raises
    ------
    ValueError
        A column is missing.
    """
    require_columns(drivers, ["class", "gene", "score", "ci_low", "ci_high"], "the figure of driver genes")
    table = drivers.assign(label=label_genes(drivers, "gene"))
    classes = list(dict.fromkeys(table["class"]))
    columns = min(_COLUMNS, len(classes))
    rows = -(-len(classes) // columns)
    panel = np.array([width + 0.95, n_genes * _ROW + 0.75])
    size = panel * (columns, rows) + (0.1, 0.05)
    with figure_style():
        figure = new_figure(*size)
        for number, name in enumerate(classes):
            row, column = divmod(number, columns)
            left = column * panel[0] + 0.9
            bottom = (rows - 1 - row) * panel[1] + 0.45
            place = (left / size[0], bottom / size[1], width / size[0], n_genes * _ROW / size[1])
            axes = figure.add_axes(place)
            _bars(axes, table[table["class"] == name].nlargest(n_genes, "score"), n_genes)
            axes.set_title(shorten(str(name), 26), fontsize=8.5, loc="left", color=INK)
            if row == rows - 1 or number + columns >= len(classes):
                axes.set_xlabel("mean score", fontsize=7.5)
    return figure


def _curves(axes: Axes, table: pd.DataFrame) -> None:
    share = 100 * table["share"].to_numpy(dtype=np.float64)
    lines = (("named", POSITIVE, "-", "leading genes"), ("random", MUTED, (0, (4, 2)), "random, same rank"))
    for name, colour, style, label in lines:
        mean, low, high = (table[f"drop_{name}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        axes.fill_between(share, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(share, mean, color=colour, linestyle=style, linewidth=1.4, label=label)
    axes.axhline(0, color=RULE, linewidth=0.8, zorder=0)
    axes.set_xlim(0, share.max())
    axes.locator_params(axis="x", nbins=5)


def _bars(axes: Axes, table: pd.DataFrame, n_genes: int) -> None:
    """Draw the bars of one class, the largest on top, all panels with as many places."""
    place = np.arange(len(table))
    score = table["score"].to_numpy(dtype=np.float64)
    colours = np.where(score >= 0, POSITIVE, NEGATIVE)
    axes.barh(place, score, height=0.7, color=colours)
    low, high = (table[name].to_numpy(dtype=np.float64) for name in ("ci_low", "ci_high"))
    known = np.isfinite(low) & np.isfinite(high)
    axes.hlines(place[known], low[known], high[known], color=INK, linewidth=0.8)
    axes.set_ylim(n_genes - 0.4, -0.6)
    names = [shorten(str(name), 13) for name in table["label"]]
    axes.set_yticks(place, labels=names, fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=4)
