"""Which edges change between two groups of cells: differences of weights, held against relabelled cells.

Any method can be compared, since all that is asked of it is scores for some cells. The price is a run of the
method per permutation; so that few of these suffice, pairs share their null distribution: each pair's
differences are put in units of their own spread over the permutations, and pooled among pairs that equally
many cells support.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from geneformer_grn._runtime import progress
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.statistics import benjamini_hochberg

FEWEST_PERMUTATIONS = 10
_MOST_VALUES = 1_000_000_000  # differences held at a time, 4 bytes each
_STRATA = 10


def standardised(expression: np.ndarray, is_first: np.ndarray) -> np.ndarray:
    """Return expression centred and scaled per gene within each of two groups.

    Cells of the two can then be exchanged without their means and variances: what is left to differ is how
    genes vary together. A gene that does not vary in a group is 0 there.

    Parameters
    ----------
    expression
        ``(n, g)`` float, dense.
    is_first
        ``(n,)`` bool, cells of the first group.

    Returns
    -------
    ndarray
        ``(n, g)`` float32.
    """
    found = np.empty(expression.shape, dtype=np.float32)
    for members in (is_first, ~is_first):
        inside = expression[members].astype(np.float64)
        sd = inside.std(axis=0)
        found[members] = (inside - inside.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    return found


def edge_differences(
    score: Callable[[np.ndarray], ScoredPairs],
    first: np.ndarray,
    second: np.ndarray,
    *,
    n_permutations: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare every pair between two groups of cells.

    Parameters
    ----------
    score
        Given ``(n,)`` int cells, returns scores over pairs that are the same for all cells.
    first, second
        ``(n1,)`` and ``(n2,)`` int cells of the groups.
    n_permutations
        How often the cells are dealt anew into groups of these sizes.
    seed
        Of the permutations.

    Returns
    -------
    DataFrame
        One row per pair that was scored in both groups and all permutations: ``source``, ``target``,
        ``weight_a``, ``weight_b`` and ``difference`` (first less second) float32, ``chance_sd`` float32 (its
        spread when cells are dealt at random), ``support_a``, ``support_b`` int32, ``p_value``
        (two-sided) and ``q_value`` (Benjamini-Hochberg over these rows) float64; least p first.

    Raises
    ------
    ValueError
        A cell is in both groups, there are fewer than 10 permutations, they would not fit into memory, or no
        pair was scored throughout.

    Notes
    -----
    With z = difference / spread, p = (1 + pairs and permutations with |z| at least as large) / (1 + all of
    them), among the pairs of the same tenth by support. The observed difference is one of those the spread is
    taken over, so that it and the permuted ones are exchangeable where labels mean nothing. Sharing a null
    takes for granted that its shape, not its spread, is alike for pairs of equal support (as in Tusher,
    Tibshirani & Chu 2001). Cells are exchanged as if independent, which those of one donor are not.

    Examples
    --------
    >>> edge_differences(lambda rows: correlation_edges(matrix[rows], ...), a, b)  # doctest: +SKIP
    """
    if n_permutations < FEWEST_PERMUTATIONS:
        raise ValueError(f"differences need {FEWEST_PERMUTATIONS} permutations or more, got {n_permutations}")
    if len(np.intersect1d(first, second)):
        raise ValueError("a cell is in both groups; groups that are compared must not share cells")
    one, other = score(first), score(second)
    n_values = one.weights.size * (n_permutations + 1)
    if n_values > _MOST_VALUES:
        raise ValueError(
            f"{one.weights.size:,} pairs × {n_permutations + 1} permutations are too many to hold; use fewer "
            "targets (--max-targets) or permutations"
        )
    cells, rng = np.concatenate([first, second]), np.random.default_rng([seed, len(first), len(second)])
    differences = np.empty((n_permutations + 1, one.weights.size), dtype=np.float32)
    differences[0] = (one.weights - other.weights).ravel()
    for number in progress(range(1, n_permutations + 1), desc="permutations", unit="permutation"):
        dealt = rng.permutation(cells)
        left, right = np.sort(dealt[: len(first)]), np.sort(dealt[len(first) :])
        differences[number] = (score(left).weights - score(right).weights).ravel()
    tested = np.flatnonzero(np.isfinite(differences).all(axis=0))
    if not len(tested):
        raise ValueError("no pair was scored in both groups; give more cells, or genes that both express")
    support = np.minimum(one.support, other.support).ravel()[tested]
    p_values, spread = pooled_p_values(differences[:, tested], support)
    row, column = np.divmod(tested, len(one.targets))
    table = pd.DataFrame(
        {
            "source": one.regulators[row],
            "target": one.targets[column],
            "weight_a": one.weights[row, column],
            "weight_b": other.weights[row, column],
            "difference": differences[0, tested],
            "chance_sd": spread.astype(np.float32),
            "support_a": one.support[row, column].astype(np.int32),
            "support_b": other.support[row, column].astype(np.int32),
            "p_value": p_values,
            "q_value": benjamini_hochberg(p_values),
        }
    )
    size = np.divide(np.abs(table["difference"]), spread, out=np.zeros(len(table)), where=spread > 0)
    return table.iloc[np.lexsort((-size, p_values))].reset_index(drop=True)


def pooled_p_values(differences: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return p-values from a null that pairs of equal support share, and each pair's spread.

    Parameters
    ----------
    differences
        ``(1 + B, n)`` float32; the observed ones first.
    support
        ``(n,)`` int cells behind each pair.

    Returns
    -------
    tuple of ndarray
        ``(n,)`` float64 each. A pair that never differs has p 1.
    """
    spread = differences.std(axis=0, dtype=np.float64)
    p_values = np.ones(differences.shape[1])
    stratum = np.searchsorted(np.quantile(support, np.arange(1, _STRATA) / _STRATA), support, side="left")
    for number in np.unique(stratum[spread > 0]):
        members = np.flatnonzero((stratum == number) & (spread > 0))
        z = np.abs(differences[:, members] - differences[:, members].mean(axis=0)) / spread[members]
        null = np.sort(z[1:].ravel())
        at_least = len(null) - np.searchsorted(null, z[0], side="left")
        p_values[members] = (1 + at_least) / (1 + len(null))
    return p_values, spread
