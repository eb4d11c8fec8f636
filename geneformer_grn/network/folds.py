"""Regulators dealt into folds: what is learned of edges is judged on regulators it was not learned from.

A regulator's targets rise and fall together, and some genes are targets of many. Pairs dealt at random would
let a method recognise the regulator; whole regulators do not.
"""

from __future__ import annotations

import numpy as np

FOLDS = 5


def regulator_folds(n_known: np.ndarray, rng: np.random.Generator, *, n_folds: int = FOLDS) -> np.ndarray:
    """Deal regulators into folds that are as even in known edges as possible.

    Parameters
    ----------
    n_known
        ``(R,)`` known edges of every regulator.
    rng
        Breaks ties.
    n_folds
        Number of folds.

    Returns
    -------
    ``(R,)`` int64 in [0, n_folds).

    Raises
    ------
    ValueError
        Fewer than `n_folds` regulators have a known edge.

    Examples
    --------
    >>> regulator_folds(np.array([9, 1, 4, 4]), np.random.default_rng(0), n_folds=2)[:2].tolist()
    [0, 0]
    """
    n_with = int(np.count_nonzero(n_known))
    if n_with < n_folds:
        raise ValueError(f"{n_folds} folds need as many regulators with known edges; {n_with} have any")
    order = rng.permutation(len(n_known))
    order = order[np.argsort(-np.asarray(n_known)[order], kind="stable")]
    folds = np.empty(len(n_known), dtype=np.int64)
    # there and back again: each round of regulators is dealt in the opposite order of the last
    dealt = np.arange(len(n_known)) % (2 * n_folds)
    folds[order] = np.where(dealt < n_folds, dealt, 2 * n_folds - 1 - dealt)
    return folds
