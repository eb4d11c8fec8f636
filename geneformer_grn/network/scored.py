"""Scores of every regulator × target pair, whatever method made them, and how two methods agree.

The full score matrix is kept only while it is needed to rank and compare; what leaves is the table of its top
edges. One type for all methods means that selection, agreement and scoring are written once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from geneformer_grn.metrics import spearman, top_overlap
from geneformer_grn.statistics import benjamini_hochberg


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredPairs:
    """One method's score of every regulator × target pair in one set of cells.

    Parameters
    ----------
    regulators, targets
        ``(R,)`` and ``(T,)`` Ensembl IDs (str objects).
    weights
        ``(R, T)`` float32; NaN where the pair was not scored (a gene with itself, too few cells, a constant
        gene). Larger magnitude is stronger.
    support
        ``(R, T)`` int32, number of cells that hold both genes.
    method
        Name of the method, as in the edge table.
    signed
        Whether the sign of a weight means activation or repression.
    p_values
        ``(R, T)`` float64, or None where the method has none.
    """

    regulators: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    support: np.ndarray
    method: str
    signed: bool
    p_values: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = (len(self.regulators), len(self.targets))
        for name in ("weights", "support", "p_values"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} of {self.method} have shape {array.shape}, the pairs {shape}")

    @cached_property
    def scored(self) -> np.ndarray:
        """``(R, T)`` bool, the pairs that have a score."""
        return np.isfinite(self.weights)

    def percentiles(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the share of scored pairs that are not stronger than the pairs asked for.

        Parameters
        ----------
        rows, columns
            ``(n,)`` int positions of regulators and targets.

        Returns
        -------
        ndarray
            ``(n,)`` float32 in [0, 100], tied pairs sharing their mean rank; NaN where a pair was not scored.
        """
        wanted = np.abs(self.weights[rows, columns])
        below = np.searchsorted(self._sorted_strengths, wanted, side="left")
        not_above = np.searchsorted(self._sorted_strengths, wanted, side="right")
        percentile = 50.0 * (below + not_above + 1) / max(len(self._sorted_strengths), 1)
        return np.where(np.isnan(wanted), np.nan, percentile).astype(np.float32)

    @cached_property
    def _sorted_strengths(self) -> np.ndarray:
        return np.sort(np.abs(self.weights[self.scored]))


def to_edges(
    pairs: ScoredPairs, *, top: int | None = None, group: str = "all", other: ScoredPairs | None = None
) -> pd.DataFrame:
    """Return the strongest pairs as an edge table, strongest first.

    Ties in strength are broken by regulator, then target order. q-values are Benjamini-Hochberg over all
    scored pairs, not only those returned.

    Parameters
    ----------
    pairs
        The scores.
    top
        Number of edges to keep; None keeps every scored pair. Pairs whose weight is exactly 0 are no edges.
    group
        Label of the cells.
    other
        Another method's scores over the same pairs; adds the column ``agreement``, float32: the percentile
        (0 to 100) of the pair among all pairs that the other method scored.

    Raises
    ------
    ValueError
        `top` is not positive, or `other` covers other pairs.
    """
    if top is not None and top < 1:
        raise ValueError(f"the number of edges to keep must be at least 1, got {top}")
    if other is not None:
        _require_same_pairs(pairs, other)
    strength = np.where(pairs.scored, np.abs(pairs.weights), -1.0).ravel()
    n_edges = int(np.count_nonzero(strength > 0))  # a weight of exactly 0 says that there is none
    n_kept = n_edges if top is None else min(top, n_edges)
    order = _strongest(strength, n_kept)
    rows, columns = np.divmod(order, len(pairs.targets))
    weight = pairs.weights[rows, columns].astype(np.float32)
    sign = np.sign(weight).astype(np.int8) if pairs.signed else np.zeros(n_kept, dtype=np.int8)
    p_value, q_value = np.full(n_kept, np.nan), np.full(n_kept, np.nan)
    if pairs.p_values is not None and n_kept:
        q_values = np.full(pairs.weights.shape, np.nan)
        q_values[pairs.scored] = benjamini_hochberg(pairs.p_values[pairs.scored])
        p_value, q_value = pairs.p_values[rows, columns], q_values[rows, columns]
    table = pd.DataFrame(
        {
            "source": pairs.regulators[rows].astype(object),
            "target": pairs.targets[columns].astype(object),
            "weight": weight,
            "support": pairs.support[rows, columns].astype(np.int32),
            "sign": sign,
            "group": np.full(n_kept, group, dtype=object),
            "method": np.full(n_kept, pairs.method, dtype=object),
            "p_value": p_value,
            "q_value": q_value,
        }
    )
    if other is not None:
        table["agreement"] = other.percentiles(rows, columns)
    return table


def _strongest(strength: np.ndarray, n_kept: int) -> np.ndarray:
    """Return the positions of the `n_kept` largest values, descending, ties by position.

    The cut is found by partition, so that only the kept ones are sorted.
    """
    if n_kept == 0:
        return np.empty(0, dtype=np.int64)
    cut = np.partition(strength, len(strength) - n_kept)[len(strength) - n_kept]
    candidates = np.flatnonzero(strength >= cut)
    return candidates[np.argsort(-strength[candidates], kind="stable")[:n_kept]]


def agreement(a: ScoredPairs, b: ScoredPairs, *, top: int = 1000) -> dict[str, float]:
    """Say how far two methods agree over the pairs that both scored.

    Parameters
    ----------
    a, b
        Scores over the same regulators and targets; magnitudes are compared.
    top
        Size of the top lists whose overlap is counted (at most the number of shared pairs).

    Returns
    -------
    dict
        ``n_pairs``; ``spearman`` of the magnitudes; ``k``, ``overlap``, ``expected``, ``fold``, ``jaccard``
        of the top lists (see `geneformer_grn.metrics.top_overlap`). Only ``n_pairs`` where no pair is
        shared.

    Raises
    ------
    ValueError
        The two cover other pairs.
    """
    _require_same_pairs(a, b)
    both = a.scored & b.scored
    n_pairs = int(both.sum())
    if n_pairs == 0:
        return {"n_pairs": 0}
    left, right = np.abs(a.weights[both]), np.abs(b.weights[both])
    overlap = top_overlap(left, right, min(top, n_pairs))
    return {"n_pairs": n_pairs, "spearman": spearman(left, right), **overlap}


def _require_same_pairs(a: ScoredPairs, b: ScoredPairs) -> None:
    same = np.array_equal(a.regulators, b.regulators) and np.array_equal(a.targets, b.targets)
    if not same:
        raise ValueError(
            f"{a.method} covers {a.weights.shape[0]} × {a.weights.shape[1]} pairs and {b.method} "
            f"{b.weights.shape[0]} × {b.weights.shape[1]}; methods are compared over the same pairs"
        )
