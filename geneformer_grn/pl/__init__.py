"""Plotting: ``gg.pl.network``, ``gg.pl.effects`` and ``gg.pl.propagation`` draw the tables of a run.

Each returns a `matplotlib.figure.Figure` that pyplot does not hold; ``figure.savefig("name.svg")`` writes it.
Embeddings are drawn by scanpy (``sc.pl.umap``).
"""

from geneformer_grn.pl.effects import effects
from geneformer_grn.pl.network import network
from geneformer_grn.pl.propagation import propagation

__all__ = ["effects", "network", "propagation"]
