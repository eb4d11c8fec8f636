"""Networks from expression alone: Pearson correlation and ridge regression, all targets at once.

Both need only the cross-products of regulators and targets, which are summed over blocks of cells: the cells
are read once, and memory is the pairs asked for. Ridge answers for every target with one factorisation of
the regulators' correlation matrix; a target that is itself a regulator is excluded from its own regression
by a closed-form downdate, not by another factorisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from geneformer_grn.network.scored import ScoredPairs

Expression = np.ndarray | sparse.csr_matrix
"""Cells × genes, log-normalised, dense or CSR."""

PENALTIES = tuple(float(10.0**power) for power in np.arange(-2.0, 2.25, 0.5))
"""Ridge penalties tried, in units of the correlation matrix: scikit-learn's ``alpha`` is penalty × cells."""

_CELLS_PER_BLOCK = 2048


def mean_and_sd(expression: Expression) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and population standard deviation of every gene, in two passes.

    Parameters
    ----------
    expression
        ``(n, g)`` log-normalised expression, dense or CSR.

    Returns
    -------
    tuple of ndarray
        ``(g,)`` float64 each; the standard deviation of a constant gene is exactly 0.
    """
    n_cells = expression.shape[0]
    if sparse.issparse(expression):
        matrix = sparse.csr_matrix(expression)
        values = matrix.data.astype(np.float64)
        n_genes = matrix.shape[1]
        mean = np.bincount(matrix.indices, weights=values, minlength=n_genes) / n_cells
        stored = np.bincount(matrix.indices, minlength=n_genes)
        squares = np.bincount(matrix.indices, weights=(values - mean[matrix.indices]) ** 2, minlength=n_genes)
        variance = (squares + (n_cells - stored) * mean**2) / n_cells
    else:
        mean = np.mean(expression, axis=0, dtype=np.float64)
        variance = np.mean((np.asarray(expression, dtype=np.float64) - mean) ** 2, axis=0)
    sd = np.sqrt(variance)
    sd[sd <= 1e-7 * np.maximum(1.0, np.abs(mean))] = 0.0  # rounding is not variation
    return mean, sd


def cross_correlation(
    expression: Expression, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlate two sets of genes over the cells, block by block.

    Parameters
    ----------
    expression
        ``(n, g)`` log-normalised expression, dense or CSR.
    rows, columns
        ``(R,)`` and ``(C,)`` int column numbers of `expression`.

    Returns
    -------
    tuple of ndarray
        ``(R, C)`` float64 Pearson correlation, 0 where a gene is constant; ``(R, C)`` int32 number of cells
        in which both genes are above 0.
    """
    mean, sd = mean_and_sd(expression)
    wanted = np.concatenate([rows, columns])
    scale = np.divide(1.0, sd[wanted], out=np.zeros(len(wanted)), where=sd[wanted] > 0)
    correlation = np.zeros((len(rows), len(columns)))
    support = np.zeros((len(rows), len(columns)), dtype=np.float32)
    n_cells = expression.shape[0]
    for start in range(0, n_cells, _CELLS_PER_BLOCK):
        block = expression[start : start + _CELLS_PER_BLOCK][:, wanted]
        values = block.toarray() if sparse.issparse(block) else np.asarray(block)
        present = (values > 0).astype(np.float32)  # counts of a block are exact in float32
        standard = (values.astype(np.float64) - mean[wanted]) * scale
        correlation += standard[:, : len(rows)].T @ standard[:, len(rows) :]
        support += present[:, : len(rows)].T @ present[:, len(rows) :]
    return correlation / n_cells, support.astype(np.int32)


def correlation_edges(
    expression: Expression, gene_ids: np.ndarray, *, regulators: Sequence[str], targets: Sequence[str]
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

    rows, columns = _columns(regulators, gene_ids), _columns(targets, gene_ids)
    n_cells = _require_cells(expression)
    correlation, support = cross_correlation(expression, rows, columns)
    correlation = np.clip(correlation, -1.0, 1.0)
    unscored = _unscored(expression, rows, columns)
    with np.errstate(divide="ignore"):
        statistic = np.abs(correlation) * np.sqrt((n_cells - 2) / (1.0 - correlation**2))
    p_values = 2.0 * stdtr(n_cells - 2, -statistic)
    p_values[unscored] = np.nan
    correlation[unscored] = np.nan
    return ScoredPairs(
        regulators=gene_ids[rows],
        targets=gene_ids[columns],
        weights=correlation.astype(np.float32),
        support=support,
        method="correlation",
        signed=True,
        p_values=p_values,
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
    rows, columns = _columns(regulators, gene_ids), _columns(targets, gene_ids)
    n_cells = _require_cells(expression)
    correlation, support = cross_correlation(expression, rows, np.concatenate([rows, columns]))
    among, cross = correlation[:, : len(rows)], correlation[:, len(rows) :]
    place = {column: row for row, column in enumerate(rows.tolist())}
    own = np.array([place.get(column, -1) for column in columns.tolist()])  # row of the target itself
    unscored = _unscored(expression, rows, columns)
    varying = ~unscored.all(axis=0)
    if penalty is None:
        # from strong to weak: where nothing can be estimated, the strongest shrinkage stays
        penalty = min(
            reversed(PENALTIES),
            key=lambda value: _pooled_error(among, cross[:, varying], own[varying], value, n_cells),
        )
    weights, _ = _ridge_without_self(among, cross, own, penalty)
    chosen = np.where(unscored, np.nan, weights).astype(np.float32)
    return ScoredPairs(
        regulators=gene_ids[rows],
        targets=gene_ids[columns],
        weights=chosen,
        support=support[:, len(rows) :],
        method="ridge",
        signed=True,
    )


def _ridge_without_self(
    among: np.ndarray, cross: np.ndarray, own: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solve all regressions at one penalty; return weights (R, T) and the effective parameters (T,).

    With A = C + λI and P = A⁻¹, forcing coefficient j to 0 changes the solution b into b - P[:, j] b_j /
    P_jj (the Lagrange multiplier of the constraint), and P restricted to the other predictors is P - P_j
    P_jᵀ / P_jj.
    """
    from scipy.linalg import cho_factor, cho_solve

    n_regulators = len(among)
    inverse = cho_solve(cho_factor(among + penalty * np.eye(n_regulators)), np.eye(n_regulators))
    weights = inverse @ cross
    freedom = np.full(cross.shape[1], n_regulators - penalty * np.trace(inverse))
    its_own = np.flatnonzero(own >= 0)
    excluded = own[its_own]
    pivot = inverse[excluded, excluded]
    weights[:, its_own] -= inverse[:, excluded] * (weights[excluded, its_own] / pivot)
    weights[excluded, its_own] = 0.0
    trace = np.trace(inverse) - np.sum(inverse[:, excluded] ** 2, axis=0) / pivot
    freedom[its_own] = n_regulators - 1 - penalty * trace
    return weights, freedom


def _pooled_error(
    among: np.ndarray, cross: np.ndarray, own: np.ndarray, penalty: float, n_cells: int
) -> float:
    """Return the generalised cross-validation error of one penalty, summed over the targets."""
    weights, freedom = _ridge_without_self(among, cross, own, penalty)
    residual = 1.0 - 2.0 * np.sum(weights * cross, axis=0) + np.sum(weights * (among @ weights), axis=0)
    return float(np.sum(_gcv_error(residual, freedom, n_cells)))


def _gcv_error(residual: np.ndarray, freedom: np.ndarray, n_cells: int) -> np.ndarray:
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
    best = int(np.argmin(_gcv_error(residual, freedom, n_cells)))
    return vectors @ shrunken[best], float(grid[best])


def _columns(genes: Sequence[str], gene_ids: np.ndarray) -> np.ndarray:
    place = {gene: column for column, gene in enumerate(gene_ids.tolist())}
    unknown = [gene for gene in genes if gene not in place]
    if unknown:
        raise ValueError(
            f"{len(unknown):,} of {len(genes):,} genes are not in the expression matrix "
            f"(first: {unknown[0]!r})"
        )
    if len(genes) == 0:
        raise ValueError("a network needs at least one regulator and one target")
    return np.array([place[gene] for gene in genes], dtype=np.int64)


def _require_cells(expression: Expression) -> int:
    n_cells = int(expression.shape[0])
    if n_cells < 3:
        raise ValueError(f"a network needs at least 3 cells, got {n_cells}")
    return n_cells


def _unscored(expression: Expression, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return ``(R, T)`` bool: a gene with itself, or a gene that does not vary."""
    _, sd = mean_and_sd(expression)
    return (rows[:, None] == columns[None, :]) | (sd[rows] == 0)[:, None] | (sd[columns] == 0)[None, :]
