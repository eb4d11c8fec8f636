"""A network drawn with its gene names as nodes, so that no name has to be looked up or guessed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geneformer_grn.report.drawing import INK, figure_style, label_genes, new_figure, require_columns, shorten
from geneformer_grn.report.network_drawing import (
    EdgeLook,
    Nodes,
    draw_edges,
    draw_legend,
    draw_nodes,
    legend_height,
    measure_nodes,
    sign_legend,
    sign_looks,
)
from geneformer_grn.report.network_layout import place_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE_HEIGHT = 0.3
PANELS_A_ROW = 3


def top_edges(edges: pd.DataFrame, n_edges: int) -> pd.DataFrame:
    """Return the `n_edges` edges with the largest absolute weight, ties in the order of the table."""
    edges = edges[edges["weight"].notna().to_numpy()]
    order = np.argsort(-edges["weight"].abs().to_numpy(dtype=np.float64), kind="stable")
    return edges.iloc[order[:n_edges]]


def hubs(edges: pd.DataFrame, *, n_edges: int = 30, n_hubs: int = 3) -> list[tuple[str, int]]:
    """Return the regulators with the most targets among the drawn edges, with that number, largest first."""
    counts = label_genes(top_edges(edges, n_edges), "source").value_counts()
    ranked = sorted(counts.items(), key=lambda item: (-int(item[1]), str(item[0])))
    return [(str(name), int(count)) for name, count in ranked[:n_hubs]]


def network_figure(
    edges: pd.DataFrame,
    *,
    n_edges: int = 30,
    size: tuple[float, float] | None = None,
    legend: bool = False,
) -> Figure:
    """Draw the strongest edges of one group: regulators as filled labels, targets as open ones.

    Blue arrows activate, orange bars repress, grey arrows have no known sign; thicker edges weigh more. Raw
    attention weights carry no sign, so colour comes from the column ``sign`` alone.

    Parameters
    ----------
    edges
        Rows of one group and method: ``source``, ``target``, ``weight``, optionally ``source_symbol``,
        ``target_symbol`` (shown in place of identifiers) and ``sign`` (+1, -1; 0 or missing: unknown).
    n_edges
        At most so many edges; every gene is named up to 300 edges, on a figure that grows with them.
    size
        Width and height in inches; follows from the number of genes where None.
    legend
        Whether the looks of edges are explained under the picture.

    Raises
    ------
    ValueError
        A required column is missing.
    """
    require_columns(edges, ["source", "target", "weight"], "the network figure")
    table = top_edges(edges, n_edges)
    looks = sign_looks(table)
    return draw_panels(
        {"": (table, looks)}, legend=sign_legend(looks) if legend else [], size=size, one_scale=True
    )


def network_panels_figure(
    edges: pd.DataFrame,
    groups: Sequence[str],
    *,
    n_edges: int = 30,
    size: tuple[float, float] | None = None,
    legend: bool = True,
) -> Figure:
    """Draw the networks of several groups side by side, every gene at the same place in each.

    A gene without an edge in a group is written faintly there, so that what differs is seen at a glance.

    Parameters
    ----------
    edges
        As `network_figure`, of one method, with the column ``group``.
    groups
        Groups to draw, in this order.
    n_edges
        At most so many edges of each group.
    size
        Width and height of each panel in inches; follows from the number of genes where None.
    legend
        Whether the looks of edges are explained under the picture.

    Raises
    ------
    ValueError
        A required column is missing.
    """
    require_columns(edges, ["source", "target", "weight", "group"], "the figure of networks")
    label = edges["group"].astype(str).to_numpy()
    tables = {group: top_edges(edges[label == group], n_edges) for group in groups}
    looks = {group: sign_looks(table) for group, table in tables.items()}
    every = [look for of_group in looks.values() for look in of_group]
    panels = {group: (tables[group], looks[group]) for group in groups}
    return draw_panels(panels, legend=sign_legend(every) if legend else [], size=size)


def draw_panels(
    panels: Mapping[str, tuple[pd.DataFrame, Sequence[EdgeLook]]],
    *,
    legend: Sequence[tuple[EdgeLook, str]],
    size: tuple[float, float] | None = None,
    one_scale: bool = False,
) -> Figure:
    """Draw networks over one layout of all their genes.

    Parameters
    ----------
    panels
        Title -> edges (``source``, ``target``, optionally symbols) and their looks; an empty title is none.
    legend
        What looks mean; empty: no legend.
    size
        Width and height of a panel, without title and legend, in inches.
    one_scale
        Whether `size` is that of the whole figure, of one panel without a title.
    """
    sources = {title: label_genes(table, "source").tolist() for title, (table, _) in panels.items()}
    targets = {title: label_genes(table, "target").tolist() for title, (table, _) in panels.items()}
    names = list(dict.fromkeys(name for title in panels for name in sources[title] + targets[title]))
    number = {name: index for index, name in enumerate(names)}
    pairs = {
        title: np.array(
            [(number[s], number[t]) for s, t in zip(sources[title], targets[title], strict=True)],
            dtype=np.int64,
        ).reshape(-1, 2)
        for title in panels
    }
    together = np.unique(np.concatenate([np.zeros((0, 2), dtype=np.int64), *pairs.values()]), axis=0)
    with figure_style():
        nodes = measure_nodes(names, np.bincount(together[:, 0], minlength=len(names)))
        width, height = size or _room(nodes)
        columns = min(len(panels), PANELS_A_ROW)
        rows = -(-len(panels) // max(columns, 1))
        title_height = TITLE_HEIGHT if any(panels) else 0.0
        foot = legend_height(legend, width * columns) if legend else 0.0
        if size and one_scale:
            height -= foot
        centres = place_labels(together, nodes.boxes, (width, height))
        whole = (width * columns, rows * (height + title_height) + foot)
        figure = new_figure(*whole)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, whole[0]), ylim=(0, whole[1]))  # data are inches, so labels have known sizes
        axes.set_axis_off()
        for index, (title, (_, looks)) in enumerate(panels.items()):
            across, down = index % columns, index // columns
            corner = np.array([width * across, whole[1] - (height + title_height) * (down + 1)])
            draw_edges(axes, pairs[title], looks, centres + corner, nodes.boxes)
            present = None if len(panels) == 1 else np.isin(np.arange(len(names)), pairs[title])
            draw_nodes(axes, nodes, centres + corner, present)
            if title:
                axes.text(
                    corner[0] + width / 2, corner[1] + height + 0.08, shorten(title, 40),
                    ha="center", fontsize=10, fontweight="bold", color=INK,
                )  # fmt: skip
        if legend:
            draw_legend(axes, legend, whole[0])
    return figure


def _room(nodes: Nodes) -> tuple[float, float]:
    """Return width and height in inches that leave room between the names."""
    n = len(nodes.texts)
    width = float(np.clip(0.92 * np.sqrt(n), 3.4, 4.8)) if n <= 45 else float(0.72 * np.sqrt(n))
    return width, 0.86 * width
