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
from geneformer_grn.network.folds import FOLDS, regulator_folds

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


def target_degree(pairs: Pairs, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the baseline that reads no expression: how many known regulators a target has, out of fold.

    Parameters
    ----------
    pairs, seed
        As in `residual`, whose folds these are.

    Returns
    -------
    dict
        ``target degree`` -> ``(R, T)`` number of regulators of the other folds that are known to have the
        target, -1 where a pair is not judged. Empty where fewer than `FOLDS` regulators have a known edge.
    """
    known = pairs.known & pairs.judged
    if np.count_nonzero(known.any(axis=1)) < FOLDS:
        return {}
    folds = regulator_folds(known.sum(axis=1), np.random.default_rng([seed, 1]))
    counted = np.stack([known[folds != fold].sum(axis=0) for fold in range(FOLDS)])
    return {"target degree": np.where(pairs.judged, counted[folds], -1).astype(np.float64)}


def residual(
    strength: np.ndarray,
    pairs: Pairs,
    covariates: Covariates,
    *,
    seed: int = 0,
    n: int = RESAMPLES,
    without: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return what a score adds to the covariates in predicting the edges of unseen regulators.

    Two logistic regressions are fitted on the regulators of the other folds, one with the covariates alone
    (|r|, mean, variance and detection of the target, and its share of known regulators among those fitted
    on), one with the score beside them, all as ranks.

    Parameters
    ----------
    strength
        ``(R, T)`` score, -1 where there is none.
    pairs, covariates
        See `judged_pairs` and `Covariates`.
    seed, n
        Of the folds and the bootstrap; 0 resamples: no intervals.
    without
        What `by_covariates` returns for these pairs, covariates and seed; None: it is fitted here.

    Returns
    -------
    dict
        ``auprc_gain`` and ``log_loss_gain`` (nats a pair; positive is better), with ``_low`` and ``_high``
        (95 %, over regulators, from 20 on), and ``auprc_covariates``, ``auprc_with_score``. Empty where there
        are fewer than `FOLDS` regulators, or folds without a true edge.
    """
    if without is None:
        without = by_covariates(pairs, covariates, seed=seed)
    if not len(without):
        return {}
    score = _as_ranks(strength[pairs.judged])[:, None]
    with_score = _out_of_fold(pairs, np.hstack([covariates.columns(pairs), score]), seed)
    labels = pairs.known[pairs.judged]
    loss_gain = _log_loss(labels, without) - _log_loss(labels, with_score)
    areas = [average_precision(labels, each) for each in (without, with_score)]
    found: dict[str, Any] = {
        "auprc_covariates": areas[0],
        "auprc_with_score": areas[1],
        "auprc_gain": areas[1] - areas[0],
        "log_loss_gain": float(loss_gain.mean()),
    }
    if n == 0 or len(pairs.regulators) < FEWEST_REGULATORS:
        return found
    drawn = [resampled(_laid(each, pairs), pairs, seed=seed, n=n)["auprc"] for each in (without, with_score)]
    low, high = np.nanquantile(drawn[1] - drawn[0], [0.025, 0.975])
    found |= {"auprc_gain_low": float(low), "auprc_gain_high": float(high)}
    copies = regulator_copies(len(pairs.regulators), seed=seed, n=n)
    totals = np.bincount(pairs.row, weights=loss_gain, minlength=len(pairs.regulators))
    sizes = np.bincount(pairs.row, minlength=len(pairs.regulators))
    low, high = np.quantile((copies @ totals) / (copies @ sizes), [0.025, 0.975])
    return found | {"log_loss_gain_low": float(low), "log_loss_gain_high": float(high)}


def by_covariates(pairs: Pairs, covariates: Covariates, *, seed: int = 0) -> np.ndarray:
    """Return ``(n,)`` probabilities of the judged pairs by the covariates alone, out of fold.

    One fit serves all scores over the same pairs. Empty where there are fewer than `FOLDS` regulators with
    known edges.
    """
    if np.count_nonzero((pairs.known & pairs.judged).any(axis=1)) < FOLDS:
        return np.empty(0)
    return _out_of_fold(pairs, covariates.columns(pairs), seed)


def _out_of_fold(pairs: Pairs, features: np.ndarray, seed: int) -> np.ndarray:
    """Return ``(n,)`` probabilities of the judged pairs, each from a fit without its regulator."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    known = pairs.known & pairs.judged
    folds = regulator_folds(known.sum(axis=1), np.random.default_rng([seed, 1]))
    labels, fold_of = pairs.known[pairs.judged], folds[pairs.row]
    column = np.nonzero(pairs.judged)[1]
    of_fold = [(known[folds == fold].sum(axis=0), pairs.judged[folds == fold].sum(axis=0))
               for fold in range(FOLDS)]  # fmt: skip
    n_known, n_judged = (np.stack(each) for each in zip(*of_fold, strict=True))
    probability = np.empty(len(labels))
    for fold in range(FOLDS):
        inside = fold_of != fold
        # a pair's own fold is not counted: its regulator's edges are what is to be predicted
        others = [[other for other in range(FOLDS) if other not in (fold, own)] for own in range(FOLDS)]
        share = np.stack(
            [n_known[each].sum(axis=0) / np.maximum(n_judged[each].sum(axis=0), 1) for each in others]
        )
        popular = np.log1p(share * len(folds))[fold_of, column]
        columns = np.column_stack([features, popular])
        model = LogisticRegression(C=1.0, max_iter=50, solver="newton-cholesky")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the ranking settles long before
            model.fit(columns[inside], labels[inside])
        probability[~inside] = model.predict_proba(columns[~inside])[:, 1]
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
