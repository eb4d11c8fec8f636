"""Measures of predicted labels, for many weightings of the units at once.

A resample of units is a weighting by whole numbers. So one sort of the units serves every resample, and an
estimate and its bootstrap come from the same lines. With unit weights each measure is scikit-learn's of that
name, except that means over classes are over the classes that occur in the truth: a method is then not marked
down for naming a class that another never names.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from scipy import sparse

CLASS_MEASURES = (
    "accuracy", "balanced_accuracy", "macro_f1", "precision", "recall", "auroc", "auprc", "brier", "ece",
)  # fmt: skip
ORDINAL_MEASURES = ("quadratic_kappa", "mae")
LOWER_IS_BETTER = frozenset({"brier", "ece", "mae"})
N_BINS = 10


def classification_measures(
    truth: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    ordinal: bool = False,
    only: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Return measures of predicted classes.

    Parameters
    ----------
    truth
        ``(n,)`` int class of each unit.
    scores
        ``(n, n_classes)`` probabilities. The class with the largest is the prediction, the first of equals.
    weights
        ``(b, n)`` float, a row per resample; None: one row of ones.
    ordinal
        Classes are in ascending order.
    only
        Names of the measures wanted; None: all.

    Returns
    -------
    dict
        Measure -> ``(b,)`` float64. ``precision``, ``recall`` (the same number as ``balanced_accuracy``),
        ``macro_f1``, ``auroc`` and ``auprc`` are means over the classes that have weight in the truth, the
        last two of one class against the rest and NaN where no class has a rest. ``brier``: squared distance
        of the probabilities from the truth, 0 to 2. ``ece``: expected calibration error of the predicted
        class in 10 bins of equal width (Guo et al. 2017). Ordinal: ``quadratic_kappa`` (Cohen 1968) and
        ``mae`` in steps between classes.
    """
    weights = np.ones((1, len(truth))) if weights is None else weights
    wanted = set((*CLASS_MEASURES, *(ORDINAL_MEASURES if ordinal else ())) if only is None else only)
    predicted = scores.argmax(axis=1)
    measures: dict[str, np.ndarray] = {}
    if wanted - {"auroc", "auprc", "brier", "ece"}:
        confusion = confusion_matrices(truth, predicted, weights, scores.shape[1])
        measures |= _from_confusion(confusion)
        if ordinal:
            measures |= _ordinal(confusion)
    if wanted & {"auroc", "auprc"}:
        ranked = [one_against_rest(truth == k, scores[:, k], weights) for k in np.unique(truth)]
        measures["auroc"] = _mean([one[0] for one in ranked])
        measures["auprc"] = _mean([one[1] for one in ranked])
    total = weights.sum(axis=1)
    if "brier" in wanted:
        measures["brier"] = weights @ brier_terms(truth, scores) / total
    if "ece" in wanted:
        confidence = scores.max(axis=1)
        gaps = weights @ _indicator(confidence_bins(confidence), N_BINS).multiply(
            ((predicted == truth) - confidence)[:, None]
        )
        measures["ece"] = np.abs(gaps).sum(axis=1) / total
    return {name: measures[name] for name in (*CLASS_MEASURES, *ORDINAL_MEASURES) if name in wanted}


def confusion_matrices(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray, n_classes: int
) -> np.ndarray:
    """Return the weight of each true (rows) and predicted class, ``(b, n_classes, n_classes)``."""
    pairs = _indicator(truth * n_classes + predicted, n_classes**2)
    return np.asarray(weights @ pairs).reshape(len(weights), n_classes, n_classes)


def class_measures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``precision``, ``recall`` and ``f1`` ``(b, n_classes)``; NaN for classes without a true unit."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    true, named = confusion.sum(axis=2), confusion.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / true
        precision = np.where(named > 0, hits / named, 0.0)
        f1 = 2 * hits / (true + named)
    absent = true == 0
    precision, f1 = (np.where(absent, np.nan, values) for values in (precision, f1))
    return {"precision": precision, "recall": recall, "f1": f1}


def one_against_rest(
    positive: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROC and average precision of one class, each ``(b,)``; NaN where either side has no weight.

    Parameters
    ----------
    positive
        ``(n,)`` bool.
    scores
        ``(n,)`` larger is more likely positive; equal ones share their place.
    weights
        ``(b, n)``.
    """
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    ordered = weights[:, order]
    found = np.add.reduceat(ordered * positive[order], starts, axis=1)
    wrong = np.add.reduceat(ordered, starts, axis=1) - found
    n_found, n_wrong = found.cumsum(axis=1), wrong.cumsum(axis=1)
    total, others = n_found[:, -1], n_wrong[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = ((n_found - found / 2) * wrong).sum(axis=1) / (total * others)
        precision = np.divide(n_found, n_found + n_wrong, out=np.zeros_like(n_found), where=n_found > 0)
        auprc = (found * precision).sum(axis=1) / total
    return auroc, np.where(others > 0, auprc, np.nan)


def value_measures(
    truth: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return ``r2``, ``mae`` and ``spearman`` of predicted values, each ``(b,)``; NaN where undefined.

    Parameters
    ----------
    truth, values
        ``(n,)`` float.
    weights
        As in `classification_measures`.
    """
    weights = np.ones((1, len(truth))) if weights is None else weights
    total = weights.sum(axis=1)
    mean = weights @ truth / total
    spread = weights @ truth**2 / total - mean**2
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = 1 - weights @ (truth - values) ** 2 / total / np.where(spread > 1e-12 * mean**2, spread, np.nan)
    ranks = weighted_ranks(truth, weights), weighted_ranks(values, weights)
    a, b = (rank - (weights * rank).sum(axis=1, keepdims=True) / total[:, None] for rank in ranks)
    scale = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    spearman = (weights * a * b).sum(axis=1) / np.where(scale > 0, scale, np.nan)
    return {"r2": r2, "mae": weights @ np.abs(truth - values) / total, "spearman": spearman}


def weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the ranks ``(b, n)`` of units that occur ``weights[b, i]`` times each, equal values sharing."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    counts = np.add.reduceat(weights[:, order], starts, axis=1)
    return np.asarray((counts.cumsum(axis=1) - counts / 2 + 0.5)[:, place])


def brier_terms(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each unit's squared distance of its probabilities from its class, ``(n,)``."""
    known = scores[np.arange(len(truth)), truth]
    return np.asarray((scores**2).sum(axis=1) - 2 * known + 1)


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """Return the bin of each probability, ``(n,)`` int: (0, 0.1] is the first, (0.9, 1] the last."""
    return np.clip(np.ceil(confidence * N_BINS - 1e-9).astype(np.int64) - 1, 0, N_BINS - 1)


def _from_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    each = class_measures(confusion)
    hits = np.trace(confusion, axis1=1, axis2=2)
    recall = _over_classes(each["recall"])
    return {
        "accuracy": hits / confusion.sum(axis=(1, 2)), "balanced_accuracy": recall, "recall": recall,
        "macro_f1": _over_classes(each["f1"]), "precision": _over_classes(each["precision"]),
    }  # fmt: skip


def _ordinal(confusion: np.ndarray) -> dict[str, np.ndarray]:
    steps = np.abs(np.subtract.outer(np.arange(confusion.shape[1]), np.arange(confusion.shape[1])))
    total = confusion.sum(axis=(1, 2))
    chance = np.einsum("bi,bj->bij", confusion.sum(axis=2), confusion.sum(axis=1)) / total[:, None, None]
    expected = (chance * steps**2).sum(axis=(1, 2))
    kappa = 1 - (confusion * steps**2).sum(axis=(1, 2)) / np.where(expected > 0, expected, np.nan)
    return {"quadratic_kappa": kappa, "mae": (confusion * steps).sum(axis=(1, 2)) / total}


def _mean(rows: list[np.ndarray]) -> np.ndarray:
    return _over_classes(np.column_stack(rows))


def _over_classes(values: np.ndarray) -> np.ndarray:
    """Return the mean over classes, ``(b,)``; NaN ones are left out."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    return np.asarray(np.where(known, values, 0.0).sum(axis=1) / np.where(count > 0, count, np.nan))


def _indicator(codes: np.ndarray, n: int) -> sparse.csr_matrix:
    """Return a matrix ``(len(codes), n)`` with a one at each code."""
    return sparse.csr_matrix((np.ones(len(codes)), codes, np.arange(len(codes) + 1)), shape=(len(codes), n))
