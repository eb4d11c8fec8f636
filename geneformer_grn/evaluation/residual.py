"""The honest residual: what a score of edges adds to what is known of the two genes and their correlation.

Many rankings of edges score well because they know which genes are expressed, variable or popular, or because
they are correlation by another name. Here the score has to improve a prediction that has all of that already,
for regulators that the prediction was not fitted on.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from geneformer_grn.evaluation.networks import (
    FEWEST_REGULATORS,
    RESAMPLES,
    Pairs,
    regulator_copies,
    resampled,
)
from geneformer_grn.metrics import average_precision

FOLDS = 5
_COLUMNS = ("|r|", "target mean", "target variance", "target detection")
_SMALL = 1e-9  # probabilities are kept so far from 0 and 1: one confident mistake has no infinite loss


@dataclass(frozen=True, eq=False, kw_only=True)
class Covariates:
    """What a simple method knows of the pairs.

    Parameters
    ----------
    correlation
        ``(R, T)`` |r| of regulator and target; NaN where one of them does not vary.
    mean, variance, detection
        ``(T,)`` of the targets' log-normalised expression: mean, variance, share of cells that express them.
    """

    correlation: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    detection: np.ndarray

    def columns(self, pairs: Pairs) -> np.ndarray:
        """Return ``(n, 4)`` float64 of the judged pairs, as ranks between 0 and 1; unknown |r| as 0."""
        shape = pairs.known.shape
        laid = [np.nan_to_num(self.correlation, nan=0.0)]
        laid += [
            np.broadcast_to(of_target, shape) for of_target in (self.mean, self.variance, self.detection)
        ]
        return np.column_stack([_as_ranks(matrix[pairs.judged]) for matrix in laid])


def gene_level_scores(covariates: Covariates, pairs: Pairs) -> dict[str, np.ndarray]:
    """Return baseline -> ``(R, T)`` score: the covariates as rankings of their own, unknown pairs last."""
    shape = pairs.known.shape
    laid = dict(zip(_COLUMNS[1:], (covariates.mean, covariates.variance, covariates.detection), strict=True))
    by_target = {name: np.broadcast_to(values, shape).astype(np.float64) for name, values in laid.items()}
    return {_COLUMNS[0]: np.nan_to_num(covariates.correlation, nan=-1.0), **by_target}


def residual(
    strength: np.ndarray, pairs: Pairs, covariates: Covariates, *, seed: int = 0, n: int = RESAMPLES
) -> dict[str, Any]:
    """Return what a score adds to the covariates in predicting the edges of unseen regulators.

    Two logistic regressions are fitted on the regulators of the other folds, one with the covariates alone
    (|r|, mean, variance and detection of the target, and its number of known regulators among those fitted
    on), one with the score beside them, all as ranks.

    Parameters
    ----------
    strength
        ``(R, T)`` score, -1 where there is none.
    pairs, covariates
        See `judged_pairs` and `Covariates`.
    seed, n
        Of the folds and the bootstrap.

    Returns
    -------
    dict
        ``auprc_gain`` and ``log_loss_gain`` (nats a pair; positive is better), with ``_low`` and ``_high``
        (95 %, over regulators, from 20 on), and ``auprc_covariates``, ``auprc_with_score``. Empty where there
        are fewer than `FOLDS` regulators, or folds without a true edge.
    """
    folds = _folds(pairs, seed)
    if folds is None:
        return {}
    base = covariates.columns(pairs)
    score = _as_ranks(strength[pairs.judged])[:, None]
    without, with_score = (
        _out_of_fold(pairs, folds, features) for features in (base, np.hstack([base, score]))
    )
    labels = pairs.known[pairs.judged]
    loss_gain = _log_loss(labels, without) - _log_loss(labels, with_score)
    areas = [average_precision(labels, each) for each in (without, with_score)]
    found: dict[str, Any] = {
        "auprc_covariates": areas[0],
        "auprc_with_score": areas[1],
        "auprc_gain": areas[1] - areas[0],
        "log_loss_gain": float(loss_gain.mean()),
    }
    if len(pairs.regulators) < FEWEST_REGULATORS:
        return found
    drawn = [resampled(_laid(each, pairs), pairs, seed=seed, n=n)["auprc"] for each in (without, with_score)]
    low, high = np.nanquantile(drawn[1] - drawn[0], [0.025, 0.975])
    found |= {"auprc_gain_low": float(low), "auprc_gain_high": float(high)}
    copies = regulator_copies(len(pairs.regulators), seed=seed, n=n)
    totals = np.bincount(pairs.row, weights=loss_gain, minlength=len(pairs.regulators))
    sizes = np.bincount(pairs.row, minlength=len(pairs.regulators))
    low, high = np.quantile((copies @ totals) / (copies @ sizes), [0.025, 0.975])
    return found | {"log_loss_gain_low": float(low), "log_loss_gain_high": float(high)}


def _folds(pairs: Pairs, seed: int) -> np.ndarray | None:
    """Return the fold of every regulator, as even in known edges as possible; None where too few have any."""
    n_known = (pairs.known & pairs.judged).sum(axis=1)
    if np.count_nonzero(n_known) < FOLDS:
        return None
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(n_known))
    order = order[np.argsort(-n_known[order], kind="stable")]
    folds = np.empty(len(n_known), dtype=np.int64)
    # there and back again: each round of regulators is dealt in the opposite order of the last
    dealt = np.arange(len(n_known)) % (2 * FOLDS)
    folds[order] = np.where(dealt < FOLDS, dealt, 2 * FOLDS - 1 - dealt)
    return folds


def _out_of_fold(pairs: Pairs, folds: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return ``(n,)`` probabilities of the judged pairs, each from a fit without its regulator."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    labels, fold_of = pairs.known[pairs.judged], folds[pairs.row]
    column = np.nonzero(pairs.judged)[1]
    probability = np.empty(len(labels))
    for fold in range(FOLDS):
        inside = fold_of != fold
        degree = (pairs.known & pairs.judged)[folds != fold].sum(axis=0)
        known = np.column_stack([features, np.log1p(degree)[column]])
        model = LogisticRegression(C=1.0, max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the ranking settles long before
            model.fit(known[inside], labels[inside])
        probability[~inside] = model.predict_proba(known[~inside])[:, 1]
    return probability


def _laid(values: np.ndarray, pairs: Pairs) -> np.ndarray:
    laid = np.full(pairs.known.shape, -1.0)
    laid[pairs.judged] = values
    return laid


def _log_loss(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    kept = np.clip(probability, _SMALL, 1 - _SMALL)
    return -np.where(labels, np.log(kept), np.log1p(-kept))


def _as_ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks between 0 and 1, ties sharing theirs: scores of any unit and shape compare so."""
    ranks = rankdata(values)
    return np.asarray((ranks - 1) / max(len(ranks) - 1, 1))
