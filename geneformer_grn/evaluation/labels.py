"""Score cards of predicted labels: measures with intervals, per class and per donor, and paired differences.

Cells of one donor are not independent, so where the scored units come in enough groups, the bootstrap draws
groups. Two methods are compared on the same resamples of the same units: the interval of their difference is
then far narrower than those of the two scores suggest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtrit

from geneformer_grn.evaluation.label_measures import (
    N_BINS,
    class_measures,
    classification_measures,
    confidence_bins,
    confusion_matrices,
    one_against_rest,
    value_measures,
)
from geneformer_grn.training.supervision import Prediction, Task

MIN_GROUPS = 5
"""Fewer groups than this say nothing of other groups; the bootstrap is then over units."""
_ENTRIES = 1 << 22  # weights held at a time


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
    scored = _scored(task, prediction, groups)
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
        resampled = _resampled(scored, n_bootstrap, seed, lambda w: measures(scored.truth, scored.scores, w))
        card["intervals"] = {name: _interval(values, scored) for name, values in resampled.items()}
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
    first, second = _scored(task, a, groups), _scored(task, b, groups)
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
        resampled = _resampled(first, n_bootstrap, seed, differences)
        ends = {name: _interval(values, first) for name, values in resampled.items()}
    found = {
        name: {"difference": float(values[0]), "low": ends[name][0], "high": ends[name][1]}
        for name, values in point.items()
    }
    return {"n_units": len(shared), "interval_over": first.unit, "differences": found}


@dataclass(frozen=True, eq=False)
class _Scored:
    """Units that have a label and a score, with the code of their group."""

    units: np.ndarray
    truth: np.ndarray
    scores: np.ndarray
    codes: np.ndarray | None
    names: Sequence[str]
    n_unlabelled: int = 0
    n_without_score: int = 0

    @property
    def n_groups(self) -> int:
        return 0 if self.codes is None else len(np.unique(self.codes))

    @property
    def unit(self) -> str:
        return "groups" if self.n_groups >= MIN_GROUPS else "units"

    def take(self, rows: np.ndarray) -> _Scored:
        codes = None if self.codes is None else self.codes[rows]
        return _Scored(self.units[rows], self.truth[rows], self.scores[rows], codes, self.names)


def _scored(task: Task, prediction: Prediction, groups: np.ndarray | pd.Series | None) -> _Scored:
    """Return the units to be scored, checked."""
    units, scores = np.asarray(prediction.units), np.asarray(prediction.scores, dtype=np.float64)
    expected = (len(units),) if task.kind == "regression" else (len(units), len(task.classes))
    if scores.shape != expected:
        raise ValueError(f"scores of {task.name!r} have the shape {scores.shape}; the task needs {expected}")
    if len(np.unique(units)) < len(units):
        raise ValueError(f"the prediction of {task.name!r} holds a unit twice; each is scored once")
    labelled = task.labelled[units]
    known = ~np.isnan(scores.reshape(len(units), -1)).any(axis=1)
    kept = labelled & known
    if not kept.any():
        raise ValueError(
            f"nothing to score for {task.name!r}: of {len(units):,} units {labelled.sum():,} have a label "
            f"and {known.sum():,} a score, none both"
        )
    codes, names = None, np.empty(0, dtype=object)
    if groups is not None:
        if len(groups) != len(task.values):
            raise ValueError(f"{len(groups):,} group labels were given for {len(task.values):,} units")
        codes, names = pd.factorize(np.asarray(groups, dtype=object)[units[kept]], sort=True)
        if (codes < 0).any():
            raise ValueError(
                f"{np.count_nonzero(codes < 0):,} scored units of {task.name!r} have no group label; give "
                "them one, or score without groups"
            )
    return _Scored(
        units[kept], task.values[units[kept]], scores[kept], codes, [str(name) for name in names],
        int((~labelled).sum()), int((labelled & ~known).sum()),
    )  # fmt: skip


def _measures(task: Task) -> Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """Return the function of truth, scores and weights that gives the task's measures."""
    if task.kind == "regression":
        return value_measures
    return lambda truth, scores, weights: classification_measures(
        truth, scores, weights, ordinal=task.kind == "ordinal"
    )


def _resampled(
    scored: _Scored, n: int, seed: int, measures: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return each measure on `n` resamples, drawn the same for equal units, groups and seed."""
    rng = np.random.default_rng(seed)
    n_units = len(scored.truth)
    drawn = np.arange(n_units)
    if scored.codes is not None and scored.unit == "groups":
        drawn = np.unique(scored.codes, return_inverse=True)[1]
    n_drawn = int(drawn.max()) + 1
    found = []
    step = max(_ENTRIES // n_units, 1)
    for start in range(0, n, step):
        rows = min(step, n - start)
        picks = rng.integers(0, n_drawn, size=(rows, n_drawn)) + n_drawn * np.arange(rows)[:, None]
        times = np.bincount(picks.ravel(), minlength=rows * n_drawn).reshape(rows, n_drawn)
        found.append(measures(times[:, drawn].astype(np.float64)))
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def _interval(values: np.ndarray, scored: _Scored, level: float = 0.95) -> list[float]:
    """Return the percentile interval; over groups with the tails of as many groups' t interval.

    The plain percentiles of a few groups are too narrow: Hesterberg (2015), What teachers should know about
    the bootstrap.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return [float("nan")] * 2
    tail = (1 - level) / 2
    if scored.unit == "groups":
        k = scored.n_groups
        tail = float(ndtr(-np.sqrt(k / (k - 1)) * stdtrit(k - 1, 1 - tail)))
    return [float(end) for end in np.quantile(values, [tail, 1 - tail])]


def _confusion(scored: _Scored) -> np.ndarray:
    predicted = scored.scores.argmax(axis=1)
    ones = np.ones((1, len(predicted)))
    return np.asarray(confusion_matrices(scored.truth, predicted, ones, scored.scores.shape[1])[0])


def _per_class(task: Task, scored: _Scored) -> list[dict[str, Any]]:
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


def _per_group(task: Task, scored: _Scored) -> list[dict[str, Any]]:
    if scored.codes is None:
        return []
    rows = []
    for code in np.unique(scored.codes):
        within = scored.take(np.flatnonzero(scored.codes == code))
        values = _measures(task)(within.truth, within.scores, np.ones((1, len(within.truth))))
        row = {"group": scored.names[code], "n": len(within.truth)}
        rows.append(row | {name: float(value[0]) for name, value in values.items()})
    return rows


def _reliability(scored: _Scored) -> list[dict[str, Any]]:
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
