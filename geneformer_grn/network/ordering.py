"""Coefficients that lead downwards only: regulators in order by their noise, targets fitted to earlier ones.

Regression cannot tell cause from consequence. Worse, it adds nothing: the linear response along the
least-squares coefficients of all genes on all regulators is exactly the marginal covariance, so that a
network fitted in both directions predicts what a correlation does. An order of the regulators breaks that.
The one here comes from noise: molecules that appear and vanish at random give an unregulated gene a variance
in proportion to its mean, and regulation adds to it. Where genes are noisy for other reasons (bursts, cell
cycle, unknown cell states) the order is a guess; labels of cell states take out the coarsest of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from geneformer_grn.network.cross_products import Expression, cross_correlation, mean_and_sd
from geneformer_grn.network.pairing import pair_up
from geneformer_grn.network.scored import ScoredPairs

_STRENGTHS = np.geomspace(1.0, 1e-3, 30)
_SWEEPS, _SETTLED = 1_000, 1e-8
_DOMINANT = 0.05
_FIRST_RIDGE = 0.01  # of the fit that weighs the penalties, in units of the correlation matrix


def scaled_levels(counts: Expression) -> Expression:
    """Return counts scaled to one depth for all cells, their mean depth; not logarithms.

    A gene with more than a twentieth of all counts does not take part in the depth: where it is high, all
    others would look low, and be taken for repressed by it.

    Parameters
    ----------
    counts
        ``(n, g)`` counts, dense or CSR.

    Returns
    -------
    ``(n, g)`` float64, dense or CSR as given; cells without counts stay 0.

    Examples
    --------
    >>> scaled_levels(np.array([[1.0] * 30, [2.0] * 29 + [900.0]]))[:, 0].tolist()
    [1.5, 1.5]
    """
    total = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    usual = total <= _DOMINANT * total.sum()
    if not usual.any():
        usual[:] = True
    depth = np.asarray(counts[:, usual].sum(axis=1), dtype=np.float64).ravel()
    factor = np.divide(depth.mean(), depth, out=np.zeros_like(depth), where=depth > 0)
    if sparse.issparse(counts):
        return sparse.csr_matrix(sparse.diags(factor) @ counts)
    return np.asarray(counts, dtype=np.float64) * factor[:, None]


def centred_within(expression: Expression, labels: np.ndarray | None = None) -> np.ndarray:
    """Return expression less the mean of each cell's group.

    What differs between groups is as much due to the genes that define them as to any other, and would make
    everything that marks a group a consequence of everything else that does.

    Parameters
    ----------
    expression
        ``(n, g)`` dense or CSR.
    labels
        ``(n,)`` groups; None: all cells are one.

    Returns
    -------
    ``(n, g)`` float64, dense.

    Examples
    --------
    >>> centred_within(np.array([[1.0], [3.0], [8.0]]), np.array(["a", "a", "b"])).ravel().tolist()
    [-1.0, 1.0, 0.0]
    """
    dense = expression.toarray() if sparse.issparse(expression) else expression
    values = np.array(dense, dtype=np.float64)
    if labels is None:
        return np.asarray(values - values.mean(axis=0))
    if len(labels) != len(values):
        raise ValueError(f"{len(labels):,} labels were given for {len(values):,} cells")
    for label in np.unique(labels):
        rows = labels == label
        values[rows] -= values[rows].mean(axis=0)
    return values


def noise_order(covariance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Put genes in order, causes first: next is the one in which those before leave least noise.

    Parameters
    ----------
    covariance
        ``(r, r)`` covariance of levels (counts scaled to a common depth, not their logarithm).
    mean
        ``(r,)`` mean levels, which the variance of an unregulated gene is proportional to.

    Returns
    -------
    ``(r,)`` int, genes in order. Genes without a mean come last.

    Notes
    -----
    Top-down selection of equal-variance models (Chen, Drton & Wang 2019, Biometrika 106), the variances here
    those of genes over their means. Birth and death give variance = mean (Paulsson 2004, Nature 427), and the
    counting of molecules adds a multiple of the mean, which does not change the order.

    Examples
    --------
    >>> noise_order(np.array([[4.0, 2.0], [2.0, 3.0]]), np.array([2.0, 2.0])).tolist()
    [1, 0]
    """
    left = np.array(covariance, dtype=np.float64)
    scale = np.where(np.asarray(mean) > 0, mean, np.nan)
    open_ = np.ones(len(left), dtype=bool)
    order = np.empty(len(left), dtype=np.int64)
    for place in range(len(left)):
        noise = np.where(open_, np.nan_to_num(np.diag(left) / scale, nan=np.finfo(float).max), np.inf)
        chosen = int(np.argmin(noise))
        order[place], open_[chosen] = chosen, False
        if left[chosen, chosen] > 1e-9 * covariance[chosen, chosen]:
            left -= np.outer(left[:, chosen], left[chosen] / left[chosen, chosen])
    return order


def ordered_edges(
    levels: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    labels: np.ndarray | None = None,
    order: Sequence[str] | None = None,
) -> ScoredPairs:
    """Score pairs by an adaptive lasso of every target on the regulators that come before it.

    Each target's strength is the one with the lowest Bayesian information criterion, its penalties are in
    inverse proportion to a first ridge fit (Zou 2006). Targets that do not regulate come after all others.

    Parameters
    ----------
    levels
        ``(n, g)`` counts scaled to a common depth, dense or CSR; not logarithms.
    gene_ids
        ``(g,)`` names of the columns.
    regulators, targets
        Genes to pair, by these names.
    labels
        ``(n,)`` cell states, each with its own mean; None: one.
    order
        The regulators, causes first, where that is known; None: by `noise_order`.

    Returns
    -------
    ScoredPairs
        Signed weights in standard deviations: 0 where a pair is not selected or leads upwards.
        `geneformer_grn.network.refit.refit_signed` makes coefficients of the others.

    Raises
    ------
    ValueError
        A gene is not in `gene_ids`, there are fewer than 3 cells, or `order` does not hold the regulators.

    Examples
    --------
    >>> scored = ordered_edges(levels, genes, regulators=tfs, targets=list(genes))  # doctest: +SKIP
    """
    pairing = pair_up(levels, gene_ids, regulators=regulators, targets=targets)
    rows, columns = pairing.rows, pairing.columns
    centred = centred_within(levels, labels)
    correlation, _ = cross_correlation(centred, rows, np.concatenate([rows, columns]))
    among, cross = correlation[:, : len(rows)], correlation[:, len(rows) :]
    mean, _ = mean_and_sd(levels)
    sd = centred.std(axis=0)[rows]
    found = noise_order(among * sd * sd[:, None], mean[rows])
    place = _places(order, gene_ids[rows], found)
    last = np.append(place, len(rows))[pairing.own]  # of a target that is no regulator: after all of them
    weights = adaptive_lasso(among, cross, place[:, None] < last, pairing.n_cells)
    _, support = cross_correlation(levels, rows, columns)
    return pairing.scored(weights, support, method="ordered")


def _places(order: Sequence[str] | None, regulators: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the place of every regulator, in the order given or else found."""
    place = np.empty(len(regulators), dtype=np.int64)
    if order is None:
        place[found] = np.arange(len(regulators))
        return place
    if sorted(order) != sorted(regulators.tolist()):
        raise ValueError(
            f"the order names {len(order):,} genes; it must hold each of the {len(regulators):,} regulators "
            "once"
        )
    position = {gene: number for number, gene in enumerate(order)}
    return np.array([position[gene] for gene in regulators.tolist()], dtype=np.int64)


def adaptive_lasso(gram: np.ndarray, cross: np.ndarray, allowed: np.ndarray, n_cells: int) -> np.ndarray:
    """Fit all targets at once along a path of strengths, each keeping its best.

    Parameters
    ----------
    gram
        ``(R, R)`` correlations among the regulators.
    cross
        ``(R, T)`` correlations with the targets.
    allowed
        ``(R, T)`` bool, pairs that may have a weight.
    n_cells
        Cells behind the correlations.

    Returns
    -------
    ``(R, T)`` standardised weights of the strength with the lowest criterion.
    """
    allowed = allowed & (np.diag(gram) > 0)[:, None]
    thresholds = 1.0 / (np.abs(_ridge_of_allowed(gram, cross, allowed)) + 1e-4)
    largest = np.max(np.abs(cross) / thresholds, axis=0, initial=0.0, where=allowed)
    weights = np.zeros_like(cross)
    best, lowest = weights.copy(), np.zeros(cross.shape[1])
    for strength in _STRENGTHS:
        weights = weighted_lasso(
            gram, cross, np.where(allowed, strength * largest * thresholds, np.inf), weights
        )
        residual = 1.0 - 2.0 * np.sum(weights * cross, axis=0) + np.sum(weights * (gram @ weights), axis=0)
        criterion = n_cells * np.log(np.maximum(residual, 1e-12)) + np.log(n_cells) * (weights != 0).sum(
            axis=0
        )
        better = criterion < lowest
        best[:, better], lowest[better] = weights[:, better], criterion[better]
    return best


def _ridge_of_allowed(gram: np.ndarray, cross: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return the ``(R, T)`` ridge fit of each target; targets that may have the same regulators share one."""
    weights = np.zeros_like(cross)
    patterns, which = np.unique(allowed.T, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows, columns = np.flatnonzero(pattern), np.flatnonzero(which.ravel() == number)
        among = gram[np.ix_(rows, rows)] + _FIRST_RIDGE * np.eye(len(rows))
        weights[np.ix_(rows, columns)] = np.linalg.solve(among, cross[np.ix_(rows, columns)])
    return weights


def weighted_lasso(
    gram: np.ndarray, cross: np.ndarray, thresholds: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Minimise ``½ wᵀ gram w - wᵀ cross + Σ thresholds |w|`` for every column, by coordinate descent.

    Parameters
    ----------
    gram
        ``(R, R)`` correlations (a diagonal of 1; rows of constant genes 0).
    cross, thresholds, start
        ``(R, T)``; an infinite threshold keeps a weight at 0.

    Returns
    -------
    ``(R, T)`` weights.
    """
    from geneformer_grn.network.ordering_kernels import descend_weighted

    return descend_weighted(gram, cross, thresholds, start, max_sweeps=_SWEEPS, tolerance=_SETTLED)
