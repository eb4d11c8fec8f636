"""How good a model is on the validation part while it learns: one score and one loss a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from geneformer_grn.training.supervision import Level, Split, Task

NOISE = 0.01
"""Difference of validation scores that says nothing."""


@dataclass(frozen=True)
class Validation:
    """Figures of the validation part.

    Parameters
    ----------
    score
        Mean over tasks, larger is better: macro-F1 of classes, quadratic kappa of grades, R2 of values; NaN
        where nothing can be scored.
    loss
        Mean over tasks: cross-entropy in nats, or squared error over the variance of the training values.
    by_task
        ``score`` and ``loss`` of each.
    """

    score: float
    loss: float
    by_task: dict[str, dict[str, float]]


def validation_units(task: Task, splits: Mapping[Level, Split]) -> np.ndarray:
    """Return the labelled units of the validation part, int64."""
    units = splits[task.level].validation
    return np.asarray(units[task.labelled[units]], dtype=np.int64)


def validate(
    predictions: Mapping[str, np.ndarray],
    tasks: Mapping[str, tuple[Task, np.ndarray]],
    deviations: Mapping[str, float],
    taught: Mapping[str, np.ndarray],
) -> Validation:
    """Score predictions of validation units.

    Parameters
    ----------
    predictions
        By task: probabilities ``(m, n_classes)``, or values ``(m,)``; a row that is NaN is left out.
    tasks
        By name: the task and its ``(m,)`` units.
    deviations
        Standard deviation of the training values, of each regression.
    taught
        Classes of the training part, of each other task. Units of other classes count in the score and not in
        the loss: how sure a model is that there are none says nothing of how good it is.
    """
    by_task = {}
    for name, (task, units) in tasks.items():
        predicted, truth = predictions[name], task.values[units]
        known = ~np.isnan(predicted.reshape(len(predicted), -1)).any(axis=1)
        if known.any():
            by_task[name] = _figures(
                task, predicted[known], truth[known], deviations.get(name, 1.0), taught.get(name)
            )
    scores = [figures["score"] for figures in by_task.values() if np.isfinite(figures["score"])]
    losses = [figures["loss"] for figures in by_task.values()]
    return Validation(
        score=float(np.mean(scores)) if scores else float("nan"),
        loss=float(np.mean(losses)) if losses else float("nan"),
        by_task=by_task,
    )


def preferred(scores: Sequence[float], losses: Sequence[float], *, noise: float = NOISE) -> int:
    """Return which of several settings to take: of those within `noise` of the best score the smallest loss.

    On a hundred units thousandths of a score are noise, and a penalty chosen by them may call every unit the
    larger class. Of equals the first; scores that are NaN are passed over unless all are.
    """
    known = np.asarray(scores, dtype=np.float64)
    best = np.nanmax(known) if np.isfinite(known).any() else np.nan
    equal = np.flatnonzero(known >= best - noise) if np.isfinite(best) else np.arange(len(known))
    return int(equal[np.argmin(np.asarray(losses)[equal])])


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1 over the classes that `truth` holds."""
    scores = []
    for label in np.unique(truth):
        hits = float(((truth == label) & (predicted == label)).sum())
        scores.append(2.0 * hits / float((truth == label).sum() + (predicted == label).sum()))
    return float(np.mean(scores))


def quadratic_kappa(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return Cohen's kappa of two gradings with quadratic weights (Cohen 1968); NaN if both are constant."""
    expected = float(np.mean((truth[:, None] - np.unique(predicted)[None]) ** 2 @ _shares(predicted)))
    observed = float(np.mean((truth - predicted) ** 2))
    return 1.0 - observed / expected if expected > 0 else float("nan")


def _shares(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.unique(values, return_counts=True)[1] / len(values))


def _figures(
    task: Task, predicted: np.ndarray, truth: np.ndarray, deviation: float, taught: np.ndarray | None
) -> dict[str, float]:
    if task.kind == "regression":
        error, spread = float(np.mean((predicted - truth) ** 2)), float(np.var(truth))
        score = 1.0 - error / spread if spread > 0 else float("nan")
        return {"score": score, "loss": error / deviation**2}
    of_truth = predicted[np.arange(len(truth)), truth.astype(np.int64)]
    if taught is not None and (known := np.isin(truth, taught)).any():
        of_truth = of_truth[known]
    best = predicted.argmax(axis=1)
    score = quadratic_kappa(truth, best) if task.kind == "ordinal" else macro_f1(truth, best)
    return {"score": score, "loss": float(-np.log(np.clip(of_truth, 1e-12, None)).mean())}
