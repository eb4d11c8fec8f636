"""A truth laid out over scored pairs, its regulators dealt into folds: what may be learned, and judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from geneformer_grn.network.folds import FOLDS, regulator_folds
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.truth import Truth, canonical_genes


@dataclass(frozen=True, eq=False, kw_only=True)
class KnownPairs:
    """A truth laid out over regulators × targets.

    Parameters
    ----------
    known, judged
        ``(R, T)`` bool: true edges; pairs of a regulator and a target that the truth knows.
    fold
        ``(R,)`` int64, fold of a regulator; -1 where the truth does not know it.
    """

    known: np.ndarray
    judged: np.ndarray
    fold: np.ndarray

    def rows_in(self, folds: set[int]) -> np.ndarray:
        """Return ``(R,)`` bool, regulators in these folds."""
        return np.isin(self.fold, list(folds))


def known_pairs(pairs: ScoredPairs, truth: Truth, *, seed: int = 0) -> KnownPairs:
    """Lay a truth out over scored pairs, its regulators dealt into folds.

    Raises
    ------
    ValueError
        Fewer than 5 of the regulators have a known edge to one of the targets.
    """
    regulators, targets = canonical_genes(pairs.regulators), canonical_genes(pairs.targets)
    row = pd.Index(truth.edges["source"]).unique().get_indexer(regulators) >= 0
    column = pd.Index(truth.edges["target"]).unique().get_indexer(targets) >= 0
    listed = pd.MultiIndex.from_frame(truth.edges[["source", "target"]])
    asked = pd.MultiIndex.from_product([regulators, targets])
    own = regulators[:, None] == targets[None, :]
    known = asked.isin(listed).reshape(own.shape) & ~own
    n_known = known.sum(axis=1)
    if np.count_nonzero(n_known) < FOLDS:
        raise ValueError(
            f"{np.count_nonzero(n_known)} of {len(regulators):,} regulators have edges of {truth.name} to "
            f"these {len(targets):,} targets; supervised combinations need {FOLDS}. Without known edges, use "
            "rank_aggregate"
        )
    fold = np.full(len(regulators), -1, dtype=np.int64)
    fold[row] = regulator_folds(n_known[row], np.random.default_rng([seed, 3]))
    return KnownPairs(known=known, judged=row[:, None] & column & ~own, fold=fold)
