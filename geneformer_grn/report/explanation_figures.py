"""Driver genes, and the deletion curve: whether losing genes that are named hurts more than losing others.

As in `report.figures`, a table in and a `matplotlib.figure.Figure` unknown to pyplot out. What was named and
what was random differ in their line as well as in their colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geneformer_grn.report.drawing import (
    INK,
    MUTED,
    POSITIVE,
    RULE,
    distinct_names,
    figure_style,
    label_genes,
    new_figure,
    require_columns,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHARACTER = 0.068  # inches
_PANEL = (1.9, 1.9)  # inches of a panel of the deletion curve


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


def driver_genes_figure(
    drivers: pd.DataFrame, *, n_genes: int = 10, n_columns: int = 4, width: float = 1.9
) -> Figure:
    """Draw the genes that speak most for each class, with their intervals.

    Parameters
    ----------
    drivers
        Rows of one method: ``class``, ``gene`` (or ``gene_symbol``), ``score``; where known ``ci_low``,
        ``ci_high`` and ``stability`` (share of resamples that name the gene), which is drawn as the bar's
        depth of colour.
    n_genes
        At most so many genes a class, the largest scores first.
    n_columns
        Classes side by side.
    width
        Of a class in inches.

    Raises
    ------
    ValueError
        A required column is missing, or there is no row.
    """
    require_columns(drivers, ["class", "gene", "score"], "the figure of driver genes")
    table = drivers[drivers["score"].notna().to_numpy()]
    classes = list(dict.fromkeys(table["class"].astype(str)))
    if not classes:
        raise ValueError("the table of driver genes has no row with a score")
    n_columns = min(n_columns, len(classes))
    n_rows = -(-len(classes) // n_columns)
    row_height = 0.62 + 0.17 * n_genes
    titles = distinct_names(classes, int(width / _CHARACTER))
    left = 0.85
    size = np.array([n_columns * (width + left) + 0.1, n_rows * row_height + 0.1])
    with figure_style():
        figure = new_figure(*size)
        for place, name in enumerate(classes):
            row, column = divmod(place, n_columns)
            corner = np.array([column * (width + left) + left, size[1] - (row + 1) * row_height + 0.28])
            inner = np.array([width - 0.1, row_height - 0.6])
            axes = figure.add_axes((*(corner / size), *(inner / size)))
            of_class = table[(table["class"].astype(str) == name).to_numpy()]
            _driver_bars(axes, of_class.nlargest(n_genes, "score", keep="first"), n_genes)
            axes.set_title(titles[place], fontsize=8.5, loc="left", pad=4)
    return figure


def _driver_bars(axes: Axes, table: pd.DataFrame, n_genes: int) -> None:
    place = np.arange(len(table))
    depth = table["stability"].fillna(0).to_numpy() if "stability" in table else np.ones(len(table))
    bars = axes.barh(place, table["score"], height=0.7, color=POSITIVE, zorder=2)
    for bar, share in zip(bars, depth, strict=True):
        bar.set_alpha(0.3 + 0.7 * float(np.clip(share, 0, 1)))
    if {"ci_low", "ci_high"} <= set(table):
        axes.hlines(place, table["ci_low"], table["ci_high"], color=INK, linewidth=0.9, zorder=3)
    axes.set_yticks(place, labels=[shorten(gene, 11) for gene in label_genes(table, "gene")], fontsize=7.5)
    axes.set_ylim(n_genes - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=4)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.spines["left"].set_visible(False)
