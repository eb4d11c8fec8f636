"""Correlations of two sets of genes over the cells: what all linear methods are made of.

Sparse matrices are multiplied value by value, dense ones block by block of cells: whichever is less work.
Memory is the pairs asked for, and with `correlation_blocks` only a slice of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from scipy import sparse

Expression = np.ndarray | sparse.csr_matrix
"""Cells × genes, log-normalised, dense or CSR."""

Precision = Literal["float64", "float32"]

CELLS_PER_BLOCK = 1024

_SPARSE_COST = 25.0
"""Multiplications of a dense product that take as long as one of a sparse product."""

_STEADY = 1e3
"""Mean over standard deviation above which sums of raw values would cancel too many digits."""


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
    expression: Expression, rows: np.ndarray, columns: np.ndarray, *, precision: Precision = "float64"
) -> tuple[np.ndarray, np.ndarray]:
    """Correlate two sets of genes over the cells.

    Parameters
    ----------
    expression
        ``(n, g)`` log-normalised expression, dense or CSR.
    rows, columns
        ``(R,)`` and ``(C,)`` int column numbers of `expression`.
    precision
        Of the products where dense blocks are multiplied. ``float32``: each block of b = `CELLS_PER_BLOCK`
        cells is multiplied in float32 and added in float64, so that an entry is off by at most
        (b + 3) · 2⁻²⁴ = 6.1e-5 (the error bound of a dot product, Higham 2002, section 3.1, with
        Σ|z z'| ≤ n); rounding rarely adds up, and a few 1e-6 are usual. Sparse products are always
        summed in float64.

    Returns
    -------
    tuple of ndarray
        ``(R, C)`` float64 Pearson correlation, 0 where a gene is constant; ``(R, C)`` int32 number of cells
        in which both genes are above 0.
    """
    blocks = correlation_blocks(
        expression, rows, columns, rows_per_block=max(len(rows), 1), precision=precision
    )
    empty = (slice(0), np.zeros((0, len(columns))), np.zeros((0, len(columns)), dtype=np.int32))
    _, correlation, support = next(blocks, empty)
    return correlation, support


def correlation_blocks(
    expression: Expression,
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    rows_per_block: int = 1024,
    precision: Precision = "float64",
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Correlate two sets of genes a slice of the first at a time, for results larger than memory.

    Parameters
    ----------
    expression, rows, columns, precision
        As in `cross_correlation`.
    rows_per_block
        Genes of `rows` in one slice; memory is this × genes in `columns` × 12 bytes, and the cells.

    Yields
    ------
    tuple
        The slice of `rows`, its correlations and its support, as `cross_correlation` returns them.

    Raises
    ------
    ValueError
        The precision is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> cells = np.random.default_rng(0).random((50, 6))
    >>> genes = np.arange(6)
    >>> [r.shape for _, r, _ in correlation_blocks(cells, genes, genes, rows_per_block=4)]
    [(4, 6), (2, 6)]
    """
    if precision not in ("float64", "float32"):
        raise ValueError(f"correlations are multiplied in float64 or float32, not {precision!r}")
    mean, sd = mean_and_sd(expression)
    scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0)
    sides = _worth_sparse(expression, rows, columns, np.abs(mean) * scale)
    for start in range(0, len(rows), rows_per_block):
        place = slice(start, min(start + rows_per_block, len(rows)))
        part = rows[place]
        if sides is None:
            yield place, *_dense_block(expression, mean, scale, part, columns, precision=precision)
            continue
        from geneformer_grn.network.cross_kernels import sparse_products

        products, support = sparse_products(sides[0][:, place], sides[1])
        products /= expression.shape[0]
        products -= np.outer(mean[part], mean[columns])
        products *= scale[part][:, None]
        products *= scale[columns]
        yield place, products, support


def _worth_sparse(
    expression: Expression, rows: np.ndarray, columns: np.ndarray, steadiness: np.ndarray
) -> tuple[sparse.csc_matrix, sparse.csr_matrix] | None:
    """Return both sides for a sparse product, or None where dense blocks are faster or more exact."""
    if not sparse.issparse(expression):
        return None
    if max(steadiness[rows].max(initial=0.0), steadiness[columns].max(initial=0.0)) > _STEADY:
        return None
    matrix = sparse.csr_matrix(expression)
    every = np.array_equal(columns, np.arange(matrix.shape[1]))
    left, right = matrix[:, rows], matrix if every else matrix[:, columns]
    met = np.diff(left.indptr).astype(np.float64) @ np.diff(right.indptr)
    if met * _SPARSE_COST > float(matrix.shape[0]) * len(rows) * len(columns):
        return None
    if right.dtype not in (np.float32, np.float64):
        right = right.astype(np.float64)
    if not (right.data.all() and left.data.all()):
        left, right = left.copy(), right.copy()
        left.eliminate_zeros()
        right.eliminate_zeros()
    return sparse.csc_matrix(left), right


def _dense_block(
    expression: Expression,
    mean: np.ndarray,
    scale: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    precision: Precision,
) -> tuple[np.ndarray, np.ndarray]:
    """Correlate by products of standardised blocks of cells, added in float64."""
    wanted = np.union1d(rows, columns)
    left, right = np.searchsorted(wanted, rows), np.searchsorted(wanted, columns)
    n_cells = expression.shape[0]
    correlation = np.zeros((len(rows), len(columns)))
    support = np.zeros((len(rows), len(columns)), dtype=np.float32)
    for start in range(0, n_cells, CELLS_PER_BLOCK):
        block = expression[start : start + CELLS_PER_BLOCK][:, wanted]
        values = block.toarray() if sparse.issparse(block) else np.asarray(block)
        present = (values > 0).astype(np.float32)  # counts below 2²⁴ are exact in float32
        standard = np.subtract(values, mean[wanted], dtype=np.float64)
        standard *= scale[wanted]
        standard = standard.astype(precision, copy=False)
        correlation += standard[:, left].T @ _taken(standard, right)
        support += present[:, left].T @ _taken(present, right)
    return correlation / n_cells, support.astype(np.int32)


def _taken(block: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return columns of a block, and the block itself where those are all, in order."""
    return block if np.array_equal(columns, np.arange(block.shape[1])) else block[:, columns]
