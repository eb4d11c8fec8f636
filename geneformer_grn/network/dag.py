"""Directed acyclic networks by continuous optimisation.

Least squares with a penalty on absolute weights, under the constraint that no gene is its own ancestor, which
is a smooth function of the weights (NOTEARS, Zheng et al. 2018; here the log-determinant of DAGMA, Bello,
Aragam & Ravikumar 2022). Only regulators may regulate, so only they can close a loop: the constrained problem
is one of regulators × regulators, and every other target is a lasso.

What is taken from the optimum is the order of the regulators; weights are those of a lasso of every gene on
the regulators above it, so that they are exact, and exactly 0 where there is no edge. What to trust: that two
genes are joined, less which comes first. The order is the one that leaves least variance unexplained, in all.
That is the true one where all genes have equal noise in the units given; between standardised genes it
favours regulators with many targets, and puts a gene with many regulators above them. On simulated cells the
larger of two ridge weights told directions better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geneformer_grn._runtime import logger
from geneformer_grn.network.cross_products import Expression, mean_and_sd
from geneformer_grn.network.inference import predictors_and_targets
from geneformer_grn.network.pairing import pair_up
from geneformer_grn.network.scored import ScoredPairs

MAX_GENES = 500
"""Most genes, regulators and targets together."""

FITS = (1.0, 0.1, 0.01, 0.001)
"""Weights of the fit against acyclicity, in turn: at the last one loops cost more than any fit."""

_STEPS, _FIRST_STEP = 500, 0.01
_MOMENTS = (0.9, 0.999)
_DIGITS = 9  # rounding differs between dense and sparse cells, and would turn edges that may go either way
_SETTLED = 0.01  # |weight| below which the optimiser, which never reaches 0, means none


def dag_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    penalty: float = 0.03,
    standardise: bool = True,
) -> ScoredPairs:
    """Score pairs by the weights of a directed acyclic network, learned by continuous optimisation.

    Genes are standardised, so a weight is the change of the target, in its standard deviations, when the
    regulator moves by one of its own and the target's other regulators stay.

    Parameters
    ----------
    expression, gene_ids, regulators, targets
        As in `geneformer_grn.network.inference.correlation_edges`.
    penalty
        On absolute weights: scikit-learn's ``alpha`` of a lasso between standardised genes.
    standardise
        Whether regulators are standardised when they are put in order, too. False: they keep their units,
        as NOTEARS and DAGMA do it; for genes with equal noise in these units, which expression has not.

    Returns
    -------
    ScoredPairs
        Signed weights, exactly 0 where there is no edge; edges between regulators hold no loop. No p-values.

    Raises
    ------
    ValueError
        There are more than 500 genes, a gene is not in `gene_ids`, there are fewer than 3 cells, or the
        penalty is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> cells = np.random.default_rng(0).normal(size=(500, 3))
    >>> cells[:, 2] += cells[:, 0] - cells[:, 1]  # A -> C, B -| C
    >>> genes = np.array(["A", "B", "C"])
    >>> pairs = dag_edges(cells, genes, regulators=genes, targets=genes, standardise=False)
    >>> np.sign(np.nan_to_num(pairs.weights)).astype(int).tolist()
    [[0, 0, 1], [0, 0, -1], [0, 0, 0]]
    """
    if not penalty > 0:
        raise ValueError(f"the penalty of a directed acyclic network must be positive, got {penalty}")
    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    n_genes = len(np.union1d(pairing.rows, pairing.columns))
    if n_genes > MAX_GENES:
        raise ValueError(
            f"a directed acyclic network is learned for at most {MAX_GENES:,} regulators and targets; got "
            f"{n_genes:,}. Use fewer targets (--max-targets)"
        )
    from geneformer_grn.network.ordering import weighted_lasso

    among, cross, support = predictors_and_targets(expression, pairing)
    units = np.ones(len(among))
    if not standardise:
        units = mean_and_sd(expression)[1][pairing.rows]
        units /= np.sqrt(np.mean(units**2)) or 1.0
    both = np.outer(units, units)
    learned = learn_dag(np.round(among * both, _DIGITS), penalty * both)
    place = np.argsort(causal_order(without_loops(learned)))
    thresholds = np.full(cross.shape, penalty)
    is_regulator = pairing.own >= 0
    above = place[:, None] < place[pairing.own[is_regulator]]
    thresholds[:, is_regulator] = np.where(above, penalty, np.inf)
    weights = weighted_lasso(among, cross, thresholds, np.zeros_like(cross))
    return pairing.scored(weights, support, method="dag")


def acyclicity(weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Return how far weights are from acyclic, and its gradient: ``-log det(I - W∘W)``.

    Bello, Aragam & Ravikumar (2022), Advances in Neural Information Processing Systems 35, equation 6 with s
    = 1. It is 0 where the graph of the weights has no loop, and above 0 where it has one.

    Parameters
    ----------
    weights
        ``(R, R)``; row regulates column.

    Returns
    -------
    tuple
        The value and its ``(R, R)`` gradient; infinite where the spectral radius of W∘W is not below 1, which
        is outside of where the function is defined.
    """
    eye = np.eye(len(weights))
    inverse = np.linalg.inv(eye - weights**2)
    if (inverse < -1e-12).any():  # the inverse of an M-matrix has no negative entry
        return np.inf, np.full_like(weights, np.inf)
    return float(np.linalg.slogdet(inverse)[1]), 2.0 * weights * inverse.T


def learn_dag(
    covariance: np.ndarray, penalties: np.ndarray, *, n_steps: int = _STEPS, fits: Sequence[float] = FITS
) -> np.ndarray:
    """Return ``(R, R)`` weights that explain a covariance matrix, with next to no loop.

    Minimised is ``fit · (tr((I - W)ᵀ C (I - W)) / 2 + Σ penalties |W|) + acyclicity(W)`` for falling `fits`,
    each from the last one's result, by Adam with a rate that falls to 0. No weight is exactly 0.

    Parameters
    ----------
    covariance
        ``(R, R)`` with 0 in the rows of genes that do not vary.
    penalties
        ``(R, R)`` on absolute weights.
    n_steps
        Steps for each of `fits`, twice as many for the last.
    fits
        See `FITS`.
    """
    off = ~np.eye(len(covariance), dtype=bool)
    weights = np.zeros_like(covariance)
    refused = 0
    for fit in fits:
        steps = n_steps * (2 if fit == fits[-1] else 1)
        mean, square = np.zeros_like(weights), np.zeros_like(weights)
        count, rate, kept = 0, _FIRST_STEP, weights
        for step in range(steps):
            value, of_loops = acyclicity(weights)
            if not np.isfinite(value):  # too long a step: back to where it was, and shorter ones from there
                mean, square, count, rate, weights = 0.0 * mean, 0.0 * square, 0, rate / 2, kept
                refused += 1
                continue
            kept = weights
            gradient = fit * (covariance @ weights - covariance + penalties * np.sign(weights)) + of_loops
            count += 1
            mean = _MOMENTS[0] * mean + (1.0 - _MOMENTS[0]) * gradient
            square = _MOMENTS[1] * square + (1.0 - _MOMENTS[1]) * gradient**2
            change = mean / (1.0 - _MOMENTS[0] ** count)
            change /= np.sqrt(square / (1.0 - _MOMENTS[1] ** count)) + 1e-8
            weights = np.where(off, weights - rate * (1.0 - step / steps) * change, 0.0)
    if refused:
        logger.debug("directed acyclic network: %d steps left the domain and were taken back", refused)
    return kept


def without_loops(weights: np.ndarray) -> np.ndarray:
    """Return ``(R, R)`` bool, the edges of a directed acyclic graph.

    Edges are taken strongest first, each unless it closes a loop; weights below 0.01 count as none.
    """
    n = len(weights)
    strength = np.abs(weights)
    kept = np.zeros((n, n), dtype=bool)
    reaches = np.eye(n, dtype=bool)  # row reaches column along kept edges
    strongest = np.argsort(-strength, axis=None, kind="stable")[: np.count_nonzero(strength >= _SETTLED)]
    for source, target in zip(*np.unravel_index(strongest, (n, n)), strict=True):
        if not reaches[target, source]:
            kept[source, target] = True
            reaches[reaches[:, source]] |= reaches[target]
    return kept


def causal_order(edges: np.ndarray) -> np.ndarray:
    """Return ``(R,)`` genes so that all edges lead forward; among equals, those with more descendants first.

    Parameters
    ----------
    edges
        ``(R, R)`` bool without a loop.
    """
    left, order = edges.sum(axis=0), []
    free = np.flatnonzero(left == 0).tolist()
    while free:
        gene = max(free, key=lambda g: (int(edges[g].sum()), -g))
        free.remove(gene)
        order.append(gene)
        left = left - edges[gene]
        free += [int(g) for g in np.flatnonzero(edges[gene] & (left == 0))]
    return np.array(order, dtype=np.int64)
