"""Figures of many perturbations at once: volcano, genes by groups, and the plane of two states.

As in `report.figures`, each takes a table and returns a `matplotlib.figure.Figure` unknown to pyplot. A
filled point or a dot is significant after correction, a ring is not: colour alone says nothing.
"""

from __future__ import annotations

import re
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
    label_genes,
    new_figure,
    require_columns,
    shorten,
)
from geneformer_grn.report.figures import SIGNIFICANT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL_SHIFT = "shift of the cell embedding"
_MARGINS = np.array([0.98, 0.6])  # inches left and right of the axes, below and above
_LONGEST = 15  # characters of a name
_ENSEMBL = re.compile(r"ENS[A-Z]*\d{11}")
_SIDES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])  # of a point, where its name may go


def volcano_figure(
    effects: pd.DataFrame, *, n_labels: int = 10, size: tuple[float, float] = (4.6, 3.8)
) -> Figure:
    """Draw shift against significance, a point a gene.

    Parameters
    ----------
    effects
        Rows of one group, readout and state: ``gene`` (or ``gene_symbol``), ``shift``, ``q_value``; where
        known ``state`` for the axis. Rows without a shift or a q-value are left out.
    n_labels
        At most so many genes are named, the smallest q first, then the largest shift; a name that finds no
        room is left out.
    size
        Width and height in inches.

    Raises
    ------
    ValueError
        A required column is missing.
    """
    require_columns(effects, ["gene", "shift", "q_value"], "the volcano figure")
    table = effects.assign(label=_labels(effects), size=effects["shift"].abs())
    table = table[(table["shift"].notna() & table["q_value"].notna()).to_numpy()]
    table = table.sort_values(["q_value", "size"], ascending=[True, False], kind="stable")
    names = table["label"].to_numpy()
    shift = table["shift"].to_numpy(dtype=np.float64)
    height = -np.log10(np.maximum(table["q_value"].to_numpy(dtype=np.float64), np.finfo(float).tiny))
    with figure_style():
        figure = new_figure(*size)
        axes = _inner_axes(figure, size)
        bound = -np.log10(SIGNIFICANT)
        axes.axhline(bound, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.set_ylim(-0.03 * bound, 1.15 * max(bound, height.max(initial=0.0)))
        axes.annotate(
            f"q = {SIGNIFICANT:g}", (1, bound), xycoords=("axes fraction", "data"), xytext=(0, 2),
            textcoords="offset points", ha="right", va="bottom", fontsize=7.5, color=MUTED,
        )  # fmt: skip
        _points(axes, shift, height, significant=height >= bound)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(_shift_label(table))
        axes.set_ylabel("significance, −log₁₀ q")
        _name(axes, names[:n_labels], shift, height, size)
    return figure


def effect_heatmap_figure(effects: pd.DataFrame, *, n_genes: int = 25, cell: float = 0.42) -> Figure:
    """Draw the shift of each gene in each group: strength as colour, a dot where it is significant.

    Parameters
    ----------
    effects
        Rows of one readout and state: ``gene`` (or ``gene_symbol``), ``group``, ``shift``, where known
        ``q_value`` and ``state``. A gene without a shift in a group has a dash there.
    n_genes
        At most so many genes, the largest absolute shift in any group first.
    cell
        Width of a field in inches.

    Raises
    ------
    ValueError
        A required column is missing, or a gene has several rows in a group.
    """
    from matplotlib.colors import LinearSegmentedColormap

    require_columns(effects, ["gene", "group", "shift"], "the heat map of effects")
    table = effects.assign(label=_labels(effects))
    if table.duplicated(["gene", "group"]).any():
        raise ValueError("a gene has several rows in a group: choose one kind, readout and state")
    shift = table.pivot(index="label", columns="group", values="shift").astype(float)
    shift = shift.loc[shift.abs().max(axis=1).sort_values(ascending=False, kind="stable").index[:n_genes]]
    q_value = pd.DataFrame(np.nan, index=shift.index, columns=shift.columns)
    if "q_value" in table:
        q_value = table.pivot(index="label", columns="group", values="q_value").astype(float).loc[shift.index]
    values = shift.to_numpy()
    most = max(float(np.nanmax(np.abs(values), initial=0.0)), 1e-12)
    signed = bool(np.nanmin(values, initial=0.0) < 0)
    colours = [NEGATIVE, PAPER, POSITIVE] if signed else [PAPER, POSITIVE]
    groups = [shorten(str(name), 18) for name in shift.columns]
    names = _shortened(shift.index.to_numpy())
    left = max(1.15, 0.1 + 0.084 * max(map(len, names), default=0))
    above, row = 0.2 + 0.065 * max(map(len, groups), default=0), 0.22
    inner = np.array([cell * max(len(groups), 1), row * max(len(shift), 1)])
    size = inner + np.array([left + 1.0, above + 0.1])
    with figure_style():
        figure = new_figure(*size)
        axes = figure.add_axes((left / size[0], 0.1 / size[1], *(inner / size)))
        image = axes.pcolormesh(
            np.ma.masked_invalid(values), cmap=LinearSegmentedColormap.from_list("shift", colours),
            vmin=-most if signed else 0.0, vmax=most, edgecolor=RULE, linewidth=0.5,
        )  # fmt: skip
        at_row, at_column = np.nonzero(q_value.to_numpy() <= SIGNIFICANT)
        dark = np.abs(values[at_row, at_column]) > 0.55 * most
        axes.scatter(at_column + 0.5, at_row + 0.5, s=12, c=np.where(dark, PAPER, INK), zorder=3)
        for i, j in np.argwhere(np.isnan(values)):
            axes.text(j + 0.5, i + 0.5, "–", color=MUTED, ha="center", va="center")
        axes.set_ylim(max(len(shift), 1), 0)
        axes.set_yticks(np.arange(len(shift)) + 0.5, labels=names, fontsize=8.5)
        axes.set_xticks(np.arange(len(groups)) + 0.5, labels=groups, fontsize=8.5, rotation=60, ha="left")
        axes.xaxis.tick_top()
        axes.tick_params(length=0, pad=2)
        for spine in axes.spines.values():
            spine.set_visible(False)
        scale = figure.add_axes((1 - 0.85 / size[0], 0.1 / size[1], 0.1 / size[0], min(1.6 / size[1], 0.8)))
        figure.colorbar(image, cax=scale).outline.set_visible(False)  # type: ignore[operator]
        scale.set_ylabel(f"{_shift_label(table)}\n(dot: q ≤ {SIGNIFICANT:g})", fontsize=7.5)
        scale.tick_params(labelsize=7, length=2)
        scale.locator_params(axis="y", nbins=4)
    return figure


def state_plane_figure(
    effects: pd.DataFrame,
    start: str,
    goal: str,
    *,
    n_labels: int = 10,
    size: tuple[float, float] = (4.6, 4.2),
) -> Figure:
    """Draw how far each gene moves cells away from the start state and towards the goal state.

    Parameters
    ----------
    effects
        Rows of one group of the readout ``state``: ``gene`` (or ``gene_symbol``), ``state``, ``shift``, where
        known ``q_value`` (filled where at most 0.05 for the goal).
    start, goal
        Values of ``state``.
    n_labels
        At most so many genes are named, those furthest along from start to goal first; a name that finds no
        room is left out.
    size
        Width and height in inches.

    Raises
    ------
    ValueError
        A required column or state is missing, or a gene has several rows for a state.
    """
    require_columns(effects, ["gene", "state", "shift"], "the plane of states")
    lacking = [repr(state) for state in (start, goal) if not (effects["state"] == state).any()]
    if lacking:
        found = ", ".join(map(repr, dict.fromkeys(effects["state"].astype(str))))
        raise ValueError(f"no row has the state {' or '.join(lacking)}; the table has: {found or 'none'}")
    table = effects.assign(label=_labels(effects))
    if table.duplicated(["gene", "state"]).any():
        raise ValueError("a gene has several rows for a state: choose one kind and group")
    wide = table.pivot(index="label", columns="state", values="shift").astype(float)
    away, towards = -wide[start], wide[goal]
    known = (away + towards).dropna().sort_values(ascending=False, kind="stable").index
    q_value = pd.Series(np.nan, index=known)
    if "q_value" in table:
        q_value = table[table["state"] == goal].set_index("label")["q_value"].astype(float).loc[known]
    x, y = away.loc[known].to_numpy(), towards.loc[known].to_numpy()
    with figure_style():
        figure = new_figure(*size)
        axes = _inner_axes(figure, size)
        axes.axhline(0, color=RULE, linewidth=0.9, zorder=1)
        axes.axvline(0, color=RULE, linewidth=0.9, zorder=1)
        _points(axes, x, y, significant=q_value.to_numpy() <= SIGNIFICANT)
        axes.margins(0.1)
        axes.locator_params(nbins=5)
        axes.set_xlabel(f"away from {shorten(start)} (change in cosine) →")
        axes.set_ylabel(f"towards {shorten(goal)} (change in cosine) →")
        _name(axes, known.to_numpy()[:n_labels], x, y, size)
    return figure


def _inner_axes(figure: Figure, size: tuple[float, float]) -> Axes:
    """Return axes with room for labels on the left and below."""
    width, height = np.array(size) - _MARGINS
    return figure.add_axes((0.86 / size[0], 0.5 / size[1], width / size[0], height / size[1]))


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, *, significant: np.ndarray) -> None:
    """Draw a filled point for each significant gene, a ring for each other."""
    axes.scatter(
        x[~significant], y[~significant], s=22, facecolor=PAPER, edgecolor=POSITIVE, linewidths=1.1, zorder=3
    )
    axes.scatter(x[significant], y[significant], s=28, color=POSITIVE, zorder=4)


def _name(axes: Axes, names: np.ndarray, x: np.ndarray, y: np.ndarray, size: tuple[float, float]) -> None:
    """Write the names of the first points beside them, where no point and no other name is in the way."""
    low = np.array([axes.get_xlim()[0], axes.get_ylim()[0]])
    span = np.array([axes.get_xlim()[1], axes.get_ylim()[1]]) - low
    area = np.array(size) - _MARGINS
    points = (np.column_stack([x, y]) - low) / span * area
    centres, halves = points.copy(), np.full((len(points), 2), 0.05)  # what is in the way, in inches
    for text, point in zip(_shortened(names), points, strict=False):
        half = np.array([0.036 * len(text) + 0.02, 0.065])
        for side in _SIDES:
            centre = point + side * (half + 0.06)
            apart = (np.abs(centres - centre) >= halves + half).any(axis=1).all()
            if apart and (centre - half >= 0).all() and (centre + half <= area).all():
                axes.annotate(text, tuple(low + centre / area * span), ha="center", va="center", fontsize=8)
                centres, halves = np.vstack([centres, centre]), np.vstack([halves, half])
                break


def _labels(effects: pd.DataFrame) -> pd.Series:
    """Return the name of each row's gene: its symbol, the identifier where several genes share the symbol."""
    labels, genes = label_genes(effects, "gene"), effects["gene"].astype(str)
    return labels.where(genes.groupby(labels).transform("nunique") == 1, genes)


def _shortened(names: np.ndarray) -> list[str]:
    """Return names short enough for a figure; whole those with an Ensembl ID or, cut, like another name."""
    cut = [name if _ENSEMBL.search(name) else shorten(name, _LONGEST) for name in names]
    return np.where(pd.Series(cut, dtype=object).duplicated(keep=False), names, cut).tolist()


def _shift_label(table: pd.DataFrame) -> str:
    """Return what the shifts are, from the state they point to."""
    states = [str(state) for state in table["state"].unique() if state] if "state" in table else []
    return f"shift towards {shorten(states[0])}" if len(states) == 1 else _CELL_SHIFT
