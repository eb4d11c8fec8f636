"""Partial correlations: what two genes share that no third gene of the set explains.

The set is the regulators and the targets together, and its correlation matrix has to be inverted: by
shrinkage where there are many genes, by the graphical lasso where there are few and most pairs should be 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from geneformer_grn._runtime import logger
from geneformer_grn.network.cross_products import (
    CELLS_PER_BLOCK,
    Expression,
    cross_correlation,
    mean_and_sd,
)
from geneformer_grn.network.pairing import Pairing, pair_up
from geneformer_grn.network.scored import ScoredPairs

MAX_GENES = {"partial_correlation": 5_000, "graphical_lasso": 500}
"""Most genes, regulators and targets together, that a method inverts the correlations of."""

PENALTIES = tuple(float(10.0**power) for power in np.linspace(0.0, -1.75, 8)[1:])
"""Graphical lasso penalties tried, strongest first, as shares of the largest correlation of two genes."""

_EBIC_GAMMA = 0.5


def partial_correlation_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    shrinkage: float | None = None,
) -> ScoredPairs:
    """Score pairs by their partial correlation given all other regulators and targets.

    Parameters
    ----------
    expression, gene_ids, regulators, targets
        As in `geneformer_grn.network.inference.correlation_edges`.
    shrinkage
        Weight of the identity matrix in the correlation matrix that is inverted, in (0, 1]. None: the one
        that minimises the expected squared error, in closed form (Schäfer & Strimmer 2005, Statistical
        Applications in Genetics and Molecular Biology 4, 32; see `analytic_shrinkage`).

    Returns
    -------
    ScoredPairs
        Signed weights; no p-values, since shrinkage biases them towards 0.

    Raises
    ------
    ValueError
        There are more than 5,000 genes, a gene is not in `gene_ids`, there are fewer than 3 cells, or
        `shrinkage` is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> chain = np.random.default_rng(0).normal(size=(2000, 3)).cumsum(axis=1)  # A -> B -> C
    >>> pairs = partial_correlation_edges(
    ...     chain, np.array(["A", "B", "C"]), regulators=["A", "B"], targets=["C"]
    ... )
    >>> (np.abs(pairs.weights) > 0.1).tolist()
    [[False], [True]]
    """
    if shrinkage is not None and not 0 < shrinkage <= 1:
        raise ValueError(f"the shrinkage lies above 0 and up to 1, got {shrinkage}")
    pairing, genes, correlation, support = _all_correlations(
        expression, gene_ids, regulators, targets, method="partial_correlation"
    )
    if shrinkage is None:
        shrinkage = analytic_shrinkage(expression[:, genes], correlation)
        logger.info("partial correlation of %d genes: shrinkage %.3g", len(genes), shrinkage)
    precision = np.linalg.inv(_shrunken(correlation, shrinkage))
    return _scored(pairing, genes, precision, support, method="partial_correlation")


def analytic_shrinkage(expression: Expression, correlation: np.ndarray) -> float:
    """Return how much of the identity a correlation matrix needs for the least expected squared error.

    That is Σ Var(r_ij) / Σ r_ij² over pairs i ≠ j, within [0, 1]; the variance of r_ij is n / (n - 1)³ times
    the squared deviations over cells of z_i z_j from their mean (Schäfer & Strimmer 2005, appendix). Summed
    over pairs it needs two sums a cell, and no further matrix.

    Parameters
    ----------
    expression
        ``(n, g)`` values of the genes, none of them constant, dense or CSR.
    correlation
        ``(g, g)`` their correlations.
    """
    n_cells, n_genes = expression.shape
    mean, sd = mean_and_sd(expression)
    shrink = np.sqrt((n_cells - 1) / n_cells)  # z is scaled by the unbiased standard deviation
    fourth = 0.0
    for start in range(0, n_cells, CELLS_PER_BLOCK):
        block = expression[start : start + CELLS_PER_BLOCK]
        values = block if isinstance(block, np.ndarray) else block.toarray()
        squares = ((values - mean) / sd * shrink) ** 2
        fourth += float((squares.sum(axis=1) ** 2).sum() - (squares**2).sum())
    of_pairs = float((correlation**2).sum()) - n_genes
    mean_products = ((n_cells - 1) / n_cells) ** 2 * of_pairs
    variances = n_cells / (n_cells - 1) ** 3 * (fourth - n_cells * mean_products)
    return float(np.clip(variances / of_pairs, 0.0, 1.0)) if of_pairs > 0 else 1.0


def graphical_lasso_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    penalty: float | None = None,
) -> ScoredPairs:
    """Score pairs by partial correlations of a sparse inverse, scikit-learn's graphical lasso.

    It is fitted to the correlation matrix after `analytic_shrinkage`, which can be inverted however few
    the cells are (Friedman, Hastie & Tibshirani 2008, Biostatistics 9).

    Parameters
    ----------
    expression, gene_ids, regulators, targets
        As in `geneformer_grn.network.inference.correlation_edges`.
    penalty
        On the absolute entries of the inverse, in units of correlation. None: walked down `PENALTIES`; kept
        is the first minimum of the extended Bayesian information criterion, γ = 0.5 (Foygel & Drton 2010).

    Returns
    -------
    ScoredPairs
        Signed weights, exactly 0 where the genes are independent given all others; no p-values.

    Raises
    ------
    ValueError
        There are more than 500 genes, a gene is not in `gene_ids`, there are fewer than 3 cells, the penalty
        is not positive, or it is so weak that the fit breaks down.
    """
    if penalty is not None and not penalty > 0:
        raise ValueError(f"the penalty of a graphical lasso must be positive, got {penalty}")
    pairing, genes, correlation, support = _all_correlations(
        expression, gene_ids, regulators, targets, method="graphical_lasso"
    )
    shrunken = _shrunken(correlation, analytic_shrinkage(expression[:, genes], correlation))
    if penalty is not None or len(genes) < 2:
        precision = np.eye(len(genes)) if len(genes) < 2 else sparse_inverse(shrunken, float(penalty or 1.0))
        return _scored(pairing, genes, precision, support, method="graphical_lasso")
    strongest = float(np.abs(shrunken - np.eye(len(genes))).max()) or 1.0
    kept, least = np.eye(len(genes)), np.inf
    for share in PENALTIES:
        try:
            precision = sparse_inverse(shrunken, strongest * share)
        except ValueError:
            if not np.isfinite(least):
                raise
            break  # weaker ones would break down as well
        criterion = ebic(precision, shrunken, pairing.n_cells)
        if criterion >= least:
            break
        kept, least, penalty = precision, criterion, strongest * share
    logger.info("graphical lasso of %d genes: penalty %.3g", len(genes), penalty)
    return _scored(pairing, genes, kept, support, method="graphical_lasso")


def sparse_inverse(correlation: np.ndarray, penalty: float) -> np.ndarray:
    """Return scikit-learn's graphical lasso inverse of a correlation matrix, ``(g, g)``.

    Raises
    ------
    ValueError
        The fit breaks down; the message names the way out.
    """
    from sklearn.covariance import graphical_lasso
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        try:
            _, precision = graphical_lasso(correlation, alpha=penalty, tol=1e-4, max_iter=200)
        except FloatingPointError as error:
            raise ValueError(
                f"the graphical lasso of {len(correlation):,} genes breaks down at penalty {penalty:.3g}: "
                "use a larger one, or fewer genes"
            ) from error
    if said:
        logger.warning(
            "the graphical lasso did not converge at penalty %.3g; its weights are approximate", penalty
        )
    return precision


def ebic(precision: np.ndarray, correlation: np.ndarray, n_cells: int) -> float:
    """Return the extended Bayesian information criterion of a Gaussian graphical model, smaller is better.

    ``-n (log det P - tr(C P)) + E log n + 4 γ E log g`` with E edges among g genes (Foygel & Drton 2010).
    """
    n_genes = len(precision)
    n_edges = np.count_nonzero(np.triu(precision, 1))
    likelihood = np.linalg.slogdet(precision)[1] - np.sum(correlation * precision)
    return float(-n_cells * likelihood + n_edges * (np.log(n_cells) + 4 * _EBIC_GAMMA * np.log(n_genes)))


def _all_correlations(
    expression: Expression,
    gene_ids: np.ndarray,
    regulators: Sequence[str],
    targets: Sequence[str],
    *,
    method: str,
) -> tuple[Pairing, np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs, the columns of all genes that vary, their correlations, and the pairs' support."""
    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    genes = np.unique(np.concatenate([pairing.rows, pairing.columns]))
    if len(genes) > MAX_GENES[method]:
        raise ValueError(
            f"{method} inverts the correlations of regulators and targets together, of at most "
            f"{MAX_GENES[method]:,} genes; got {len(genes):,}. Use fewer targets (--max-targets)"
        )
    correlation, support = cross_correlation(expression, genes, genes)
    place = np.searchsorted(genes, pairing.rows), np.searchsorted(genes, pairing.columns)
    varying = np.flatnonzero(correlation.diagonal() > 0)
    return pairing, genes[varying], correlation[np.ix_(varying, varying)], support[np.ix_(*place)]


def _shrunken(correlation: np.ndarray, shrinkage: float) -> np.ndarray:
    shrunken = (1.0 - shrinkage) * correlation
    np.fill_diagonal(shrunken, 1.0)
    return shrunken


def _scored(
    pairing: Pairing, genes: np.ndarray, precision: np.ndarray, support: np.ndarray, *, method: str
) -> ScoredPairs:
    """Return the partial correlations -P_ij / √(P_ii P_jj) of the pairs; `genes` are sorted."""
    scale = 1.0 / np.sqrt(precision.diagonal())
    partial = -precision * scale[:, None] * scale
    weights = np.full(pairing.unscored.shape, np.nan)
    scored = np.nonzero(~pairing.unscored)
    place = (
        np.searchsorted(genes, pairing.rows[scored[0]]),
        np.searchsorted(genes, pairing.columns[scored[1]]),
    )
    weights[scored] = partial[place]
    return pairing.scored(weights, support, method=method)
