"""Score cards of predicted labels: measures with intervals, per class and per donor, and paired differences.

Cells of one donor are not independent, so where the scored units come in enough groups, the bootstrap draws
groups. Two methods are compared on the same resamples of the same units: the interval of their difference is
then far narrower than those of the two scores suggest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from geneformer_grn.evaluation.label_measures import (
    N_BINS,
    class_measures,
    classification_measures,
    confidence_bins,
    confusion_matrices,
    one_against_rest,
    value_measures,
)
from geneformer_grn.evaluation.scored_units import ScoredUnits, interval, resampled, scored_units
from geneformer_grn.training.supervision import Prediction, Task


def score_labels(
    task: Task,
    prediction: Prediction,
    *,
    groups: np.ndarray | pd.Series | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predicted labels.

    Parameters
    ----------
    task
        The truth.
    prediction
        Units without a label, or with a score of NaN, are left out and counted.
    groups
        ``(n_units,)`` label of every unit of the task, such as its donor; None: no groups.
    n_bootstrap
        Resamples of the intervals; 0: no intervals.
    seed
        Of the resamples.

    Returns
    -------
    dict
        Plain values. One number for each measure of `label_measures` (NaN where undefined), and

        ``intervals``
            Measure -> [low, high] (95 %, percentile bootstrap).
        ``n_units``, ``n_unlabelled``, ``n_without_score``
            Units scored, and left out.
        ``interval_over``
            ``units``, or ``groups`` where the scored units come from at least five. Over units, an interval
            says how well the measure is known for these groups, not for others.
        ``classes``, ``confusion``
            Names, and counts with a row per true class.
        ``per_class``
            Rows of ``class``, ``n``, ``precision``, ``recall``, ``f1``, ``auroc``, ``auprc``.
        ``per_group``
            Rows of ``group``, ``n`` and the measures; empty without groups.
        ``reliability``
            Rows of ``low``, ``high``, ``n``, ``confidence``, ``accuracy``: how often the predicted class was
            right, by its probability.

        The last four lack for a regression, but for ``per_group``.

    Raises
    ------
    ValueError
        No unit has both a label and a score, scores or groups do not fit the task, or a scored unit has no
        group.

    Examples
    --------
    >>> card = score_labels(task, prediction, groups=donors)  # doctest: +SKIP
    >>> card["macro_f1"], card["intervals"]["macro_f1"]  # doctest: +SKIP
    (0.83, [0.80, 0.86])
    """
    scored = scored_units(task, prediction, groups)
    measures = _measures(task)
    point = measures(scored.truth, scored.scores, np.ones((1, len(scored.truth))))
    estimates = {name: float(values[0]) for name, values in point.items()}
    card: dict[str, Any] = dict(estimates)
    card |= {
        "intervals": {}, "interval_over": scored.unit, "n_units": len(scored.truth),
        "n_unlabelled": scored.n_unlabelled, "n_without_score": scored.n_without_score,
        "per_group": _per_group(task, scored),
    }  # fmt: skip
    if n_bootstrap and len(scored.truth) > 1:
        samples = resampled(scored, n_bootstrap, seed, lambda w: measures(scored.truth, scored.scores, w))
        card["intervals"] = {name: interval(values, scored) for name, values in samples.items()}
    if task.kind != "regression":
        card |= {
            "classes": list(task.classes), "confusion": _confusion(scored).astype(int).tolist(),
            "per_class": _per_class(task, scored), "reliability": _reliability(scored),
        }  # fmt: skip
    return card


def compare_predictions(
    task: Task,
    a: Prediction,
    b: Prediction,
    *,
    groups: np.ndarray | pd.Series | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two predictions of the same units, resampled together.

    Parameters
    ----------
    task
        The truth.
    a, b
        Two predictions. Only units that both score are compared; their order may differ.
    groups, n_bootstrap, seed
        As in `score_labels`.

    Returns
    -------
    dict
        ``n_units``; ``interval_over`` as in `score_labels`; ``differences``: measure -> ``difference``
        (`a` less `b`), ``low``, ``high`` (95 %). Of brier, ece and mae less is better.

    Raises
    ------
    ValueError
        As in `score_labels`, or the two share no scored unit.
    """
    first, second = scored_units(task, a, groups), scored_units(task, b, groups)
    shared, at_a, at_b = np.intersect1d(first.units, second.units, return_indices=True)
    if not len(shared):
        raise ValueError(
            f"the two predictions of {task.name!r} share no scored unit; nothing can be compared"
        )
    first, second = first.take(at_a), second.take(at_b)
    measures = _measures(task)

    def differences(weights: np.ndarray) -> dict[str, np.ndarray]:
        of_a = measures(first.truth, first.scores, weights)
        of_b = measures(first.truth, second.scores, weights)
        return {name: of_a[name] - of_b[name] for name in of_a}

    point = differences(np.ones((1, len(shared))))
    ends = {name: [float("nan")] * 2 for name in point}
    if n_bootstrap and len(shared) > 1:
        samples = resampled(first, n_bootstrap, seed, differences)
        ends = {name: interval(values, first) for name, values in samples.items()}
    found = {
        name: {"difference": float(values[0]), "low": ends[name][0], "high": ends[name][1]}
        for name, values in point.items()
    }
    return {"n_units": len(shared), "interval_over": first.unit, "differences": found}


def _measures(task: Task) -> Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """Return the function of truth, scores and weights that gives the task's measures."""
    if task.kind == "regression":
        return value_measures
    return lambda truth, scores, weights: classification_measures(
        truth, scores, weights, ordinal=task.kind == "ordinal"
    )


def _confusion(scored: ScoredUnits) -> np.ndarray:
    predicted = scored.scores.argmax(axis=1)
    ones = np.ones((1, len(predicted)))
    return np.asarray(confusion_matrices(scored.truth, predicted, ones, scored.scores.shape[1])[0])


def _per_class(task: Task, scored: ScoredUnits) -> list[dict[str, Any]]:
    """Return a row per class, NaN where a class without a true unit has no such measure."""
    confusion = _confusion(scored)
    each = {name: values[0] for name, values in class_measures(confusion[None]).items()}
    rows = []
    for k, name in enumerate(task.classes):
        weights = np.ones((1, len(scored.truth)))
        auroc, auprc = one_against_rest(scored.truth == k, scored.scores[:, k], weights)
        values = {key: float(each[key][k]) for key in each} | {
            "auroc": float(auroc[0]),
            "auprc": float(auprc[0]),
        }
        rows.append({"class": name, "n": int(confusion[k].sum())} | values)
    return rows


def _per_group(task: Task, scored: ScoredUnits) -> list[dict[str, Any]]:
    if scored.codes is None:
        return []
    rows = []
    for code in np.unique(scored.codes):
        within = scored.take(np.flatnonzero(scored.codes == code))
        values = _measures(task)(within.truth, within.scores, np.ones((1, len(within.truth))))
        row = {"group": scored.names[code], "n": len(within.truth)}
        rows.append(row | {name: float(value[0]) for name, value in values.items()})
    return rows


def _reliability(scored: ScoredUnits) -> list[dict[str, Any]]:
    """Return a row per bin of the predicted class's probability that holds a unit."""
    confidence = scored.scores.max(axis=1)
    right = scored.scores.argmax(axis=1) == scored.truth
    bins = confidence_bins(confidence)
    return [
        {
            "low": k / N_BINS, "high": (k + 1) / N_BINS, "n": int((bins == k).sum()),
            "confidence": float(confidence[bins == k].mean()), "accuracy": float(right[bins == k].mean()),
        }
        for k in np.unique(bins).tolist()
    ]  # fmt: skip
