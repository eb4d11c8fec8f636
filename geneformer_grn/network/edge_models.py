"""Classifiers of pairs: a regression and boosted trees, and the calibration of what they say.

Both are handed the same features and return log-odds. Where pairs are many, negatives are thinned, and what
that adds to the log-odds is taken off again (weights would make the trees' bins slow to find).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

MAX_ROWS = 40_000
_LARGEST = 20.0  # of log-odds
_SMALL = 1e-9

LogOdds = Callable[[np.ndarray], np.ndarray]
"""``(n, F)`` features -> ``(n,)`` log-odds."""


def thinned(
    labels: np.ndarray, rng: np.random.Generator, *, most: int = MAX_ROWS
) -> tuple[np.ndarray, float]:
    """Return the rows to fit on: all of them, or all positives and some negatives.

    Parameters
    ----------
    labels
        ``(n,)`` bool.
    rng
        Draws the negatives.
    most
        Rows kept, unless there are more than half as many positives.

    Returns
    -------
    tuple
        ``(m,)`` int64 rows, ascending, and the logarithm of the share of negatives kept: added to log-odds
        fitted on these rows, it makes them those of all rows.
    """
    if len(labels) <= most:
        return np.arange(len(labels)), 0.0
    positive, negative = np.flatnonzero(labels), np.flatnonzero(~labels)
    n_kept = min(len(negative), max(most - len(positive), most // 2))
    kept = rng.choice(negative, n_kept, replace=False)
    return np.sort(np.concatenate([positive, kept])), float(np.log(n_kept / len(negative)))


def logistic(features: np.ndarray, labels: np.ndarray, seed: int) -> LogOdds:
    """Fit a logistic regression with a ridge penalty on standardised features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, sd = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale = np.where(sd > 0, sd, 1.0)
    model = LogisticRegression(C=0.1, max_iter=50, solver="newton-cholesky", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the ranking settles long before
        model.fit((features - mean) / scale, labels)
    return lambda rows: np.asarray(model.decision_function((rows - mean) / scale))


def boosted(features: np.ndarray, labels: np.ndarray, seed: int) -> LogOdds:
    """Fit small boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=40, l2_regularization=5.0,
        max_features=0.5, early_stopping=False, random_state=seed,
    )  # fmt: skip
    model.fit(features, labels)
    return lambda rows: np.asarray(model.decision_function(rows))


MODELS: dict[str, Callable[[np.ndarray, np.ndarray, int], LogOdds]] = {
    "logistic": logistic,
    "boosted": boosted,
}
"""Name -> ``(features, labels, seed) -> log-odds``."""


def calibration(log_odds: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept that turn log-odds of unseen pairs into those that hold.

    Parameters
    ----------
    log_odds
        ``(n,)`` of pairs that the classifier was not fitted on.
    labels
        ``(n,)`` bool.

    Returns
    -------
    tuple of float
        Slope (never below 0: the ranking is kept) and intercept.

    Notes
    -----
    Platt (1999), Probabilistic outputs for support vector machines, with his targets for labels.
    """
    from scipy.optimize import minimize

    n_true = int(labels.sum())
    wanted = np.where(labels, (n_true + 1) / (n_true + 2), 1 / (len(labels) - n_true + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        odds = parameters[0] * log_odds + parameters[1]
        wrong = 1 / (1 + np.exp(-odds)) - wanted
        gradient = np.array([(wrong * log_odds).mean(), wrong.mean()])
        return float((np.logaddexp(0, odds) - wanted * odds).mean()), gradient

    start = np.array([1.0, 0.0])
    bounds = [(_SMALL, None), (None, None)]
    slope, intercept = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(slope), float(intercept)


def probability(log_odds: np.ndarray) -> np.ndarray:
    """Return probabilities, kept away from 0 and 1."""
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -_LARGEST, _LARGEST))))
