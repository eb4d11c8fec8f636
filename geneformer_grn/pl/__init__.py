"""Plotting: the tables of a run as figures.

``gg.pl.network``, ``network_differences`` and ``network_page`` (interactive) show edges,
``gg.pl.propagation`` what travels along them; ``gg.pl.effects``, ``volcano``, ``effect_heatmap`` and
``state_plane`` draw perturbations.

Each returns a `matplotlib.figure.Figure` that pyplot does not hold; ``figure.savefig("name.svg")`` writes it.
Embeddings are drawn by scanpy (``sc.pl.umap``).
"""

from geneformer_grn.pl.effects import effects
from geneformer_grn.pl.network import network, network_differences
from geneformer_grn.pl.network_page import network_page
from geneformer_grn.pl.perturbations import effect_heatmap, state_plane, volcano
from geneformer_grn.pl.propagation import propagation

__all__ = [
    "effect_heatmap",
    "effects",
    "network",
    "network_differences",
    "network_page",
    "propagation",
    "state_plane",
    "volcano",
]
