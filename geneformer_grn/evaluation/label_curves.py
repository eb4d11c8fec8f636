"""The points that figures of predicted labels are drawn from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from geneformer_grn.evaluation.label_measures import one_against_rest
from geneformer_grn.training.supervision import Prediction, Task

CURVE_COLUMNS = (
    "class", "threshold", "false_positive_rate", "recall", "precision", "n", "auroc", "auprc",
)  # fmt: skip


def ranking_curves(task: Task, prediction: Prediction, *, n_points: int = 400) -> pd.DataFrame:
    """Return how many units of each class are found, and at what cost, as the threshold falls.

    Parameters
    ----------
    task
        The truth; classes or grades.
    prediction
        Units without a label, or with a score of NaN, are left out.
    n_points
        At most so many points a class, evenly spread over the units; the areas are of all.

    Returns
    -------
    pandas.DataFrame
        `CURVE_COLUMNS`, classes in the task's order, the highest threshold first. Each class against the
        rest; one that has no unit, or all, is left out. ``n`` (units of the class), ``auroc`` and ``auprc``
        are the same along a class. ``precision`` at a recall of 0 is that of the first point.

    Raises
    ------
    ValueError
        The task is a regression.
    """
    if task.kind == "regression":
        raise ValueError(f"task {task.name!r} is a regression; curves of ranking are of classes")
    kept = task.labelled[prediction.units] & ~np.isnan(prediction.scores).any(axis=1)
    truth, scores = task.values[prediction.units[kept]], prediction.scores[kept]
    tables = [pd.DataFrame(columns=list(CURVE_COLUMNS))]
    for k, name in enumerate(task.classes):
        positive = truth == k
        if positive.any() and not positive.all():
            curve = _curve(positive, scores[:, k], n_points)
            auroc, auprc = one_against_rest(positive, scores[:, k], np.ones((1, len(positive))))
            facts = {"class": name, "n": int(positive.sum()), "auroc": auroc[0], "auprc": auprc[0]}
            tables.append(curve.assign(**facts)[list(CURVE_COLUMNS)])
    return pd.concat(tables[1:] or tables, ignore_index=True)


def _curve(positive: np.ndarray, scores: np.ndarray, n_points: int) -> pd.DataFrame:
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    if len(ends) > n_points:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, n_points).astype(int))]
    found, taken = np.cumsum(positive[order])[ends], ends + 1
    wrong = taken - found
    table = pd.DataFrame(
        {
            "threshold": scores[order][ends],
            "false_positive_rate": wrong / (~positive).sum(),
            "recall": found / positive.sum(),
            "precision": found / taken,
        }
    )
    start = table.iloc[[0]].assign(threshold=np.inf, false_positive_rate=0.0, recall=0.0)
    return pd.concat([start, table], ignore_index=True)
