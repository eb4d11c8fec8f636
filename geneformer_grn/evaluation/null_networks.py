"""Random networks to score against: as many edges for every regulator and target, drawn anew.

A ranking that only knows which regulators and targets have many edges does as well against these as against
the truth.
"""

from __future__ import annotations

import numpy as np

from geneformer_grn.evaluation.networks import Pairs
from geneformer_grn.metrics import average_precision

_BURN_IN, _BETWEEN = 5, 2  # trades per regulator before the first network, and between two networks


def random_networks(pairs: Pairs, *, n: int = 100, seed: int = 0) -> np.ndarray:
    """Return ``(n, R, T)`` bool: the known edges shuffled, every regulator and target keeping its number.

    Two regulators at a time put the targets that only one of them has into one pool and take as many back
    as they gave. No gene comes to regulate itself.

    Parameters
    ----------
    pairs
        See `judged_pairs`.
    n, seed
        Number of networks, and of their draw.

    Notes
    -----
    Strona et al. (2014), A fast and unbiased procedure to randomize ecological binary matrices with fixed row
    and column totals, Nature Communications 5 (curveball).
    """
    rng = np.random.default_rng([seed, 2])
    rows = [np.flatnonzero(row) for row in pairs.known & pairs.judged]
    busy = [number for number, row in enumerate(rows) if len(row)]
    networks = np.zeros((n, *pairs.known.shape), dtype=bool)
    for network in range(n):
        n_trades = (_BETWEEN if network else _BURN_IN) * len(busy)
        for _ in range(n_trades if len(busy) > 1 else 0):
            first, second = rng.choice(len(busy), 2, replace=False)
            _trade(rows, (busy[first], busy[second]), pairs.judged, rng)
        for number, row in enumerate(rows):
            networks[network, number, row] = True
    return networks


def _trade(
    rows: list[np.ndarray], traders: tuple[int, int], judged: np.ndarray, rng: np.random.Generator
) -> None:
    """Shuffle between two regulators the targets that only one of them has, and both may have."""
    first, second = traders
    only_first = np.setdiff1d(rows[first], rows[second], assume_unique=True)
    only_second = np.setdiff1d(rows[second], rows[first], assume_unique=True)
    only_first, only_second = only_first[judged[second, only_first]], only_second[judged[first, only_second]]
    pool = rng.permutation(np.concatenate([only_first, only_second]))
    kept = [np.setdiff1d(rows[each], own) for each, own in ((first, only_first), (second, only_second))]
    rows[first] = np.concatenate([kept[0], pool[: len(only_first)]])
    rows[second] = np.concatenate([kept[1], pool[len(only_first) :]])


def against_random_networks(strength: np.ndarray, pairs: Pairs, networks: np.ndarray) -> dict[str, float]:
    """Score a ranking against random networks of the same degrees.

    Parameters
    ----------
    strength
        ``(R, T)`` score.
    pairs
        See `judged_pairs`.
    networks
        ``(n, R, T)``, see `random_networks`.

    Returns
    -------
    dict
        ``auprc_ratio_mean`` and ``auprc_ratio_high`` (97.5 %) over the networks, ``p_value`` of the truth's
        score among them, ``n``.
    """
    scores = strength[pairs.judged]
    own = average_precision(pairs.known[pairs.judged], scores)
    areas = np.array([average_precision(network[pairs.judged], scores) for network in networks])
    return {
        "auprc_ratio_mean": float(areas.mean() / pairs.density),
        "auprc_ratio_high": float(np.quantile(areas, 0.975) / pairs.density),
        "p_value": float((1 + np.count_nonzero(areas >= own)) / (1 + len(networks))),
        "n": len(networks),
    }
