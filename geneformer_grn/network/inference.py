"""Networks from expression alone: Pearson correlation and ridge regression, all targets at once.

Both need only the cross-products of regulators and targets, which are summed over blocks of cells: the cells
are read once, and memory is the pairs asked for. Ridge answers for every target with one factorisation of
the regulators' correlation matrix; a target that is itself a regulator is excluded from its own regression
by a closed-form downdate, not by another factorisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geneformer_grn.network.cross_products import Expression, Precision, cross_correlation, mean_and_sd
from geneformer_grn.network.pairing import Pairing, pair_up
from geneformer_grn.network.scored import ScoredPairs

__all__ = ["PENALTIES", "Expression", "correlation_edges", "cross_correlation", "gcv_error", "gcv_ridge",
           "mean_and_sd", "ridge_edges"]  # fmt: skip

PENALTIES = tuple(float(10.0**power) for power in np.arange(-2.0, 2.25, 0.5))
"""Ridge penalties tried, in units of the correlation matrix: scikit-learn's ``alpha`` is penalty × cells."""


def correlation_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    precision: Precision = "float64",
) -> ScoredPairs:
    """Score pairs by the Pearson correlation of their expression.

    Parameters
    ----------
    expression
        ``(n, g)`` log-normalised expression, dense or CSR.
    gene_ids
        ``(g,)`` names of the columns.
    regulators, targets
        Genes to pair, by these names.
    precision
        Of dense products; see `geneformer_grn.network.cross_products.cross_correlation`.

    Returns
    -------
    ScoredPairs
        Signed weights r, with two-sided p-values of the t-test with n - 2 degrees of freedom. Cells are
        taken as independent, which those of one donor are not: p-values of large files rank rather than
        test.

    Raises
    ------
    ValueError
        A gene is not in `gene_ids`, or there are fewer than 3 cells.
    """
    from scipy.special import stdtr

    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    correlation, support = cross_correlation(expression, pairing.rows, pairing.columns, precision=precision)
    np.clip(correlation, -1.0, 1.0, out=correlation)
    freedom = pairing.n_cells - 2
    with np.errstate(divide="ignore"):
        statistic = np.abs(correlation) * np.sqrt(freedom / (1.0 - correlation**2))
    return pairing.scored(
        correlation, support, method="correlation", p_values=2.0 * stdtr(freedom, -statistic)
    )


def ridge_edges(
    expression: Expression,
    gene_ids: np.ndarray,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    penalty: float | None = None,
) -> ScoredPairs:
    """Score pairs by ridge regression of every target on all regulators but itself.

    Genes are standardised, so a weight is the change of the target, in its standard deviations, when the
    regulator moves by one of its own and the other regulators stay.

    Parameters
    ----------
    expression, gene_ids, regulators, targets
        As in `correlation_edges`.
    penalty
        Added to the diagonal of the regulators' correlation matrix (scikit-learn's ``alpha`` is penalty ×
        cells). None: the one of `PENALTIES` with the smallest generalised cross-validation error summed over
        targets (Golub, Heath & Wahba 1979).

    Returns
    -------
    ScoredPairs
        Signed weights; no p-values, since a shrunken coefficient has no simple one.

    Raises
    ------
    ValueError
        A gene is not in `gene_ids`, there are fewer than 3 cells, or the penalty is not positive.
    """
    if penalty is not None and not penalty > 0:
        raise ValueError(f"the ridge penalty must be positive, got {penalty}")
    pairing = pair_up(expression, gene_ids, regulators=regulators, targets=targets)
    among, cross, support = predictors_and_targets(expression, pairing)
    if penalty is None:
        varying = pairing.varying
        errors = ridge_errors(among, cross[:, varying], pairing.own[varying], pairing.n_cells)
        penalty = PENALTIES[len(errors) - 1 - int(np.argmin(errors[::-1]))]  # of equals the strongest
    weights = ridge_without_self(among, cross, pairing.own, penalty)
    return pairing.scored(weights, support, method="ridge")


def predictors_and_targets(
    expression: Expression, pairing: Pairing
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return correlations among the regulators (R, R), and with the targets (R, T) and their support."""
    genes = np.union1d(pairing.rows, pairing.columns)  # most regulators are targets too
    correlation, support = cross_correlation(expression, pairing.rows, genes)
    rows, columns = np.searchsorted(genes, pairing.rows), np.searchsorted(genes, pairing.columns)
    return correlation[:, rows], correlation[:, columns], support[:, columns]


def ridge_without_self(among: np.ndarray, cross: np.ndarray, own: np.ndarray, penalty: float) -> np.ndarray:
    """Solve all regressions at one penalty; return weights (R, T).

    With P = (C + λI)⁻¹ the weights are P c; where the target is regulator j itself, those of the others are
    -P_ij / P_jj (the inverse in blocks).
    """
    from scipy.linalg import cho_factor, cho_solve

    inverse = cho_solve(cho_factor(among + penalty * np.eye(len(among))), np.eye(len(among)))
    weights = inverse @ cross
    its_own = np.flatnonzero(own >= 0)
    excluded = own[its_own]
    weights[:, its_own] = -inverse[:, excluded] / inverse[excluded, excluded]
    weights[excluded, its_own] = 0.0
    return weights


def ridge_errors(among: np.ndarray, cross: np.ndarray, own: np.ndarray, n_cells: int) -> np.ndarray:
    """Return the generalised cross-validation error of each of `PENALTIES`, summed over the targets.

    One rotation into the eigenvectors of C serves all penalties. The residual variance at the solution b is
    1 - c·b - λ|b|²; where the target is regulator j itself it is 1 / P_jj - λ (P²)_jj / P_jj². Targets vary.
    """
    values, vectors = np.linalg.eigh(among)
    values = np.maximum(values, 0.0)
    its_own = own >= 0
    squared = vectors[own[its_own]] ** 2
    rotated = (vectors.T @ cross[:, ~its_own]) ** 2
    errors = []
    for penalty in PENALTIES:
        inverse = 1.0 / (values + penalty)
        freedom = float(values @ inverse)
        of_others = 1.0 - (inverse + penalty * inverse**2) @ rotated
        pivot, pivot_2 = squared @ inverse, squared @ inverse**2
        of_own = 1.0 / pivot - penalty * pivot_2 / pivot**2
        left = len(among) - 1 - penalty * (inverse.sum() - pivot_2 / pivot)
        errors.append(
            gcv_error(of_others, np.asarray(freedom), n_cells).sum() + gcv_error(of_own, left, n_cells).sum()
        )
    return np.array(errors)


def gcv_error(residual: np.ndarray, freedom: np.ndarray, n_cells: int) -> np.ndarray:
    """Return the generalised cross-validation error; the intercept costs one more parameter."""
    left = 1.0 - (freedom + 1.0) / n_cells
    return np.where(left > 0, residual / np.where(left > 0, left, 1.0) ** 2, np.inf)


def gcv_ridge(gram: np.ndarray, cross: np.ndarray, n_cells: int) -> tuple[np.ndarray, float]:
    """Fit one ridge regression from correlations, its penalty chosen by generalised cross-validation.

    Parameters
    ----------
    gram
        ``(k, k)`` correlations among the predictors.
    cross
        ``(k,)`` correlations with the response.
    n_cells
        Number of cells behind them.

    Returns
    -------
    tuple
        ``(k,)`` standardised coefficients, and the penalty (of `PENALTIES`) they were fitted with.
    """
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0.0)
    rotated = vectors.T @ cross
    grid = np.array(PENALTIES[::-1])
    shrunken = rotated / (values + grid[:, None])  # (penalties, k)
    residual = 1.0 - 2.0 * shrunken @ rotated + (shrunken**2) @ values
    freedom = np.sum(values / (values + grid[:, None]), axis=1)
    best = int(np.argmin(gcv_error(residual, freedom, n_cells)))
    return vectors @ shrunken[best], float(grid[best])
