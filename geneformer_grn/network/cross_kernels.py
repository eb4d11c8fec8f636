"""The compiled cross-product of two sparse sets of genes: work grows with pairs of values."""

# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from scipy import sparse

from geneformer_grn._runtime import n_cores

_ROWS_A_TURN = 16


def _compiled(function):  # type: ignore[no-untyped-def]
    try:
        return numba.njit(function, cache=True, nogil=True)
    except RuntimeError:  # numba: no folder to keep it in
        return numba.njit(function, nogil=True)


def sparse_products(left: sparse.csc_matrix, right: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return ``leftᵀ right`` summed in float64, and in how many cells both values are above 0.

    One row of the result at a time, which stays in the cache; rows are shared among threads.

    Parameters
    ----------
    left
        ``(n, R)`` CSC, stored values not 0.
    right
        ``(n, C)`` CSR float32 or float64, stored values not 0.

    Returns
    -------
    tuple of ndarray
        ``(R, C)`` float64 and ``(R, C)`` int32.
    """
    products, stored_in_both = _products(left, right)
    if (left.data > 0).all() and (right.data > 0).all():
        return products, stored_in_both
    _, support = _products(sparse.csc_matrix(left > 0), sparse.csr_matrix(right > 0, dtype=np.float32))
    return products, support


def _products(left: sparse.csc_matrix, right: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return ``leftᵀ right``, and in how many cells both values are stored."""
    n_rows, n_columns = left.shape[1], right.shape[1]
    products = np.empty((n_rows, n_columns))
    counts = np.empty((n_rows, n_columns), dtype=np.int32)
    # Without a sign there is no check for places counted from the end.
    places = [array.astype(np.uint64) for array in (left.indptr, left.indices, right.indptr)]
    genes, values = right.indices.astype(np.uint32), left.data.astype(np.float64)

    def turn(first: int) -> None:
        rows = slice(first, min(first + _ROWS_A_TURN, n_rows))
        _accumulate(
            places[0][rows.start : rows.stop + 1], places[1], values, places[2], genes, right.data,
            products[rows], counts[rows],
        )  # fmt: skip

    with ThreadPoolExecutor(n_cores()) as threads:
        list(threads.map(turn, range(0, n_rows, _ROWS_A_TURN)))
    return products, counts


@_compiled
def _accumulate(  # type: ignore[no-untyped-def]
    left_starts, left_cells, left_values, right_starts, right_genes, right_values, products, counts
):
    # sum and count of a gene lie side by side, so that both come with one line of the cache
    sums = np.empty((products.shape[1], 2))
    for row in range(len(products)):
        sums[:] = 0.0
        for place in range(left_starts[row], left_starts[row + 1]):
            cell, value = left_cells[place], left_values[place]
            for other in range(right_starts[cell], right_starts[cell + np.uint64(1)]):
                gene = right_genes[other]
                sums[gene, 0] += value * right_values[other]
                sums[gene, 1] += 1.0
        products[row] = sums[:, 0]
        counts[row] = sums[:, 1]
