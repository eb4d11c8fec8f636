"""One network out of several: supervised where some edges are known, by mean rank where none are.

The supervised combination learns from known edges how far each source is to be believed. Every regulator of
the truth is scored by a fit that has seen none of that regulator's pairs, so that the scores can be held
against the same truth; regulators that the truth does not know get the mean of these fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from geneformer_grn.metrics import average_precision
from geneformer_grn.network.edge_models import MODELS, LogOdds, calibration, probability, thinned
from geneformer_grn.network.folds import FOLDS, regulator_folds
from geneformer_grn.network.pair_features import (
    PLANES,
    GeneTraits,
    global_ranks,
    pair_features,
    require_same_pairs,
)
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.truth import Truth, canonical_genes

_PRIOR = 5.0  # regulators that a target's share of known ones is drawn towards the mean by
BOTH, MEAN_RANK = "both", "mean_rank"


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Combination:
    """A supervised combination.

    Parameters
    ----------
    scores
        Probabilities, out of fold for the regulators of the truth.
    fold
        ``(R,)`` int64, fold of every regulator; -1 where the truth does not know it.
    chosen
        For every fold what was chosen on the others: of `MODELS`, ``both`` (their mean log-odds), or, where
        fits are no better, ``mean_rank`` or one source.
    """

    scores: ScoredPairs
    fold: np.ndarray
    chosen: tuple[str, ...]


def combine_supervised(
    sources: Mapping[str, ScoredPairs], truth: Truth, *, traits: GeneTraits | None = None, seed: int = 0
) -> ScoredPairs:
    """Score pairs by what all sources say together, learned from known edges.

    Parameters
    ----------
    sources
        Method -> scores, all over the same regulators and targets.
    truth
        Known edges; pairs of its regulators and targets that it does not list count as none.
    traits
        What expression says of the genes (`geneformer_grn.network.pair_features.gene_traits`); None: nothing.
    seed
        Of folds and classifiers.

    Returns
    -------
    ScoredPairs
        Unsigned weights: calibrated probabilities that the truth lists the pair; NaN for a gene with itself.
        No fit has seen pairs of the regulator it scores.

    Raises
    ------
    ValueError
        The sources cover different pairs, or fewer than 5 regulators have known edges among the pairs.

    Examples
    --------
    >>> combine_supervised({"ridge": ridge, "correlation": r}, truth, traits=traits)  # doctest: +SKIP
    """
    return fit_combination(sources, truth, traits=traits, seed=seed).scores


def fit_combination(
    sources: Mapping[str, ScoredPairs], truth: Truth, *, traits: GeneTraits | None = None, seed: int = 0
) -> Combination:
    """Do what `combine_supervised` does, and tell folds and classifiers. Parameters as there."""
    from threadpoolctl import threadpool_limits

    first = require_same_pairs(sources)
    pairs = known_pairs(first, truth, seed=seed)
    fitting = _Fitting(sources, traits, pairs, seed)
    with threadpool_limits(1):  # fits are small, and threads of small fits wait for each other
        parts = [fitting.outer(fold) for fold in range(FOLDS)]
    found = np.mean([part for part, _ in parts], axis=0)
    for fold, (part, _) in enumerate(parts):
        found[pairs.fold == fold] = part[pairs.fold == fold]
    found[np.equal.outer(first.regulators, first.targets)] = np.nan
    scores = ScoredPairs(
        regulators=first.regulators, targets=first.targets, weights=found.astype(np.float32),
        support=first.support, method="combined", signed=False,
    )  # fmt: skip
    return Combination(scores=scores, fold=pairs.fold, chosen=tuple(name for _, name in parts))


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


class _Fitting:
    """Fits on some folds, shared between the choice of a classifier and the scores."""

    def __init__(
        self, sources: Mapping[str, ScoredPairs], traits: GeneTraits | None, pairs: KnownPairs, seed: int
    ) -> None:
        self.sources, self.features = tuple(sources), pair_features(sources, traits)
        self.pairs, self.seed = pairs, seed
        self._fits: dict[frozenset[int], tuple[dict[str, LogOdds], float]] = {}
        shape = (FOLDS, pairs.known.shape[1])
        self._n_known, self._n_judged = np.zeros(shape), np.zeros(shape)
        for fold in range(FOLDS):
            rows = pairs.fold == fold
            self._n_known[fold] = (pairs.known & pairs.judged)[rows].sum(axis=0)
            self._n_judged[fold] = pairs.judged[rows].sum(axis=0)

    def outer(self, fold: int) -> tuple[np.ndarray, str]:
        """Return ``(R, T)`` probabilities by fits without a fold, and the classifier chosen without it."""
        inner: dict[str, list[np.ndarray]] = {}
        labels = []
        for other in set(range(FOLDS)) - {fold}:
            row, column = np.nonzero(self.pairs.judged & (self.pairs.fold == other)[:, None])
            labels.append(self.pairs.known[row, column])
            for name, odds in self.log_odds(frozenset({fold, other}), row, column).items():
                inner.setdefault(name, []).append(odds)
        truths = np.concatenate(labels)
        unseen = {name: np.concatenate(parts) for name, parts in inner.items()}
        chosen = max(unseen, key=lambda name: average_precision(truths, unseen[name]))
        slope, intercept = calibration(unseen[chosen], truths)
        row, column = (grid.ravel() for grid in np.indices(self.pairs.known.shape))
        odds = self.log_odds(frozenset({fold}), row, column)[chosen]
        return probability(slope * odds + intercept).reshape(self.pairs.known.shape), chosen

    def log_odds(
        self, left_out: frozenset[int], row: np.ndarray, column: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return candidate -> ``(n,)`` log-odds, or ranks, of pairs by fits without some folds."""
        if left_out not in self._fits:
            self._fits[left_out] = self._fit(left_out)
        fits, offset = self._fits[left_out]
        matrix = self._matrix(left_out, row, column)
        found = {name: fit(matrix) + offset for name, fit in fits.items()}
        found[BOTH] = np.mean(list(found.values()), axis=0)
        # with few known edges a fit may be worse than one source, or all of them, by rank alone
        alone = self.features.planes[::PLANES, row, column].astype(np.float64)
        return found | {MEAN_RANK: alone.mean(axis=0)} | dict(zip(self.sources, alone, strict=True))

    def _fit(self, left_out: frozenset[int]) -> tuple[dict[str, LogOdds], float]:
        inside = self.pairs.rows_in(set(range(FOLDS)) - left_out)
        row, column = np.nonzero(self.pairs.judged & inside[:, None])
        labels = self.pairs.known[row, column]
        kept, offset = thinned(labels, np.random.default_rng([self.seed, 4, *sorted(left_out)]))
        matrix = self._matrix(left_out, row[kept], column[kept])
        return {name: model(matrix, labels[kept], self.seed) for name, model in MODELS.items()}, offset

    def _matrix(self, left_out: frozenset[int], row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Return features; a target's known regulators count in the folds fitted on but the pair's own."""
        allowed = np.array([fold not in left_out for fold in range(FOLDS)])
        n_known, n_judged = self._n_known[allowed].sum(axis=0), self._n_judged[allowed].sum(axis=0)
        usual = n_known.sum() / max(n_judged.sum(), 1.0)
        shares = np.empty((FOLDS + 1, len(n_known)), dtype=np.float32)
        for own in range(-1, FOLDS):
            mine = 1.0 if own >= 0 and allowed[own] else 0.0
            share = (n_known - mine * self._n_known[own] + _PRIOR * usual) / (
                n_judged - mine * self._n_judged[own] + _PRIOR
            )
            shares[own] = np.log(share + 1e-6)  # own is -1 for regulators that the truth does not know
        return self.features.matrix(row, column, shares[self.pairs.fold[row], column][:, None])


def best_source(sources: Mapping[str, ScoredPairs], truth: Truth, *, seed: int = 0) -> Combination:
    """Score every regulator by the one source that is best for the others: what a combination has to beat.

    The source with the highest average precision on the regulators of the other folds scores those of a fold,
    as ranks among all pairs. Folds, parameters and errors are those of `fit_combination`.

    Returns
    -------
    Combination
        ``chosen`` names the source of every fold; regulators that the truth does not know get that chosen on
        all others.
    """
    first = require_same_pairs(sources)
    pairs = known_pairs(first, truth, seed=seed)
    ranks = {name: global_ranks(source) for name, source in sources.items()}

    def best(rows: np.ndarray) -> str:
        where = pairs.judged & rows[:, None]
        areas = {name: average_precision(pairs.known[where], rank[where]) for name, rank in ranks.items()}
        return max(areas, key=lambda name: areas[name])

    weights = ranks[best(pairs.fold >= 0)].copy()
    chosen = []
    for fold in range(FOLDS):
        chosen.append(best((pairs.fold >= 0) & (pairs.fold != fold)))
        weights[pairs.fold == fold] = ranks[chosen[-1]][pairs.fold == fold]
    weights[np.equal.outer(first.regulators, first.targets)] = np.nan
    scores = ScoredPairs(
        regulators=first.regulators, targets=first.targets, weights=weights, support=first.support,
        method="best_single", signed=False,
    )  # fmt: skip
    return Combination(scores=scores, fold=pairs.fold, chosen=tuple(chosen))


def aggregate_ranks(sources: Mapping[str, ScoredPairs]) -> ScoredPairs:
    """Score pairs by their mean rank over all sources: needs no known edges.

    Parameters
    ----------
    sources
        Method -> scores, all over the same regulators and targets.

    Returns
    -------
    ScoredPairs
        Unsigned weights from 0 (last by every source) to 1 (first by every source); pairs that a source did
        not score are last there, and NaN where no source scored them.

    Raises
    ------
    ValueError
        There is no source, or they cover different pairs.

    Notes
    -----
    Average rank, as the community networks of Marbach et al. (2012), Wisdom of crowds for robust gene network
    inference, Nature Methods 9.

    Examples
    --------
    >>> aggregate_ranks({"ridge": ridge, "correlation": r}).method  # doctest: +SKIP
    'rank_aggregate'
    """
    first = require_same_pairs(sources)
    weights = np.mean([global_ranks(pairs) for pairs in sources.values()], axis=0, dtype=np.float64)
    scored = np.any([pairs.scored for pairs in sources.values()], axis=0)
    return ScoredPairs(
        regulators=first.regulators, targets=first.targets,
        weights=np.where(scored, weights, np.nan).astype(np.float32),
        support=first.support, method="rank_aggregate", signed=False,
    )  # fmt: skip
