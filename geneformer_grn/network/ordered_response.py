"""Predicted effects along networks that lead downwards only, averaged over random halves of the cells.

No single edge table holds such an average. It is the method of ours that comes nearest to true knock-outs in
simulated cells, and rests on what is true of them: noise in proportion to the mean (see
`geneformer_grn.network.ordering`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph

from geneformer_grn.network.cross_products import Expression, mean_and_sd
from geneformer_grn.network.ordering import adaptive_lasso, centred_within, noise_order, scaled_levels
from geneformer_grn.network.pairing import pair_up

_COLUMNS = ["source", "gene", "group", "hop", "effect"]
_TAKEN_OUT = (
    0.5  # of the variance that counting adds: all of it leaves correlations of noise divided by little
)
_LEAST_VARIANCE = 0.1  # of what was measured, however much of it counting explains
_LEAST_EIGENVALUE = 0.02
_REFIT_RIDGE = 3e-3


@dataclass(frozen=True, eq=False)
class _Fit:
    """One half's network: ``(R, g)`` coefficients, whose regulators stand in the columns `rows`."""

    rows: np.ndarray
    coefficients: np.ndarray

    def totals(self) -> np.ndarray:
        """Return ``(R, g)`` changes of all genes as each regulator moves by one."""
        among = self.coefficients[:, self.rows]
        total = np.linalg.solve(np.eye(len(among)) - among, self.coefficients)
        total[np.arange(len(self.rows)), self.rows] = 1.0  # in an order, nothing comes back to a gene
        return total

    def hops(self) -> np.ndarray:
        """Return ``(R, g)`` lengths of the shortest paths, infinite where there is none."""
        n_genes = self.coefficients.shape[1]
        start, end = np.nonzero(self.coefficients)
        graph = sparse.csr_matrix((np.ones(len(start)), (self.rows[start], end)), shape=(n_genes, n_genes))
        return np.asarray(csgraph.shortest_path(graph, indices=self.rows, unweighted=True))


def counting_noise(counts: Expression) -> np.ndarray:
    """Return the variance that counting adds to levels, for each gene.

    Molecules are drawn at random: a gene of which `m` are expected in a cell varies by `m` however steady it
    is, and scaled to another depth by the square of that factor.

    Parameters
    ----------
    counts
        ``(n, g)`` counts, dense or CSR.

    Returns
    -------
    ``(g,)`` float64, in the squared units of `geneformer_grn.network.ordering.scaled_levels`.

    Examples
    --------
    >>> counting_noise(np.full((4, 30), 2.0))[:2].tolist()
    [2.0, 2.0]
    """
    levels = scaled_levels(counts)
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    scaled = np.asarray(levels.sum(axis=1), dtype=np.float64).ravel()
    factor = np.divide(scaled, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(levels.T @ factor).ravel() / len(factor)


def ordered_response(
    levels: Expression,
    gene_ids: np.ndarray,
    changes: Mapping[str, float],
    *,
    regulators: Sequence[str],
    labels: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    n_halves: int = 30,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict effects along networks that lead downwards only, averaged over random halves of the cells.

    Each half gives an order of the regulators, edges (as `geneformer_grn.network.ordering.ordered_edges`),
    coefficients and linear responses. Which gene comes first is often a close call: the average hedges it.

    Parameters
    ----------
    levels
        ``(n, g)`` counts scaled to a common depth (`geneformer_grn.network.ordering.scaled_levels`).
    gene_ids
        ``(g,)`` names of the columns.
    changes
        Source -> change of its level. A source that is no regulator moves itself alone.
    regulators
        Genes that may regulate; all others are targets.
    labels
        ``(n,)`` cell states, each with its own mean; None: one.
    noise
        ``(g,)`` variance that counting adds (`counting_noise`), half of which is taken out of the genes'
        variances: counted regulators explain too little of their targets, and what they leave looks like
        edges between those. None: levels are taken as they are.
    n_halves
        Number of halves.
    seed
        Seed of the halves.

    Returns
    -------
    DataFrame
        As `geneformer_grn.network.responses.marginal_response`; ``hop`` is the shortest path in any of the
        networks.

    Raises
    ------
    ValueError
        A gene is not in `gene_ids`, there are fewer than 6 cells, there is not even one half, or `noise` is
        not one number a gene.

    Notes
    -----
    Averaging over half-samples: Bühlmann & Yu (2002), Analyzing bagging, Annals of Statistics 30.

    Examples
    --------
    >>> ordered_response(levels, genes, {"ENSG00000066336": -2.0}, regulators=tfs)  # doctest: +SKIP
    """
    n_cells = levels.shape[0]
    if n_halves < 1 or n_cells < 6:
        raise ValueError(
            f"an average needs a half of 3 cells at least; got {n_halves} halves of {n_cells} cells"
        )
    if noise is not None and np.shape(noise) != (len(gene_ids),):
        raise ValueError(f"{len(gene_ids):,} genes need as many variances of noise, got {np.shape(noise)}")
    place = {gene: column for column, gene in enumerate(gene_ids.tolist())}
    unknown = [gene for gene in changes if gene not in place]
    if unknown:
        raise ValueError(f"gene {unknown[0]!r} is not in the expression matrix")
    rows = pair_up(levels, gene_ids, regulators=regulators, targets=gene_ids.tolist()).rows
    taken_out = np.zeros(len(gene_ids)) if noise is None else _TAKEN_OUT * np.asarray(noise)
    rng = np.random.default_rng(seed)
    totals, hops = np.zeros((len(rows), len(gene_ids))), np.full((len(rows), len(gene_ids)), np.inf)
    for _ in range(n_halves):
        half = np.sort(rng.permutation(n_cells)[: n_cells // 2])
        fit = _fit(levels[half], rows, None if labels is None else labels[half], taken_out)
        totals += fit.totals() / n_halves
        hops = np.minimum(hops, fit.hops())
    row_of = {gene: row for row, gene in enumerate(gene_ids[rows].tolist())}
    parts = [
        _rows(
            source,
            change,
            gene_ids,
            None if (row := row_of.get(source)) is None else (totals[row], hops[row]),
        )
        for source, change in changes.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_COLUMNS)


def _fit(levels: Expression, rows: np.ndarray, labels: np.ndarray | None, taken_out: np.ndarray) -> _Fit:
    """Order the regulators, choose edges that lead downwards, and fit their coefficients."""
    mean, _ = mean_and_sd(levels)
    centred = centred_within(levels, labels)
    measured = np.mean(centred**2, axis=0)
    sd = np.sqrt(np.maximum(measured - taken_out, _LEAST_VARIANCE * measured))
    inverse = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 1e-7 * np.maximum(1.0, mean))
    cross = centred[:, rows].T @ centred / len(centred) * inverse[rows, None] * inverse
    among = cross[:, rows].copy()
    if taken_out.any():
        np.fill_diagonal(among, inverse[rows] > 0)
        among = _definite(among)
    order = noise_order(among * sd[rows] * sd[rows, None], mean[rows])
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = np.arange(len(rows))
    last = np.full(len(sd), len(rows))
    last[rows] = place
    weights = adaptive_lasso(among, cross, place[:, None] < last, len(centred))
    for target in np.flatnonzero(weights.any(axis=0)):
        chosen = np.flatnonzero(weights[:, target])
        small = among[np.ix_(chosen, chosen)] + _REFIT_RIDGE * np.eye(len(chosen))
        weights[chosen, target] = np.linalg.solve(small, cross[chosen, target])
    return _Fit(rows, weights * sd * inverse[rows, None])


def _definite(correlation: np.ndarray) -> np.ndarray:
    """Return the correlations with small and negative eigenvalues raised, and 1 on the diagonal again."""
    values, vectors = np.linalg.eigh(correlation)
    if values.min() >= _LEAST_EIGENVALUE:
        return correlation
    raised = (vectors * np.maximum(values, _LEAST_EIGENVALUE)) @ vectors.T
    scale = 1.0 / np.sqrt(np.diag(raised))
    constant = np.diag(correlation) == 0
    found = raised * scale * scale[:, None]
    found[constant], found[:, constant] = 0.0, 0.0
    return np.asarray(found)


def _rows(
    source: str, change: float, gene_ids: np.ndarray, found: tuple[np.ndarray, np.ndarray] | None
) -> pd.DataFrame:
    """Return the effects of one source, itself first."""
    genes, hops, effects = [source], [0], [float(change)]
    if found is not None:
        totals, lengths = found
        others = np.flatnonzero((totals != 0) & np.isfinite(lengths) & (gene_ids != source))
        genes += gene_ids[others].tolist()
        hops += lengths[others].astype(int).tolist()
        effects += (change * totals[others]).tolist()
    return pd.DataFrame(
        {"source": source, "gene": genes, "group": "all", "hop": hops, "effect": effects}, columns=_COLUMNS
    )
