"""The figures of a run: cells, the ranking of perturbations, and what a perturbation does downstream.

Each function takes a table or arrays and returns a `matplotlib.figure.Figure` that pyplot knows nothing of. A
figure shows one group; the page lays figures side by side, so that they reflow on a narrow screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geneformer_grn.report.drawing import (
    INK,
    MUTED,
    NEGATIVE,
    PAPER,
    POSITIVE,
    RULE,
    figure_style,
    group_colours,
    label_genes,
    new_figure,
    require_columns,
    shorten,
)
from geneformer_grn.report.network_layout import separate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VECTOR_POINTS = 5_000  # more points than this are drawn as pixels: an SVG element each would weigh megabytes
NAMED_GROUPS = 12  # more groups than this are numbered in the picture, in the order of `group_colours`
SIGNIFICANT = 0.05


def umap_figure(
    umap: np.ndarray,
    groups: np.ndarray,
    *,
    colours: Mapping[str, str] | None = None,
    size: tuple[float, float] = (5.6, 4.9),
) -> Figure:
    """Draw cells as points coloured by group, with each group's name (or number) at its median.

    Parameters
    ----------
    umap
        ``(n, 2)`` float; coordinates.
    groups
        ``(n,)`` str; group of each cell.
    colours
        Group -> colour; from `group_colours` where None. Its order gives the numbers used for more than
        `NAMED_GROUPS` groups.
    size
        Width and height in inches.

    Raises
    ------
    ValueError
        `umap` is not ``(n, 2)`` or differs in length from `groups`.
    """
    umap = np.asarray(umap, dtype=np.float64)
    groups = np.asarray(groups, dtype=str)
    if umap.ndim != 2 or umap.shape[1] != 2 or len(umap) != len(groups):
        raise ValueError(
            f"umap must be (n, 2) with one group per cell; got {umap.shape} and {len(groups)} groups"
        )
    colours = group_colours(groups) if colours is None else colours
    with figure_style():
        figure = new_figure(*size)
        axes = figure.add_axes((0.03, 0.03, 0.94, 0.94))
        axes.set_axis_off()
        if len(umap):
            order = np.random.default_rng(0).permutation(len(umap))  # so that no group lies on top as a whole
            many = len(umap) > VECTOR_POINTS
            axes.scatter(
                umap[order, 0],
                umap[order, 1],
                s=float(np.clip(16_000 / len(umap), 0.6, 16.0)),
                c=[colours[group] for group in groups[order]],
                alpha=0.6 if many else 0.8,
                linewidths=0,
                rasterized=many,
            )
            _name_groups(axes, umap, groups, colours, size)
        axes.annotate(
            "UMAP 1 →", (0, 0), xycoords="axes fraction", color=MUTED, fontsize=7.5, va="top", ha="left"
        )
        axes.annotate(
            "UMAP 2 →",
            (0, 0),
            xycoords="axes fraction",
            color=MUTED,
            fontsize=7.5,
            va="bottom",
            ha="right",
            rotation=90,
        )
        figure.set_dpi(160)
    return figure


def _name_groups(
    axes: Axes, umap: np.ndarray, groups: np.ndarray, colours: Mapping[str, str], size: tuple[float, float]
) -> None:
    """Write each group's name, or number, at the median of its cells, moved where labels would overlap."""
    present = [group for group in colours if (groups == group).any()]
    names = [
        shorten(group, 22) if len(present) <= NAMED_GROUPS else str(number)
        for number, group in enumerate(present, start=1)
    ]
    low, high = umap.min(axis=0), umap.max(axis=0)
    area = np.array(size) * 0.94
    scale = np.where(high > low, area / np.maximum(high - low, 1e-12), 0.0)
    medians = np.array([np.median(umap[groups == group], axis=0) for group in present])
    label_sizes = np.array([(0.075 * len(name) + 0.12, 0.19) for name in names])
    placed = separate((medians - low) * scale, label_sizes, (float(area[0]), float(area[1])))
    for name, group, position in zip(names, present, placed, strict=True):
        axes.annotate(
            name,
            tuple(low + position / np.where(scale > 0, scale, 1.0)),
            ha="center",
            va="center",
            fontsize=8.5,
            fontweight="bold",
            color=INK,
            bbox={
                "boxstyle": "round,pad=0.25",
                "facecolor": PAPER,
                "edgecolor": colours[group],
                "alpha": 0.85,
            },
        )


def effects_figure(
    effects: pd.DataFrame,
    *,
    n_genes: int = 15,
    limits: tuple[float, float] | None = None,
    width: float = 3.1,
) -> Figure:
    """Draw the ranking of one group's perturbations: shift, confidence interval and the matched null.

    A filled point is significant after correction (``q_value`` at most 0.05), a ring is not. The grey bar
    behind it is the range of shifts of genes matched on rank, the tick their mean.

    Parameters
    ----------
    effects
        Rows of one group: ``gene`` (or ``gene_symbol``), ``shift``, and where known ``ci_low``, ``ci_high``,
        ``q_value``, ``null_low``, ``null_high``, ``null_mean``.
    n_genes
        At most so many rows, the largest shifts first; missing shifts are left out.
    limits
        Range of the shift axis, to share it between groups.
    width
        In inches; the height follows from the number of genes.

    Raises
    ------
    ValueError
        A required column is missing.
    """
    require_columns(effects, ["gene", "shift"], "the effects figure")
    table = effects[effects["shift"].notna().to_numpy()]
    table = table.sort_values(["shift", "gene"], ascending=[False, True]).head(n_genes)
    n = len(table)
    row = np.arange(n, dtype=float)

    def values(column: str) -> np.ndarray:
        found = table[column] if column in table else pd.Series(np.nan, index=table.index)
        return found.to_numpy(dtype=np.float64, na_value=np.nan)

    shift = values("shift")
    significant = values("q_value") <= SIGNIFICANT
    with figure_style():
        figure = new_figure(width, 0.54 + 0.21 * max(n, 1))
        height = figure.get_figheight()
        axes = figure.add_axes((0.25, 0.5 / height, 0.72, 1 - 0.54 / height))
        null_low, null_high, null_mean = values("null_low"), values("null_high"), values("null_mean")
        axes.hlines(row, null_low, null_high, color=RULE, linewidth=9, zorder=1)
        axes.vlines(null_mean, row - 0.3, row + 0.3, color=MUTED, linewidth=1.2, zorder=2)
        axes.hlines(row, values("ci_low"), values("ci_high"), color=POSITIVE, linewidth=1.6, zorder=3)
        axes.scatter(shift[significant], row[significant], s=30, color=POSITIVE, zorder=4)
        axes.scatter(
            shift[~significant],
            row[~significant],
            s=26,
            facecolor=PAPER,
            edgecolor=POSITIVE,
            linewidths=1.3,
            zorder=4,
        )
        names = [shorten(name, 12) for name in label_genes(table, "gene")]
        axes.set_yticks(row, labels=names, fontsize=8.5)
        axes.set_ylim(n - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=RULE, linewidth=0.6, zorder=0)
        axes.set_axisbelow(True)
        if limits is not None:
            axes.set_xlim(*limits)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("shift of the cell embedding", fontsize=8)
    return figure


def propagation_figure(
    propagated: pd.DataFrame, *, n_genes: int = 12, limit: float | None = None, width: float = 3.1
) -> Figure:
    """Draw what one perturbation does downstream in one group: genes by hops, blue up and orange down.

    Parameters
    ----------
    propagated
        Rows of one source and group: ``gene`` (or ``gene_symbol``), ``hop``, ``effect``.
    n_genes
        At most so many genes, the largest absolute effect at any hop first.
    limit
        Absolute effect of the strongest colour, to share the scale between figures.
    width
        In inches; the height follows from the number of genes.

    Raises
    ------
    ValueError
        A required column is missing.
    """
    from matplotlib.patches import Rectangle

    require_columns(propagated, ["gene", "hop", "effect"], "the figure of propagated effects")
    table = propagated.assign(label=label_genes(propagated, "gene"))
    grid = table.pivot_table(index="label", columns="hop", values="effect", aggfunc="sum")
    strength = grid.abs().max(axis=1)
    grid = grid.loc[strength.sort_values(ascending=False, kind="stable").index[:n_genes]]
    top = float(grid.abs().max().max()) if grid.size else 0.0
    scale = max(top if limit is None else limit, 1e-12)
    with figure_style():
        figure = new_figure(width, 0.26 + 0.23 * max(len(grid), 1))
        height = figure.get_figheight()
        axes = figure.add_axes((0.25, 0.0, 0.74, 1 - 0.26 / height))
        for i, effects in enumerate(grid.to_numpy(dtype=np.float64)):
            for j, effect in enumerate(effects):
                if np.isnan(effect):
                    axes.text(j + 0.5, i + 0.5, "·", color=MUTED, ha="center", va="center")
                    continue
                # The strength is in the opacity, so that the text stays readable on a light and a dark page.
                opacity = 0.06 + 0.54 * min(abs(effect) / scale, 1.0)
                colour = POSITIVE if effect > 0 else NEGATIVE
                axes.add_patch(
                    Rectangle((j + 0.03, i + 0.05), 0.94, 0.9, color=colour, alpha=opacity, linewidth=0)
                )
                axes.text(
                    j + 0.5,
                    i + 0.52,
                    f"{effect:+.2g}".replace("-", "−"),
                    ha="center",
                    va="center",
                    fontsize=8,
                )
        axes.set_xlim(0, max(grid.shape[1], 1))
        axes.set_ylim(max(len(grid), 1), 0)
        axes.set_yticks(
            np.arange(len(grid)) + 0.5, labels=[shorten(str(name), 12) for name in grid.index], fontsize=8.5
        )
        axes.set_xticks(
            np.arange(grid.shape[1]) + 0.5, labels=[f"hop {hop}" for hop in grid.columns], fontsize=8
        )
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure
