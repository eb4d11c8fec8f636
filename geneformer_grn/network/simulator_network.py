"""A regulatory network with the rates of its equations, and its steady state without noise.

Without loops the steady state is exact: level after level, each gene from those above it. That is also how
the half responses are found, since each needs the mean level of its regulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

_SWEEPS = 20_000
_SETTLED = 1e-10


@dataclass(frozen=True, eq=False, kw_only=True)
class RegulatoryNetwork:
    """A network with everything its equations need.

    Parameters
    ----------
    genes
        ``(G,)`` str names.
    source, target
        ``(E,)`` int gene numbers.
    weight
        ``(E,)`` float64; the magnitude is the largest production rate the edge brings, the sign its kind.
    basal
        ``(T, G)`` float64; unregulated production in each cell type.
    decay
        ``(G,)`` float64 decay rates, or one of all genes. SERGIO's default is 0.8.
    hill
        Exponent of the Hill functions.
    half_response
        ``(G,)`` float64; level of a regulator at which its edges act half. None: its noise-free level,
        averaged over the cell types. Not used of genes that regulate nothing.

    Raises
    ------
    ValueError
        The arrays do not fit each other, a rate is impossible, a gene regulates itself, an edge occurs twice,
        or a regulator is never produced.
    """

    genes: np.ndarray
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    basal: np.ndarray
    decay: np.ndarray | float = 0.8
    hill: float = 2.0
    half_response: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", np.broadcast_to(np.float64(self.decay), self.n_genes).copy())
        object.__setattr__(self, "basal", np.atleast_2d(np.asarray(self.basal, dtype=np.float64)))
        _check(self)
        if self.half_response is None:
            _, half = _settle(self, self.basal, np.ones_like(self.basal), None)
            object.__setattr__(self, "half_response", half)
        missing = self.regulators[~(self.half[self.regulators] > 0)]
        if len(missing):
            raise ValueError(
                f"{len(missing)} regulators have no level at which they could act (first: "
                f"{self.genes[missing[0]]}): nothing produces them; give them a basal rate"
            )

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def half(self) -> np.ndarray:
        """``(G,)`` half responses, after they were found."""
        return np.asarray(self.half_response, dtype=np.float64)

    @cached_property
    def regulators(self) -> np.ndarray:
        """Numbers of the genes with targets, ascending."""
        return np.unique(self.source)

    @cached_property
    def levels(self) -> list[np.ndarray]:
        """Genes by the longest path that leads to them; the last entry holds loops and all below them.

        Without loops it is empty.
        """
        waiting = np.bincount(self.target, minlength=self.n_genes)
        targets = sparse.csr_matrix(
            (np.ones(len(self.source), dtype=np.int64), (self.source, self.target)),
            shape=(self.n_genes, self.n_genes),
        )
        found, left = [], np.ones(self.n_genes, dtype=bool)
        while len(ready := np.flatnonzero(left & (waiting == 0))):
            found.append(ready)
            left[ready] = False
            waiting = waiting - np.asarray(targets[ready].sum(axis=0)).ravel()
        return [*found, np.flatnonzero(left)]

    @cached_property
    def inputs(self) -> sparse.csc_matrix:
        """``(G, G)`` weights from row to column."""
        shape = (self.n_genes, self.n_genes)
        return sparse.csc_matrix((self.weight.astype(np.float64), (self.source, self.target)), shape=shape)

    @cached_property
    def repressed(self) -> np.ndarray:
        """``(G,)`` production that a gene's repressors allow where none of them is there."""
        lost = np.where(self.weight < 0, -self.weight, 0.0)
        return np.bincount(self.target, weights=lost, minlength=self.n_genes)

    def distances(self, gene: int) -> np.ndarray:
        """Return the ``(G,)`` float64 edges on the shortest path from a gene; infinite where none leads."""
        return csgraph.shortest_path(abs(self.inputs), unweighted=True, indices=gene)


@dataclass(frozen=True, eq=False, kw_only=True)
class Conditions:
    """The circumstances of cells.

    Parameters
    ----------
    basal
        ``(C, G)`` float64; basal production rates, one row a condition.
    factor
        ``(C, G)`` float64; all production of a gene times this: 1 untouched, 0 knocked out, 3 overexpressed.
    """

    basal: np.ndarray
    factor: np.ndarray

    def __post_init__(self) -> None:
        if self.basal.shape != self.factor.shape:
            raise ValueError(
                f"conditions have basal rates {self.basal.shape} and factors {self.factor.shape}"
            )
        if not (np.all(self.factor >= 0) and np.all(np.isfinite(self.factor))):
            raise ValueError("factors of production are 0 (knocked out) or more")


def steady_state(network: RegulatoryNetwork, conditions: Conditions) -> np.ndarray:
    """Return the ``(C, G)`` float64 noise-free steady state of each condition.

    Without loops it is exact, one level after the other. With loops it is iterated until nothing changes.

    Raises
    ------
    ValueError
        The loops do not come to rest.
    """
    return _settle(network, conditions.basal, conditions.factor, network.half)[0]


def _settle(
    network: RegulatoryNetwork, basal: np.ndarray, factor: np.ndarray, half: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise-free levels, and half responses: those given, or the mean levels themselves."""
    *levels, loops = network.levels
    x, active = np.zeros(basal.shape), np.zeros(basal.shape)
    found = np.zeros(network.n_genes) if half is None else half

    def update(genes: np.ndarray, share: float) -> float:
        """Bring genes closer to what their regulators produce by `share`; return the largest change."""
        produced = (network.inputs[:, genes].T @ active.T).T + (basal + network.repressed)[:, genes]
        wanted = np.maximum(produced, 0.0) * factor[:, genes] / np.asarray(network.decay)[genes]
        change = wanted - x[:, genes]
        x[:, genes] += share * change
        if half is None:
            found[genes] = x[:, genes].mean(axis=0)
        power, threshold = x[:, genes] ** network.hill, found[genes] ** network.hill
        active[:, genes] = np.divide(power, threshold + power, out=np.zeros_like(power), where=power > 0)
        return float(np.max(np.abs(change) / (1.0 + x[:, genes]), initial=0.0))

    for genes in levels:
        update(genes, 1.0)
    if len(loops) == 0:
        return x, found
    for sweep in range(_SWEEPS):
        if update(loops, 1.0 if sweep == 0 else 0.2) < _SETTLED:
            return x, found
    raise ValueError(
        f"the feedback loops of {len(loops)} genes do not come to rest without noise (they oscillate, or "
        "switch); use fewer feedback edges or another seed"
    )


def _check(network: RegulatoryNetwork) -> None:
    """Raise where the parts of a network do not fit."""
    n, edges = network.n_genes, {len(network.source), len(network.target), len(network.weight)}
    if n == 0:
        raise ValueError("a network needs genes, got 0")
    if len(edges) != 1:
        raise ValueError(f"source, target and weight of edges differ in length: {sorted(edges)}")
    if network.basal.shape[1] != n:
        raise ValueError(f"basal rates are of {network.basal.shape[1]} genes, the network has {n}")
    numbers = np.concatenate([network.source, network.target])
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < n):
        raise ValueError(f"edges name gene {numbers.max()}, the network has {n} (numbered from 0)")
    if np.any(network.source == network.target):
        raise ValueError("a gene regulates itself; loops need another gene in between")
    if len(np.unique(network.source * n + network.target)) < len(network.source):
        raise ValueError("an edge occurs twice")
    rates = (network.basal >= 0).all() and (np.asarray(network.decay) > 0).all() and network.hill > 0
    if not (rates and np.isfinite(network.basal).all() and np.isfinite(network.weight).all()):
        raise ValueError("basal rates are 0 or more, decay and hill above 0, and all of them finite")
