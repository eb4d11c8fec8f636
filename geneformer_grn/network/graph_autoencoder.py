"""A graph autoencoder: ridge edges, squeezed through a few dimensions a gene and spread along the graph.

It is handed nothing that ridge and correlation do not have of the same cells: its graph is the magnitudes of
ridge weights, its features are correlations with the regulators. What it can add is smoothing: genes with
like neighbours get like edges, which helps where many genes share a programme and blurs who of the neighbours
it was. On simulated networks it ranks edges better than correlation and worse than the ridge edges that it
starts from, so it is one opinion among several and no improvement by itself. Plain torch, one small
network, all genes in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geneformer_grn.network.cross_products import Expression, cross_correlation
from geneformer_grn.network.inference import ridge_edges
from geneformer_grn.network.pairing import pair_up
from geneformer_grn.network.scored import ScoredPairs

if TYPE_CHECKING:
    import torch

MAX_GENES = 2_000
"""Most genes, regulators and targets together: the graph is dense."""

_DIGITS = 6  # else hundreds of steps make much of rounding, which differs between dense and sparse cells
_FIRST_BIAS = -2.0  # most pairs are no edge


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings:
    """How the autoencoder is built and trained.

    Parameters
    ----------
    hidden, latent
        Dimensions of a gene after the first and the second layer.
    epochs, rate
        Steps of Adam over the whole graph, and their length at first; it falls to 0.
    """

    hidden: int = 64
    latent: int = 32
    epochs: int = 600
    rate: float = 0.02

    def __post_init__(self) -> None:
        for name in ("hidden", "latent", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"the rate must be positive, got {self.rate}")


def graph_autoencoder_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    settings: AutoencoderSettings | None = None,
    seed: int = 0,
) -> ScoredPairs:
    """Score pairs by the edges that a graph autoencoder returns when it is given ridge edges.

    After Kipf & Welling (2016), Variational graph auto-encoders, the plain kind: two graph convolutions, then
    an inner product; here of a gene's vector as a regulator with another's as a target, so that the two
    directions of a pair differ.

    Parameters
    ----------
    expression, gene_ids, regulators, targets
        As in `geneformer_grn.network.inference.correlation_edges`.
    settings
        See `AutoencoderSettings`.
    seed
        Of the weights it starts from.

    Returns
    -------
    ScoredPairs
        Unsigned weights, the share from 0 to 1 of the strongest ridge weight that the autoencoder expects at
        a pair. No p-values.

    Raises
    ------
    ValueError
        There are more than 2,000 genes, a gene is not in `gene_ids`, or there are fewer than 3 cells.

    Examples
    --------
    >>> import numpy as np
    >>> cells = np.random.default_rng(0).normal(size=(200, 4))
    >>> cells[:, 2] += 2 * cells[:, 0]
    >>> genes = np.array(["A", "B", "C", "D"])
    >>> pairs = graph_autoencoder_edges(cells, genes, regulators=["A", "B"], targets=["C", "D"])
    >>> np.argwhere(pairs.weights > 0.5).tolist()
    [[0, 0]]
    """
    settings = settings or AutoencoderSettings()
    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    genes = np.union1d(pairing.rows, pairing.columns)
    if len(genes) > MAX_GENES:
        raise ValueError(
            f"a graph autoencoder takes at most {MAX_GENES:,} regulators and targets; got {len(genes):,}. "
            "Use fewer targets (--max-targets)"
        )
    features, support = cross_correlation(expression, genes, pairing.rows)
    start = ridge_edges(expression, gene_ids, regulators=regulators, targets=targets).weights
    strength = np.abs(np.where(pairing.unscored, 0.0, start).astype(np.float64))
    strength = np.round(strength / (strength.max() or 1.0), _DIGITS)
    rows, columns = np.searchsorted(genes, pairing.rows), np.searchsorted(genes, pairing.columns)
    graph = Graph(
        features=np.round(features, _DIGITS),
        adjacency=normalised(strength, rows, columns, len(genes)),
        strength=strength,
        counted=~pairing.unscored,
        rows=rows,
        columns=columns,
    )
    weights = train(graph, settings, seed=seed) if graph.counted.any() else np.zeros_like(strength)
    return pairing.scored(weights, support[columns].T, method="graph_autoencoder", signed=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class Graph:
    """What is learned from.

    Parameters
    ----------
    features
        ``(g, f)`` of every gene.
    adjacency
        ``(g, g)``, see `normalised`.
    strength
        ``(R, T)`` in [0, 1], what is to be returned.
    counted
        ``(R, T)`` bool, the pairs that count.
    rows, columns
        ``(R,)`` and ``(T,)`` int64 regulators and targets among the genes.
    """

    features: np.ndarray
    adjacency: np.ndarray
    strength: np.ndarray
    counted: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def normalised(strength: np.ndarray, rows: np.ndarray, columns: np.ndarray, n_genes: int) -> np.ndarray:
    """Return the ``(g, g)`` matrix ``D^-½ (A + I) D^-½`` along which genes are averaged.

    A is symmetric, of two directions the stronger one; D are the sums of the rows of A + I.
    """
    joined = np.zeros((n_genes, n_genes))
    joined[np.ix_(rows, columns)] = strength
    joined = np.maximum(joined, joined.T) + np.eye(n_genes)
    scale = 1.0 / np.sqrt(joined.sum(axis=1))
    return joined * scale[:, None] * scale


def train(graph: Graph, settings: AutoencoderSettings, *, seed: int) -> np.ndarray:
    """Return the ``(R, T)`` edges, in [0, 1], of an autoencoder trained on a graph; in float64 on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (graph.features.shape[1], settings.hidden),
        (settings.hidden, settings.latent),
        (settings.hidden, settings.latent),
    ]
    parameters = [
        (torch.randn(shape, generator=generator, dtype=torch.float64) / shape[0] ** 0.5).requires_grad_()
        for shape in shapes
    ]
    parameters.append(torch.tensor(_FIRST_BIAS, dtype=torch.float64, requires_grad=True))
    optimiser = torch.optim.Adam(parameters, lr=settings.rate)
    for epoch in range(settings.epochs):
        optimiser.param_groups[0]["lr"] = settings.rate * (1.0 - epoch / settings.epochs)
        optimiser.zero_grad()
        loss_of(logits(graph, parameters), graph).backward()
        optimiser.step()
    with torch.no_grad():
        return torch.sigmoid(logits(graph, parameters)).numpy()


def logits(graph: Graph, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return ``(R, T)`` log-odds of edges.

    With Â the adjacency and X the features, ``H = relu(Â X W₀)``, ``S = Â H W₁``, ``Z = Â H W₂`` and the
    log-odds are ``S Zᵀ + b``.

    Parameters
    ----------
    graph
        The graph.
    parameters
        ``W₀ (f, hidden)``, ``W₁ (hidden, latent)`` for regulators, ``W₂`` for targets, and ``b``.
    """
    import torch

    first, as_regulator, as_target, bias = parameters
    adjacency = torch.from_numpy(graph.adjacency)
    hidden = adjacency @ torch.relu(adjacency @ (torch.from_numpy(graph.features) @ first))
    sources = hidden[torch.from_numpy(graph.rows)] @ as_regulator
    sinks = hidden[torch.from_numpy(graph.columns)] @ as_target
    return sources @ sinks.T + bias


def loss_of(log_odds: torch.Tensor, graph: Graph) -> torch.Tensor:
    """Return the mean cross-entropy, in nats, of the strengths of the pairs that count."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    counted = torch.from_numpy(graph.counted)
    return binary_cross_entropy_with_logits(log_odds[counted], torch.from_numpy(graph.strength)[counted])
