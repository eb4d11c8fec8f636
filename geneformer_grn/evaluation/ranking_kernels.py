"""The scores of a ranking under many resamples of its regulators, in one walk along the ranking each.

A resample of regulators is a number of copies of each, so the pairs need to be sorted once only, and a
resample is a walk with weights: microseconds per thousand pairs instead of a sort.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def resampled_scores(
    row: np.ndarray, label: np.ndarray, is_end: np.ndarray, copies: np.ndarray
) -> np.ndarray:  # pragma: no cover - compiled
    """Return average precision, EPR, AUROC and density of every resample.

    Parameters
    ----------
    row
        ``(n,)`` int64, regulator of each pair, pairs sorted by descending score.
    label
        ``(n,)`` bool, whether it is a true edge.
    is_end
        ``(n,)`` bool, whether it is the last of those tied with it.
    copies
        ``(b, r)`` int64, copies of each regulator in each resample.

    Returns
    -------
    ``(b, 4)`` float64; NaN where a resample holds no true edge, or nothing else.
    """
    n_pairs, n_resamples = len(row), len(copies)
    scores = np.full((n_resamples, 4), np.nan)
    for resample in range(n_resamples):
        times = copies[resample]
        n_items, n_true = 0, 0
        for pair in range(n_pairs):
            n_items += times[row[pair]]
            if label[pair]:
                n_true += times[row[pair]]
        n_false = n_items - n_true
        if n_true == 0 or n_false == 0:
            continue
        precision, wins, early = 0.0, 0.0, -1.0
        found, taken, found_before, taken_before = 0, 0, 0, 0
        for pair in range(n_pairs):
            taken += times[row[pair]]
            if label[pair]:
                found += times[row[pair]]
            if not is_end[pair] or taken == taken_before:
                continue
            gained = found - found_before
            precision += gained * (found / taken)
            false_here = (taken - taken_before) - gained
            wins += gained * (n_false - (taken - found) + false_here / 2)
            if early < 0 and taken >= n_true:
                share = (n_true - taken_before) / (taken - taken_before)
                early = found_before + share * gained
            found_before, taken_before = found, taken
        density = n_true / n_items
        scores[resample, 0] = precision / n_true
        scores[resample, 1] = early / n_true / density
        scores[resample, 2] = wins / (float(n_true) * n_false)
        scores[resample, 3] = density
    return scores
