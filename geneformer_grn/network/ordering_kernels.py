"""Lasso with a threshold for every pair, by compiled coordinate descent on correlations.

Thresholds that differ between pairs keep `geneformer_grn.network.descent_kernels` from serving here. One
target after another, each with the few predictors that move: products of whole matrices cost ten times more.
"""

# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numba
import numpy as np


def _compiled(function):  # type: ignore[no-untyped-def]
    try:
        return numba.njit(function, cache=True, nogil=True)
    except RuntimeError:  # numba: no folder to keep it in
        return numba.njit(function, nogil=True)


def descend_weighted(
    gram: np.ndarray,
    cross: np.ndarray,
    thresholds: np.ndarray,
    start: np.ndarray,
    *,
    max_sweeps: int,
    tolerance: float,
) -> np.ndarray:
    """Minimise ``½ wᵀ gram w - wᵀ cross + Σ thresholds |w|`` for every column.

    Parameters
    ----------
    gram
        ``(R, R)`` positive semi-definite; rows of constant predictors are 0.
    cross, thresholds, start
        ``(R, T)``; an infinite threshold keeps a weight at 0.
    max_sweeps, tolerance
        A column is done when no weight moves by more in a sweep over all predictors, or after so many.

    Returns
    -------
    ``(R, T)`` float64.
    """
    rows = [np.ascontiguousarray(part.T, dtype=np.float64) for part in (cross - gram @ start, thresholds)]
    weights = np.array(start.T, dtype=np.float64, order="C")
    _descend(np.ascontiguousarray(gram, dtype=np.float64), *rows, weights, max_sweeps, tolerance)
    return np.asarray(weights.T)


@_compiled
def _descend(gram, pulls, thresholds, weights, max_sweeps, tolerance):  # type: ignore[no-untyped-def]
    n = len(gram)
    for target in range(len(weights)):
        pull, threshold, weight = pulls[target], thresholds[target], weights[target]
        everywhere = True
        for _ in range(max_sweeps):
            largest = 0.0
            for j in range(n):
                before = weight[j]
                if threshold[j] == np.inf or gram[j, j] == 0.0 or (before == 0.0 and not everywhere):
                    continue
                free = pull[j] + gram[j, j] * before
                found = 0.0
                if free > threshold[j]:
                    found = (free - threshold[j]) / gram[j, j]
                elif free < -threshold[j]:
                    found = (free + threshold[j]) / gram[j, j]
                change = found - before
                if change != 0.0:
                    weight[j] = found
                    for k in range(n):
                        pull[k] -= change * gram[j, k]
                    largest = max(largest, abs(change))
            if largest <= tolerance:
                if everywhere:
                    break
                everywhere = True  # the chosen ones stand still: does another want to move?
            else:
                everywhere = False
