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
