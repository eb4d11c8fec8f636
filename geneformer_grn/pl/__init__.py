"""Plotting: the tables of a run as figures.

``gg.pl.network``, ``network_differences`` and ``network_page`` (interactive) show edges,
``gg.pl.propagation`` what travels along them; ``gg.pl.effects``, ``volcano``, ``effect_heatmap`` and
``state_plane`` draw perturbations; ``confusion``, ``roc``, ``precision_recall``, ``calibration``,
``few_shot`` and ``driver_genes`` predicted labels.

Each returns a `matplotlib.figure.Figure` that pyplot does not hold; ``figure.savefig("name.svg")`` writes it.
Embeddings are drawn by scanpy (``sc.pl.umap``).
"""

from geneformer_grn.pl.effects import effects
from geneformer_grn.pl.labels import calibration, confusion, driver_genes, few_shot, precision_recall, roc
from geneformer_grn.pl.network import network, network_differences
from geneformer_grn.pl.network_page import network_page
from geneformer_grn.pl.perturbations import effect_heatmap, state_plane, volcano
from geneformer_grn.pl.propagation import propagation

__all__ = [
    "calibration",
    "confusion",
    "driver_genes",
    "effect_heatmap",
    "effects",
    "few_shot",
    "network",
    "network_differences",
    "network_page",
    "precision_recall",
    "propagation",
    "roc",
    "state_plane",
    "volcano",
]
