"""Random networks to score against: as many edges for every regulator and target, drawn anew.

A ranking that only knows which regulators and targets have many edges does as well against these as against
the truth.
"""

from __future__ import annotations

import numpy as np

from geneformer_grn.evaluation.networks import Pairs
from geneformer_grn.metrics import average_precision

TRADES = 5  # per regulator and network: the edges have lost their memory by then


def random_network(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """Return ``(R, T)`` bool: the known edges shuffled, every regulator and target keeping its number.

    Two regulators at a time put the targets that only one of them has into one pool and take as many back
    as they gave. No gene comes to regulate itself.

    Notes
    -----
    Strona et al. (2014), A fast and unbiased procedure to randomize ecological binary matrices with fixed row
    and column totals, Nature Communications 5 (curveball).
    """
    known = pairs.known & pairs.judged
    rows = [np.flatnonzero(row) for row in known]
    busy = [number for number, row in enumerate(rows) if len(row)]
    if len(busy) > 1:
        for _ in range(TRADES * len(busy)):
            first, second = rng.choice(len(busy), 2, replace=False)
            _trade(rows, (busy[first], busy[second]), pairs.judged, rng)
    shuffled = np.zeros_like(known)
    for number, row in enumerate(rows):
        shuffled[number, row] = True
    return shuffled


def _trade(
    rows: list[np.ndarray], traders: tuple[int, int], judged: np.ndarray, rng: np.random.Generator
) -> None:
    """Shuffle between two regulators the targets that only one of them has, and both may have."""
    first, second = traders
    only_first = np.setdiff1d(rows[first], rows[second], assume_unique=True)
    only_second = np.setdiff1d(rows[second], rows[first], assume_unique=True)
    only_first, only_second = only_first[judged[second, only_first]], only_second[judged[first, only_second]]
    pool = rng.permutation(np.concatenate([only_first, only_second]))
    rows[first] = np.concatenate([np.setdiff1d(rows[first], only_first), pool[: len(only_first)]])
    rows[second] = np.concatenate([np.setdiff1d(rows[second], only_second), pool[len(only_first) :]])


def against_random_networks(
    strength: np.ndarray, pairs: Pairs, *, n: int = 100, seed: int = 0
) -> dict[str, float]:
    """Score a ranking against random networks of the same degrees.

    Parameters
    ----------
    strength
        ``(R, T)`` score.
    pairs
        See `judged_pairs`.
    n, seed
        Number of networks, and of their draw.

    Returns
    -------
    dict
        ``auprc_ratio_mean`` and ``auprc_ratio_high`` (97.5 %) over the networks, ``p_value`` of the truth's
        score among them, ``n``.
    """
    rng = np.random.default_rng([seed, 2])
    scores = strength[pairs.judged]
    own = average_precision(pairs.known[pairs.judged], scores)
    areas = np.array([average_precision(random_network(pairs, rng)[pairs.judged], scores) for _ in range(n)])
    return {
        "auprc_ratio_mean": float(areas.mean() / pairs.density),
        "auprc_ratio_high": float(np.quantile(areas, 0.975) / pairs.density),
        "p_value": float((1 + np.count_nonzero(areas >= own)) / (1 + n)),
        "n": n,
    }
