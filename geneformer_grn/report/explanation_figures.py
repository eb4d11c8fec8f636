"""The deletion curve: whether losing the genes that an explanation names hurts more than losing others.

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
    figure_style,
    new_figure,
    require_columns,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
