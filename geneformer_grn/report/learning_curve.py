"""The learning curve: how good each method is with how few labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from geneformer_grn.report.drawing import MUTED, PALETTE, figure_style, new_figure, require_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve_figure(
    rows: pd.DataFrame, *, measure: str, titles: Mapping[str, str], first: str | None = None
) -> Figure:
    """Draw a measure against labels a class: the mean of each method, and every draw as a point.

    Parameters
    ----------
    rows
        ``method``, ``labels``, ``draw`` and a column `measure`.
    measure
        What is drawn.
    titles
        Method -> what the legend calls it.
    first
        Method drawn boldly; None: none.

    Returns
    -------
    matplotlib.figure.Figure
        Known to no pyplot session.

    Raises
    ------
    ValueError
        A column is missing, or there are no rows.
    """
    require_columns(rows, ["method", "labels", "draw", measure], "a learning curve")
    if rows.empty:
        raise ValueError("a learning curve needs at least one row")
    means = rows.groupby(["method", "labels"])[measure].mean()
    points = sorted(rows["labels"].unique())
    place = {labels: number for number, labels in enumerate(points)}
    methods = sorted(rows["method"].unique(), key=lambda name: -float(means[name].iloc[-1]))
    with figure_style():
        figure = new_figure(5.6, 3.6)
        axes = figure.add_axes((0.11, 0.15, 0.48, 0.78))
        for number, method in enumerate(methods):
            part = rows[rows["method"] == method]
            colour, bold = PALETTE[number % len(PALETTE)], method == first
            xs = [place[labels] for labels in means[method].index]
            axes.plot(xs, means[method].to_numpy(), color=colour, linewidth=2.6 if bold else 1.2,
                      marker="o", markersize=4 if bold else 3, label=titles.get(method, method))  # fmt: skip
            axes.scatter(
                part["labels"].map(place), part[measure], s=5, color=colour, alpha=0.45, linewidths=0
            )
        axes.set_xticks(range(len(points)), [str(labels) for labels in points])
        axes.set_xlabel("labels a class")
        axes.set_ylabel(measure.replace("_", " "))
        axes.grid(axis="y", color=MUTED, alpha=0.25, linewidth=0.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=7)
    return figure
