"""Probabilities that mean what they say: one temperature, fitted to predictions of cells not learnt from."""

from __future__ import annotations

import numpy as np

_LEAST, _MOST = 0.05, 20.0
_FLOOR = 1e-12


def fit_temperature(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature at which probabilities fit labels best, 1 where there is nothing to fit.

    Guo et al. (2017), ICML: logits are divided by one number, chosen by the log loss; the order of classes
    stays.

    Parameters
    ----------
    scores
        ``(n, n_classes)`` probabilities of units that were not learnt from.
    truth
        ``(n,)`` class indices.

    Examples
    --------
    >>> sure = np.tile([0.99, 0.01], (10, 1))
    >>> fit_temperature(sure, np.array([0] * 7 + [1] * 3)) > 1  # too sure of itself
    True
    """
    from scipy.optimize import minimize_scalar

    if len(truth) == 0 or scores.shape[1] < 2:
        return 1.0
    places = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        tempered = with_temperature(scores, float(np.exp(log_temperature)))
        return -float(np.mean(np.log(np.maximum(tempered[places, truth], _FLOOR))))

    found = minimize_scalar(loss, bounds=(np.log(_LEAST), np.log(_MOST)), method="bounded")
    return float(np.exp(found.x))


def with_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities whose logits are divided by a temperature, ``(n, n_classes)`` float64."""
    logits = np.log(np.maximum(np.asarray(scores, dtype=np.float64), _FLOOR)) / temperature
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True)
