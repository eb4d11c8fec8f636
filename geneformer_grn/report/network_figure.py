"""A network drawn with its gene names as nodes, so that no name has to be looked up or guessed at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn.report.drawing import (
    INK,
    MUTED,
    NEGATIVE,
    PAPER,
    POSITIVE,
    REGULATOR,
    UNSIGNED,
    figure_style,
    label_genes,
    new_figure,
    require_columns,
    shorten,
)
from geneformer_grn.report.network_layout import place_labels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HUB_TARGETS = 3  # a regulator with at least so many of the drawn targets is written larger
# What an edge looks like by its sign: colour and arrow head say the same, for those who do not see colour.
EDGE_LOOKS = {1: (POSITIVE, "-|>,head_length=3.2,head_width=1.6"), -1: (NEGATIVE, "|-|,widthA=0,widthB=2.6")}
UNSIGNED_LOOK = (UNSIGNED, "-|>,head_length=3.2,head_width=1.6")


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
    edges: pd.DataFrame, *, n_edges: int = 30, size: tuple[float, float] | None = None
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
        At most so many edges; 30 to 60 can be read.
    size
        Width and height in inches; follows from the number of genes where None.

    Raises
    ------
    ValueError
        A required column is missing.
    """
    require_columns(edges, ["source", "target", "weight"], "the network figure")
    table = top_edges(edges, n_edges)
    sources = label_genes(table, "source").tolist()
    targets = label_genes(table, "target").tolist()
    names = list(dict.fromkeys(sources + targets))
    number = {name: index for index, name in enumerate(names)}
    pairs = np.array([(number[s], number[t]) for s, t in zip(sources, targets, strict=True)]).reshape(-1, 2)
    n_targets = np.bincount(pairs[:, 0], minlength=len(names))
    if size is None:
        width = float(np.clip(0.92 * np.sqrt(len(names)), 3.4, 4.8))
        size = (width, 0.86 * width)
    with figure_style():
        figure = new_figure(*size)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, size[0]), ylim=(0, size[1]))  # data are inches, so labels have known sizes
        axes.set_axis_off()
        fonts = [_font_size(count) for count in n_targets]
        texts = [shorten(name, 14) for name in names]
        boxes = _text_sizes(texts, fonts, n_targets > 0) + np.array([0.11, 0.07])
        centres = place_labels(pairs, boxes, size)
        _draw_edges(axes, table, pairs, centres, boxes)
        _draw_nodes(axes, texts, centres, boxes, list(zip(fonts, n_targets, strict=True)))
    return figure


def _font_size(n_targets: int) -> float:
    """Return the size of a gene's name in points: hubs largest."""
    return 7.6 if n_targets == 0 else 8.4 if n_targets < HUB_TARGETS else 9.6


def _text_sizes(texts: list[str], fonts: list[float], bold: np.ndarray) -> np.ndarray:
    """Return ``(n, 2)`` widths and heights of the texts in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    measure = TextToPath()
    sizes = []
    for text, font, heavy in zip(texts, fonts, bold, strict=True):
        properties = FontProperties(size=font, weight="bold" if heavy else "normal")
        width, _, _ = measure.get_text_width_height_descent(text, properties, ismath=False)
        sizes.append((width / 72, font / 72))
    return np.array(sizes).reshape(-1, 2)


def _draw_edges(
    axes: Axes, table: pd.DataFrame, pairs: np.ndarray, centres: np.ndarray, boxes: np.ndarray
) -> None:
    """Draw edges from the border of one label to the border of another, the weakest first."""
    from matplotlib.patches import FancyArrowPatch

    weights = table["weight"].abs().to_numpy(dtype=np.float64)
    span = float(np.ptp(weights)) if len(weights) else 0.0
    strength = (weights - weights.min()) / span if span > 0 else np.full(len(weights), 0.5)
    signs = np.zeros(len(table))
    if "sign" in table:
        signs = np.nan_to_num(np.sign(table["sign"].to_numpy(dtype=np.float64, na_value=np.nan)))
    for index in np.argsort(strength, kind="stable"):
        source, target = pairs[index]
        if source == target:
            continue  # a gene that regulates itself has no line to draw; the table lists it
        colour, arrow = EDGE_LOOKS.get(int(signs[index]), UNSIGNED_LOOK)
        start, end = centres[source], centres[target]
        axes.add_patch(
            FancyArrowPatch(
                _towards(start, end, boxes[source]),
                _towards(end, start, boxes[target] + 0.03),
                arrowstyle=arrow,
                connectionstyle="arc3,rad=0.06",  # bent, so that a pair of opposite edges is seen as two
                mutation_scale=2.2,
                shrinkA=0,
                shrinkB=0,
                linewidth=0.6 + 1.4 * strength[index],
                color=colour,
                alpha=0.45 + 0.45 * strength[index],
                zorder=1,
            )
        )


def _towards(start: np.ndarray, end: np.ndarray, box: np.ndarray) -> tuple[float, float]:
    """Return where the line from `start` to `end` leaves the box of (width, height) around `start`."""
    delta = end - start
    reach = np.maximum(np.abs(delta) / (box / 2), 1e-9).max()
    point = start + delta / max(reach, 1.0)
    return float(point[0]), float(point[1])


def _draw_nodes(
    axes: Axes,
    texts: list[str],
    centres: np.ndarray,
    boxes: np.ndarray,
    looks: list[tuple[float, int]],
) -> None:
    """Draw each gene as a labelled box; `looks` holds its font size and its number of targets."""
    from matplotlib.patches import FancyBboxPatch

    for text, centre, (width, height), (font, n_targets) in zip(texts, centres, boxes, looks, strict=True):
        regulator = n_targets > 0
        axes.add_patch(
            FancyBboxPatch(
                (centre[0] - width / 2, centre[1] - height / 2),
                width,
                height,
                boxstyle=f"round,pad=0,rounding_size={height / 2.4}",
                facecolor=REGULATOR if regulator else PAPER,
                edgecolor=REGULATOR if regulator else MUTED,
                linewidth=0.8,
                zorder=2,
            )
        )
        axes.text(
            centre[0],
            centre[1],
            text,
            ha="center",
            va="center_baseline",
            fontsize=font,
            fontweight="bold" if regulator else "normal",
            color="white" if regulator else INK,
            zorder=3,
        )
