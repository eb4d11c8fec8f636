"""One network out of several: supervised where some edges are known, by mean rank where none are.

The supervised combination learns from known edges how far each source is to be believed. Every regulator of
the truth is scored by a fit that has seen none of that regulator's pairs, so that the scores can be held
against the same truth; regulators that the truth does not know get the mean of these fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from geneformer_grn.metrics import average_precision
from geneformer_grn.network.edge_models import MODELS, LogOdds, calibration, probability, thinned
from geneformer_grn.network.folds import FOLDS
from geneformer_grn.network.known_pairs import KnownPairs, known_pairs
from geneformer_grn.network.pair_features import (
    PLANES,
    GeneTraits,
    global_ranks,
    pair_features,
    require_same_pairs,
)
from geneformer_grn.network.scored import ScoredPairs
from geneformer_grn.network.truth import Truth

_PRIOR = 5.0  # regulators that a target's share of known ones is drawn towards the mean by
_SMALL = 1e-6
BOTH, MEAN_RANK, POPULARITY = "both", "mean_rank", "popularity"


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
        fits are no better, ``mean_rank``, one source, or ``popularity`` (how many of the other regulators
        have the target).
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
        chosen = _choice(inner, labels, rankings=(MEAN_RANK, POPULARITY, *self.sources))
        slope, intercept = 1.0, 0.0
        if chosen != POPULARITY:  # a share among other regulators is a probability, and alike in all folds
            slope, intercept = calibration(np.concatenate(inner[chosen]), np.concatenate(labels))
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
        # with few known edges a fit may be worse than one source, or all of them, by rank alone; and where a
        # truth lists what was studied, worse than how often it lists the target
        alone = self.features.planes[::PLANES, row, column].astype(np.float64)
        share = np.clip(np.exp(matrix[:, -1].astype(np.float64)), _SMALL, 1 - _SMALL)
        found |= {MEAN_RANK: alone.mean(axis=0), POPULARITY: np.log(share) - np.log1p(-share)}
        return found | dict(zip(self.sources, alone, strict=True))

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
            shares[own] = np.log(share + _SMALL)  # own is -1 for regulators that the truth does not know
        return self.features.matrix(row, column, shares[self.pairs.fold[row], column][:, None])


def _choice(
    scores: Mapping[str, list[np.ndarray]], labels: list[np.ndarray], *, rankings: Sequence[str]
) -> str:
    """Return the candidate with the highest average precision over all folds.

    A fit is taken only where it beats the best of the `rankings`, which have nothing to fit, in most of the
    folds, too: of many fits one is ahead by luck.
    """
    truths = np.concatenate(labels)
    areas = {name: average_precision(truths, np.concatenate(parts)) for name, parts in scores.items()}
    best = max(areas, key=lambda name: areas[name])
    plain = max(rankings, key=lambda name: areas[name])
    ahead = [
        average_precision(label, ours) > average_precision(label, other)
        for label, ours, other in zip(labels, scores[best], scores[plain], strict=True)
    ]
    return best if 2 * sum(ahead) > len(ahead) else plain


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
