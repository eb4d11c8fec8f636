"""Figures of predicted labels: confusion, curves of ranking and calibration, few labels.

As in `report.figures`, each takes a table or an array and returns a figure unknown to pyplot.
Lines are told apart by colour, from the ninth on by their dashes too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from geneformer_grn.report.drawing import (
    INK,
    MUTED,
    PALETTE,
    PAPER,
    POSITIVE,
    RULE,
    distinct_names,
    figure_style,
    new_figure,
    require_columns,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 24  # characters of a class's name
_CHARACTER = 0.068  # inches
_MARKERS = "osD^vPX*"
_RANKING = {
    "roc": ("false_positive_rate", "recall", "auroc"),
    "precision_recall": ("recall", "precision", "auprc"),
}
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))


def confusion_figure(confusion: np.ndarray, classes: Sequence[str], *, cell: float = 0.34) -> Figure:
    """Draw how the units of each true class were predicted, in percent of the row.

    Parameters
    ----------
    confusion
        ``(c, c)`` counts, a row per true class. Rows without a unit are left out, with the columns nobody was
        predicted to be.
    classes
        ``(c,)`` names.
    cell
        Width of a field in inches.

    Raises
    ------
    ValueError
        Counts and names do not fit, or there is no unit.
    """
    from matplotlib.colors import LinearSegmentedColormap

    counts = np.asarray(confusion, dtype=np.float64)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"a confusion matrix of {len(classes)} classes was given the shape {counts.shape}")
    rows = np.flatnonzero(counts.sum(axis=1))
    if not len(rows):
        raise ValueError("the confusion matrix is empty: no unit was scored")
    columns = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    sizes = counts.sum(axis=1)[rows]
    shares = counts[np.ix_(rows, columns)] / sizes[:, None]
    names = distinct_names(classes, _LONGEST)
    left = 0.75 + _CHARACTER * max(
        len(names[row]) + len(f"{size:,.0f}") for row, size in zip(rows, sizes, strict=True)
    )
    above = 0.45 + 0.75 * _CHARACTER * max(len(names[column]) for column in columns)
    inner = np.array([cell * len(columns), 0.26 * len(rows)])
    size = inner + np.array([left + 0.2 + 0.45 * above, above + 0.12])
    with figure_style():
        figure = new_figure(*size)
        axes = figure.add_axes((left / size[0], 0.1 / size[1], *(inner / size)))
        colours = LinearSegmentedColormap.from_list("share", [PAPER, POSITIVE])
        axes.pcolormesh(shares, cmap=colours, vmin=0, vmax=1, edgecolor=RULE, linewidth=0.5)
        for i, j in np.argwhere(shares > 0):
            text = f"{100 * shares[i, j]:.0f}" if shares[i, j] >= 0.005 else "<1"
            colour = PAPER if shares[i, j] > 0.55 else INK
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7, color=colour)
        axes.set_ylim(len(rows), 0)
        labels = [f"{names[row]} ({size:,.0f})" for row, size in zip(rows, sizes, strict=True)]
        axes.set_yticks(np.arange(len(rows)) + 0.5, labels=labels, fontsize=8)
        axes.set_xticks(np.arange(len(columns)) + 0.5)
        axes.set_xticklabels(
            [names[column] for column in columns], fontsize=8, rotation=50, ha="left", rotation_mode="anchor"
        )
        axes.xaxis.tick_top()
        axes.tick_params(length=0, pad=3)
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure.text(0.08 / size[0], 1 - 0.2 / size[1], "true (n), by row;\npredicted, % of row", fontsize=7.5,
                    color=MUTED, va="top")  # fmt: skip
    return figure


def ranking_figure(
    curves: pd.DataFrame, kind: Literal["roc", "precision_recall"], *, size: float = 2.9
) -> Figure:
    """Draw a curve per class, one against the rest, the classes named beside it with their areas.

    Parameters
    ----------
    curves
        Points: ``class``, ``recall`` and ``false_positive_rate``, ``auroc`` or ``precision``, ``auprc`` (an
        area is the same along a class).
    kind
        Receiver operating characteristic, or precision against recall.
    size
        Width and height of the axes in inches.

    Raises
    ------
    ValueError
        A required column is missing.
    """
    x, y, area = _RANKING[kind]
    require_columns(curves, ["class", x, y, area], f"the {kind.replace('_', '-')} figure")
    classes = list(dict.fromkeys(curves["class"].astype(str)))
    names = distinct_names(classes, _LONGEST)
    width, height = size + 1.05 + _legend_width(names), max(size + 0.6, 0.5 + 0.165 * len(classes))
    with figure_style():
        figure = new_figure(width, height)
        axes = figure.add_axes((0.55 / width, 1 - (size + 0.12) / height, size / width, size / height))
        for place, name in enumerate(classes):
            rows = curves[(curves["class"].astype(str) == name).to_numpy()]
            label = f"{names[place]}  {float(rows[area].iloc[0]):.3f}"
            style = _line_style(place)
            axes.plot(rows[x], rows[y], label=label, linewidth=1.3, color=style["color"],
                      linestyle=style["linestyle"])  # fmt: skip
        axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015))
        if kind == "roc":
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.set(xlabel=x.replace("_", " "), ylabel="true positive rate" if kind == "roc" else y)
        _legend(axes, title=area.upper())
    return figure


def calibration_figure(reliability: Mapping[str, pd.DataFrame], *, size: float = 2.6) -> Figure:
    """Draw how often the predicted class is right against its probability, and how many units have it.

    Parameters
    ----------
    reliability
        Method -> bins: ``confidence``, ``accuracy``, ``n``, ``low``, ``high``. A line below the diagonal is
        too sure of itself.
    size
        Width and height of the upper axes in inches.

    Raises
    ------
    ValueError
        A required column is missing, or there is no method.
    """
    if not reliability:
        raise ValueError("the calibration figure needs the bins of at least one method")
    for bins in reliability.values():
        require_columns(bins, ["confidence", "accuracy", "n", "low", "high"], "the calibration figure")
    names = distinct_names(list(reliability), 32)
    width = size + 0.95 + _legend_width(names)
    height = size + 1.45
    with figure_style():
        figure = new_figure(width, height)
        axes = figure.add_axes((0.6 / width, 1.3 / height, size / width, size / height))
        below = figure.add_axes((0.6 / width, 0.45 / height, size / width, 0.7 / height), sharex=axes)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        for place, (name, bins) in enumerate(zip(names, reliability.values(), strict=True)):
            style = _line_style(place)
            table = bins.sort_values("low")
            axes.plot(
                table["confidence"], table["accuracy"], label=name, linewidth=1.4, markersize=4, **style
            )
            share = (table["n"] / table["n"].sum()).to_numpy(dtype=np.float64)
            middle = ((table["low"] + table["high"]) / 2).to_numpy(dtype=np.float64)
            below.plot(middle, share, linewidth=1.0, markersize=3, **style)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share that is right")
        axes.tick_params(labelbottom=False)
        below.set(ylim=(0, None), xlabel="probability of the predicted class", ylabel="share of\nunits")
        if len(names) > 1:
            _legend(axes)
    return figure


def few_shot_figure(
    scores: pd.DataFrame, *, measure: str = "macro-F1", size: tuple[float, float] = (3.4, 2.8)
) -> Figure:
    """Draw how a score grows with the labels per class, a line per method.

    Parameters
    ----------
    scores
        Rows: ``method``, ``per_class`` (labels a class), ``value``; where known ``low`` and ``high``. Several
        rows of a method with equally many labels (draws) are drawn as points, their mean as the line.
    measure
        What ``value`` is.
    size
        Width and height of the axes in inches.

    Raises
    ------
    ValueError
        A required column is missing.
    """
    require_columns(scores, ["method", "per_class", "value"], "the few-shot figure")
    methods = list(dict.fromkeys(scores["method"].astype(str)))
    names = distinct_names(methods, 44)
    width, height = size[0] + 0.9 + _legend_width(names), size[1] + 0.65
    counts = np.sort(scores["per_class"].unique()).astype(float)
    with figure_style():
        figure = new_figure(width, height)
        axes = figure.add_axes((0.7 / width, 0.5 / height, size[0] / width, size[1] / height))
        for place, (method, name) in enumerate(zip(methods, names, strict=True)):
            style = _line_style(place)
            rows = scores[(scores["method"].astype(str) == method).to_numpy()]
            mean = rows.groupby("per_class", sort=True)["value"].mean()
            # side by side, so that intervals of several methods can be told apart
            shift = 1.0 + 0.035 * (place - (len(methods) - 1) / 2)
            if rows.duplicated("per_class").any():
                at = rows["per_class"] * shift
                axes.scatter(at, rows["value"], s=5, color=style["color"], alpha=0.5)
            elif {"low", "high"} <= set(rows):
                axes.vlines(
                    rows["per_class"] * shift, rows["low"], rows["high"], color=style["color"], linewidth=1
                )
            axes.plot(mean.index * shift, mean.to_numpy(), label=name, linewidth=1.4, markersize=4, **style)
        axes.set_xscale("log")
        axes.set_xticks(counts, labels=[f"{count:,.0f}" for count in counts])
        axes.minorticks_off()
        axes.set(xlabel="labels per class", ylabel=measure)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        _legend(axes)
    return figure


def _line_style(place: int) -> dict[str, Any]:
    """Return colour, dashes and marker of the n-th line: 24 that differ in at least one."""
    return {
        "color": PALETTE[place % len(PALETTE)],
        "linestyle": _DASHES[place // len(PALETTE) % len(_DASHES)],
        "marker": _MARKERS[(place + place // len(PALETTE)) % len(_MARKERS)],
    }


def _legend(axes: Axes, *, title: str | None = None) -> None:
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False, fontsize=7.5, title=title,
        title_fontsize=7.5, handlelength=2.2, labelspacing=0.35, alignment="right" if title else "center",
        borderaxespad=0.0,
    )  # fmt: skip


def _legend_width(names: Sequence[str]) -> float:
    return 0.55 + 0.064 * max(map(len, names), default=0)
