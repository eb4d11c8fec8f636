"""A figure of cell embeddings in two dimensions: by label and by batch, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn.report.drawing import figure_style, group_colours, new_figure, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def embedding_maps_figure(
    umaps: Mapping[str, np.ndarray],
    tsnes: Mapping[str, np.ndarray],
    labels: np.ndarray,
    batches: np.ndarray,
) -> Figure:
    """Draw a row per embedding: UMAP by label and by batch, t-SNE by label and by batch.

    Parameters
    ----------
    umaps, tsnes
        Title -> ``(n, 2)``, the same titles in both.
    labels, batches
        ``(n,)`` str.

    Raises
    ------
    ValueError
        The two have other titles, or there is none.
    """
    if not umaps or list(umaps) != list(tsnes):
        raise ValueError(f"UMAPs of {list(umaps)} were given with t-SNEs of {list(tsnes)}")
    order = np.random.default_rng(0).permutation(len(labels))  # no group lies on top of the others
    colourings = [("label", labels, group_colours(labels)), ("batch", batches, group_colours(batches))]
    with figure_style():
        figure = new_figure(9.6, 2.0 * len(umaps) + 1.1)
        panels = figure.subplots(len(umaps), 4, squeeze=False)
        for row, title in zip(panels, umaps, strict=True):
            shown = [("UMAP", umaps[title]), ("t-SNE", tsnes[title])]
            pairs = [(kind, points, colouring) for kind, points in shown for colouring in colourings]
            for axes, (kind, points, (what, names, colours)) in zip(row, pairs, strict=True):
                axes.scatter(
                    *points[order].T, s=2, linewidths=0, rasterized=True,
                    c=[colours[name] for name in names[order]],
                )  # fmt: skip
                axes.set_xticks([])
                axes.set_yticks([])
                axes.set_title(f"{kind}, by {what}", fontsize=8)
            row[0].set_ylabel(title, fontsize=8)
        for place, (what, _, colours) in enumerate(colourings):
            handles = [
                figure.axes[0].scatter([], [], s=16, color=colour, label=shorten(name))
                for name, colour in colours.items()
            ]
            figure.legend(
                handles=handles, title=what, loc="lower left", bbox_to_anchor=(0.02 + 0.5 * place, 0.0),
                ncols=3, fontsize=7, frameon=False,
            )  # fmt: skip
        figure.tight_layout(rect=(0, 1.0 / (2.0 * len(umaps) + 1.1), 1, 1))
    return figure
