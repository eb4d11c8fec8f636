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
        ``(n, R)`` CSC float64.
    right
        ``(n, C)`` CSR float32 or float64.

    Returns
    -------
    tuple of ndarray
        ``(R, C)`` float64 and ``(R, C)`` int32.
    """
    n_rows = left.shape[1]
    products = np.zeros((n_rows, right.shape[1]))
    support = np.zeros((n_rows, right.shape[1]), dtype=np.int32)

    def turn(first: int) -> None:
        _accumulate(
            first, min(first + _ROWS_A_TURN, n_rows),
            left.indptr, left.indices, left.data, right.indptr, right.indices, right.data,
            products, support,
        )  # fmt: skip

    with ThreadPoolExecutor(n_cores()) as threads:
        list(threads.map(turn, range(0, n_rows, _ROWS_A_TURN)))
    return products, support


@_compiled
def _accumulate(  # type: ignore[no-untyped-def]
    first, last, left_starts, left_cells, left_values, right_starts, right_genes, right_values,
    products, support,
):  # fmt: skip
    for row in range(first, last):
        sums, counts = products[row], support[row]
        for place in range(left_starts[row], left_starts[row + 1]):
            cell, value = left_cells[place], left_values[place]
            for other in range(right_starts[cell], right_starts[cell + 1]):
                gene = right_genes[other]
                sums[gene] += value * right_values[other]
                if value > 0 and right_values[other] > 0:
                    counts[gene] += 1
