"""The table of methods that score edges from expression alone, and what they share beyond the call."""

from __future__ import annotations

from collections.abc import Callable

from geneformer_grn.network import bayesian, dag, graph_autoencoder
from geneformer_grn.network.boosting import grnboost_edges
from geneformer_grn.network.inference import correlation_edges, ridge_edges
from geneformer_grn.network.linear import elastic_net_edges, lasso_edges
from geneformer_grn.network.partial import MAX_GENES, graphical_lasso_edges, partial_correlation_edges
from geneformer_grn.network.ranks import spearman_edges
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.trees import genie3_edges

MODEL_FREE: dict[str, Callable[..., ScoredPairs]] = {
    "correlation": correlation_edges,
    "spearman": spearman_edges,
    "partial_correlation": partial_correlation_edges,
    "graphical_lasso": graphical_lasso_edges,
    "ridge": ridge_edges,
    "lasso": lasso_edges,
    "elastic_net": elastic_net_edges,
    "genie3": genie3_edges,
    "grnboost": grnboost_edges,
    "dag": dag.dag_edges,
    "bayesian_network": bayesian.bayesian_network_edges,
    "graph_autoencoder": graph_autoencoder.graph_autoencoder_edges,
}
"""Method -> ``f(expression, gene_ids, *, regulators, targets, ...)``; its settings have defaults."""

ON_DEVICE = frozenset({"lasso", "elastic_net"})
"""Methods that take ``device``."""

SEEDED = frozenset({"genie3", "grnboost", "graph_autoencoder"})
"""Methods that draw something, and take ``seed``."""

GENE_LIMITS: dict[str, int] = MAX_GENES | {
    "dag": dag.MAX_GENES,
    "bayesian_network": bayesian.MAX_GENES,
    "graph_autoencoder": graph_autoencoder.MAX_GENES,
}
"""Method -> most genes it takes, regulators and targets together; no entry: as many as memory holds."""

PAIR_LIMITS: dict[str, int] = {"genie3": 250_000, "grnboost": 250_000}
"""Method -> regulators × targets above which it would take more than about ten minutes.

An estimate from ``benchmarks/results/networks.json`` (fewer trees there); asked for by name they run all the
same.
"""
