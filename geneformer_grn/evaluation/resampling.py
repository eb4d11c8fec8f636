"""The scores of a ranking under many resamples of its regulators, without ranking again.

A resample of regulators is a number of copies of each. All that the scores need is how many pairs of every
regulator stand above each true edge: counted once, a resample is a matrix product.
"""

from __future__ import annotations

import numpy as np

_AT_ONCE = 4_000_000  # numbers of one block of resamples


def resampled_scores(
    row: np.ndarray, label: np.ndarray, is_end: np.ndarray, copies: np.ndarray
) -> np.ndarray:
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
    n_regulators = copies.shape[1]
    group = np.cumsum(np.append(0, is_end[:-1]))
    n_true = np.bincount(group, weights=label)
    steps = np.flatnonzero(n_true)  # ties that hold a true edge
    place = np.full(group[-1] + 1, -1)
    place[steps] = np.arange(len(steps))
    # pairs of every regulator in each step, and between a step and the one before
    inside, between = _per_step(row, place[group], np.searchsorted(steps, group), n_regulators, len(steps))
    gained_by = np.zeros((len(steps), n_regulators))
    np.add.at(gained_by, (place[group[label]], row[label]), 1.0)
    taken_by = np.cumsum(inside + between, axis=0)
    sizes = np.bincount(row, minlength=n_regulators).astype(np.float64)
    scores = np.full((len(copies), 4), np.nan)
    block = max(1, _AT_ONCE // max(len(steps), 1))
    for first in range(0, len(copies), block):
        times = copies[first : first + block].T.astype(np.float64)
        scores[first : first + block] = _scores(
            gained_by @ times, taken_by @ times, inside @ times, sizes @ times
        )
    return scores


def _per_step(
    row: np.ndarray, own: np.ndarray, following: np.ndarray, n_regulators: int, n_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(s, r)`` counts of pairs in each step, and of pairs after the step before it."""
    counts = []
    for where, step in ((own >= 0, own), ((own < 0) & (following < n_steps), following)):
        cell = step[where] * n_regulators + row[where]
        found = np.bincount(cell, minlength=n_steps * n_regulators).astype(np.float64)
        counts.append(found.reshape(n_steps, n_regulators))
    return counts[0], counts[1]


def _scores(gained: np.ndarray, taken: np.ndarray, inside: np.ndarray, n_items: np.ndarray) -> np.ndarray:
    """Return ``(b, 4)`` scores from ``(s, b)`` true edges and pairs in each step, and pairs up to its end."""
    found = np.cumsum(gained, axis=0)
    n_true = gained.sum(axis=0)
    n_false = n_items - n_true
    precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
    false_inside = inside - gained
    wins = gained * (n_false - (taken - found) + false_inside / 2)
    # as many as are true: within the step where that many are taken, or before it, where none is found
    step = np.argmax(taken >= n_true, axis=0)
    each = np.arange(len(n_true))
    before = taken[step, each] - inside[step, each]
    share = (n_true - before) / np.maximum(inside[step, each], 1.0)
    early = found[step, each] - gained[step, each] + np.clip(share, 0.0, 1.0) * gained[step, each]
    with np.errstate(divide="ignore", invalid="ignore"):
        density = n_true / n_items
        scores = np.column_stack(
            [
                (gained * precision).sum(axis=0) / n_true,
                early / n_true / density,
                wins.sum(axis=0) / (n_true * n_false),
                density,
            ]
        )
    scores[(n_true == 0) | (n_false == 0)] = np.nan
    return scores
