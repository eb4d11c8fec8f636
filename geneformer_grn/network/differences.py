"""Which edges change between two groups of cells: differences, with intervals from halves of the cells.

Any method can be compared, since all that is asked of it is scores for some cells. How far a weight would
move with other cells is read off random halves of each group: a half differs from the other half by twice as
much as the whole does from what it estimates. No cell changes its group, so that genes may differ between the
groups in any other way, as those of two cell types do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from geneformer_grn._runtime import progress
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.statistics import benjamini_hochberg

FEWEST_SPLITS = 10
FEWEST_CELLS = 6  # of a group: a half of it must still be scored
Score = Callable[[np.ndarray], ScoredPairs]


def edge_differences(
    score: Score,
    first: np.ndarray,
    second: np.ndarray,
    *,
    score_half: Score | None = None,
    n_splits: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare every pair between two groups of cells.

    Parameters
    ----------
    score
        Given ``(n,)`` int cells, returns scores over pairs that are the same for all cells.
    first, second
        ``(n1,)`` and ``(n2,)`` int cells of the groups.
    score_half
        What scores a half of a group, where numbers of cells in the method's settings have to be halved, too;
        None: `score`.
    n_splits
        How often each group is split into halves.
    seed
        Of the splits.

    Returns
    -------
    DataFrame
        One row per pair that was scored in both groups and all halves: ``source``, ``target``, ``weight_a``,
        ``weight_b`` and ``difference`` (first less second), ``low`` and ``high`` (95 % interval) float32,
        ``support_a``, ``support_b`` int32, ``p_value`` and ``q_value`` (Benjamini-Hochberg over these rows)
        float64; least p first.

    Raises
    ------
    ValueError
        A cell is in both groups, a group has fewer than 6 cells, there are fewer than 10 splits, or no pair
        was scored throughout.

    Notes
    -----
    Delete-half jackknife (Shao & Wu 1989), balanced: with w and w' the weights in a half of a group
    and in the rest, the variance of the group's weight is the mean of (w - w')² / 4 over the splits, and
    the difference over its standard error is held against Student's t with `n_splits` degrees of freedom.
    Cells are taken as independent, which those of one donor are not.

    Examples
    --------
    >>> edge_differences(lambda rows: correlation_edges(matrix[rows], ...), a, b)  # doctest: +SKIP
    """
    from scipy.special import stdtr, stdtrit

    _check(first, second, n_splits)
    one, other = score(first), score(second)
    rng = np.random.default_rng([seed, len(first), len(second)])
    variance = np.zeros(one.weights.shape)
    with progress(total=n_splits, desc="halves", unit="split") as bar:
        for _ in range(n_splits):
            for cells in (first, second):
                dealt = rng.permutation(cells)
                halves = np.sort(dealt[: len(cells) // 2]), np.sort(dealt[len(cells) // 2 :])
                left, right = ((score_half or score)(half).weights for half in halves)
                variance += (left.astype(np.float64) - right) ** 2 / (4 * n_splits)
            bar.update()
    difference = one.weights.astype(np.float64) - other.weights
    row, column = np.nonzero(np.isfinite(variance) & np.isfinite(difference))
    if not len(row):
        raise ValueError("no pair was scored in both groups; give more cells, or genes that both express")
    change, error = difference[row, column], np.sqrt(variance[row, column])
    # a difference without any error is either none or beyond doubt
    t = np.divide(np.abs(change), error, out=np.where(change == 0, 0.0, np.inf), where=error > 0)
    p_values = 2.0 * stdtr(n_splits, -t)
    reach = stdtrit(n_splits, 0.975) * error
    table = pd.DataFrame(
        {
            "source": one.regulators[row],
            "target": one.targets[column],
            "weight_a": one.weights[row, column],
            "weight_b": other.weights[row, column],
            "difference": change.astype(np.float32),
            "low": (change - reach).astype(np.float32),
            "high": (change + reach).astype(np.float32),
            "support_a": one.support[row, column].astype(np.int32),
            "support_b": other.support[row, column].astype(np.int32),
            "p_value": p_values,
            "q_value": benjamini_hochberg(p_values),
        }
    )
    return table.iloc[np.argsort(-t, kind="stable")].reset_index(drop=True)


def _check(first: np.ndarray, second: np.ndarray, n_splits: int) -> None:
    if n_splits < FEWEST_SPLITS:
        raise ValueError(f"differences need {FEWEST_SPLITS} splits or more, got {n_splits}")
    if len(np.intersect1d(first, second)):
        raise ValueError("a cell is in both groups; groups that are compared must not share cells")
    if min(len(first), len(second)) < FEWEST_CELLS:
        raise ValueError(
            f"groups of {len(first)} and {len(second)} cells cannot be compared: {FEWEST_CELLS} are needed"
        )
