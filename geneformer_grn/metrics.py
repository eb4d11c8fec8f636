"""Numbers that compare two rankings: arrays in, numbers out, nothing known of genes or models."""

from __future__ import annotations

import numpy as np


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of two arrays, ties sharing their mean rank.

    Parameters
    ----------
    a, b
        ``(n,)`` numbers, paired.

    Returns
    -------
    float
        In [-1, 1]; NaN where one of the two is constant or fewer than two pairs are given.
    """
    from scipy.stats import rankdata

    if len(a) != len(b):
        raise ValueError(f"a rank correlation pairs two arrays; these hold {len(a):,} and {len(b):,} values")
    if len(a) < 2:
        return float("nan")
    ranks_a = rankdata(a) - (len(a) + 1) / 2
    ranks_b = rankdata(b) - (len(b) + 1) / 2
    scale = np.sqrt((ranks_a @ ranks_a) * (ranks_b @ ranks_b))
    return float(ranks_a @ ranks_b / scale) if scale > 0 else float("nan")


def top_overlap(a: np.ndarray, b: np.ndarray, k: int) -> dict[str, float]:
    """Compare the `k` largest entries of two score arrays over the same items.

    Parameters
    ----------
    a, b
        ``(n,)`` scores, larger is better. Ties are broken by position, so that results repeat.
    k
        Size of both top lists; at most n.

    Returns
    -------
    dict
        ``k``; ``overlap``, the share of items in both lists; ``expected``, that share by chance (k / n);
        ``fold``, their ratio; ``jaccard``, items in both over items in either.

    Raises
    ------
    ValueError
        The arrays differ in length, or `k` is not between 1 and n.
    """
    if len(a) != len(b):
        raise ValueError(f"an overlap compares scores of the same items; got {len(a):,} and {len(b):,}")
    if not 1 <= k <= len(a):
        raise ValueError(f"cannot take the top {k:,} of {len(a):,} items")
    top_a = np.argsort(-a, kind="stable")[:k]
    top_b = np.argsort(-b, kind="stable")[:k]
    shared = len(np.intersect1d(top_a, top_b, assume_unique=True))
    expected = k / len(a)
    return {
        "k": k,
        "overlap": shared / k,
        "expected": expected,
        "fold": shared / k / expected,
        "jaccard": shared / (2 * k - shared),
    }


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the receiver operating characteristic.

    The probability that a true item scores above a false one, ties counting half (Hanley and McNeil 1982).

    Parameters
    ----------
    labels
        ``(n,)`` bool.
    scores
        ``(n,)`` numbers without NaN, larger is more likely true.

    Returns
    -------
    float
        In [0, 1]; NaN where all labels are alike.
    """
    from scipy.stats import rankdata

    labels = _checked(labels, scores)
    n_true = int(labels.sum())
    n_false = len(labels) - n_true
    if n_true == 0 or n_false == 0:
        return float("nan")
    above = rankdata(scores)[labels].sum() - n_true * (n_true + 1) / 2
    return float(above / (n_true * n_false))


def shares_beaten(scores: np.ndarray, others: np.ndarray, *, where: np.ndarray | None = None) -> np.ndarray:
    """Return the share of `others` that each item scores above, ties counting half.

    The mean is the area under the receiver operating characteristic, of items among others (`auroc`): its
    contributions, item by item, are what a bootstrap over items draws from.

    Parameters
    ----------
    scores
        ``(m,)`` numbers without NaN.
    others
        ``(k,)`` scores that all items are compared with, or ``(m, k)`` those of each item's own rivals.
    where
        ``(m, k)`` bool: which of an item's own rivals count; None: all.

    Returns
    -------
    ``(m,)`` float64 in [0, 1]; NaN where there is nothing to beat.
    """
    scores, others = np.asarray(scores), np.asarray(others)
    if np.isnan(scores).any() or np.isnan(others).any():
        raise ValueError("scores that are NaN beat nothing; leave their items out")
    if others.shape[-1] == 0:
        return np.full(len(scores), np.nan)
    if others.ndim == 2:
        counted = np.ones(others.shape, dtype=bool) if where is None else where
        won = ((scores[:, None] > others) + 0.5 * (scores[:, None] == others)) * counted
        n_counted = counted.sum(axis=1)
        nothing = np.full(len(scores), np.nan)
        return np.divide(won.sum(axis=1), n_counted, out=nothing, where=n_counted > 0)
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, side="left") + np.searchsorted(ordered, scores, side="right")
    return np.asarray(below / (2 * len(others)))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the precision-recall curve, as average precision.

    The sum over thresholds of precision times the recall gained there, without interpolation; tied items pass
    a threshold together (as in scikit-learn). Parameters as in `auroc`.

    Returns
    -------
    float
        In [0, 1]; NaN without a true label. Its value by chance is the share of true labels.
    """
    labels = _checked(labels, scores)
    if not labels.any():
        return float("nan")
    n_found, n_taken = _at_thresholds(labels, scores)
    gained = np.diff(n_found, prepend=0)
    return float(gained @ (n_found / n_taken) / n_found[-1])


def precision_at(labels: np.ndarray, scores: np.ndarray, k: int) -> float:
    """Return the share of true items among the `k` highest scores.

    Items tied at the cut count by their expected number: that of a random order among them. Parameters as in
    `auroc`.

    Raises
    ------
    ValueError
        `k` is not between 1 and n.
    """
    labels = _checked(labels, scores)
    if not 1 <= k <= len(labels):
        raise ValueError(f"cannot take the top {k:,} of {len(labels):,} items")
    n_found, n_taken = _at_thresholds(labels, scores)
    # between two thresholds the expected number found grows in proportion
    return float(np.interp(k, np.append(0, n_taken), np.append(0, n_found)) / k)


def early_precision_ratio(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return EPR: precision among as many items as are true, over the share of true items.

    1 is chance. Parameters as in `auroc`; see `precision_at` for ties.

    Returns
    -------
    float
        NaN without a true label.

    Notes
    -----
    Pratapa et al. (2020), Benchmarking algorithms for gene regulatory network inference, Nature Methods 17.
    """
    labels = _checked(labels, scores)
    n_true = int(labels.sum())
    return precision_at(labels, scores, n_true) / (n_true / len(labels)) if n_true else float("nan")


def _checked(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    if len(labels) != len(scores):
        raise ValueError(f"a ranking needs a score per label; got {len(labels):,} and {len(scores):,}")
    if np.isnan(scores).any():
        raise ValueError("a ranking cannot place scores that are NaN; give missing ones the lowest score")
    return np.asarray(labels, dtype=bool)


def _at_thresholds(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many true items, and how many items, score at least each distinct score, descending."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    ranked = np.asarray(scores)[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return np.cumsum(labels[order])[ends], ends + 1
