"""Elastic net regressions that share their predictors, by compiled coordinate descent on correlations.

Friedman, Hastie & Tibshirani (2010), Regularization paths for generalized linear models via coordinate
descent, J. Statistical Software 33 ("covariance updates"). Genes that share a few programmes make correlation
matrices on which gradient steps are slow and this is not; it is one target at a time, which suits CPUs only.
"""

# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from geneformer_grn._runtime import n_cores

MAX_SWEEPS = 10_000
_TARGETS_A_TURN = 8


def _compiled(function):  # type: ignore[no-untyped-def]
    try:
        return numba.njit(function, cache=True, nogil=True, fastmath={"reassoc", "contract"})
    except RuntimeError:  # numba: no folder to keep it in
        return numba.njit(function, nogil=True, fastmath={"reassoc", "contract"})


def descend(
    among: np.ndarray, cross: np.ndarray, own: np.ndarray, start: np.ndarray,
    *, l1: float, l2: float, tolerance: float,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """Minimise, for each target, ``bᵀ C b / 2 - cᵀ b + l1 |b|₁ + l2 |b|² / 2``.

    Parameters
    ----------
    among, cross, own
        ``(R, R)`` correlations among the predictors, ``(R, T)`` with the targets, and ``(T,)`` int64 the
        predictor that is the target itself and stays 0 (-1 where none is).
    start
        ``(R, T)`` weights to begin at.
    l1, l2
        Penalties.
    tolerance
        A target is done when no weight moves by more in a sweep over all predictors.

    Returns
    -------
    tuple
        ``(R, T)`` float64 weights, and the number of targets that were not done after `MAX_SWEEPS` sweeps.
    """
    weights = np.ascontiguousarray(start.T, dtype=np.float64).copy()
    pulls = np.ascontiguousarray(
        (cross - among @ start).T if start.any() else cross.T, dtype=np.float64
    ).copy()
    matrix = np.ascontiguousarray(among, dtype=np.float64)

    def turn(first: int) -> int:
        part = slice(first, first + _TARGETS_A_TURN)
        return int(_descend(matrix, pulls[part], own[part], weights[part], l1, l2, tolerance, MAX_SWEEPS))

    with ThreadPoolExecutor(n_cores()) as threads:
        unfinished = sum(threads.map(turn, range(0, len(weights), _TARGETS_A_TURN)))
    return weights.T, unfinished


@_compiled
def _descend(among, pulls, own, weights, l1, l2, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    n = len(among)
    unfinished = 0
    for target in range(len(weights)):
        weight, pull = weights[target], pulls[target]
        everywhere, done = True, False
        for _ in range(max_sweeps):
            largest = 0.0
            for j in range(n):
                before = weight[j]
                if j == own[target] or (before == 0.0 and not everywhere) or among[j, j] == 0.0:
                    continue
                wanted = pull[j] + among[j, j] * before
                found = 0.0
                if wanted > l1:
                    found = (wanted - l1) / (among[j, j] + l2)
                elif wanted < -l1:
                    found = (wanted + l1) / (among[j, j] + l2)
                change = found - before
                if change != 0.0:
                    weight[j] = found
                    row = among[j]
                    for k in range(n):
                        pull[k] -= change * row[k]
                    largest = max(largest, abs(change))
            if largest <= tolerance:
                if everywhere:
                    done = True
                    break
                everywhere = True  # the chosen ones stand still: does anything else want to move?
            else:
                everywhere = False
        unfinished += not done
    return unfinished
