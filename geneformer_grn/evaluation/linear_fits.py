"""Linear models on given features, their penalty chosen by validation: what most label baselines end in.

Thin wrappers of scikit-learn that stand what real splits bring: classes without a training unit, one class
only, a handful of units, no validation labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from geneformer_grn.evaluation.label_data import Fitted, Predict, Taught, choose
from geneformer_grn.training.supervision import Task

Features = np.ndarray | sparse.csr_matrix
_C = (1.0, 10.0, 0.1, 0.01, 0.001)  # the first is the default where nothing can choose
_L1 = (
    (1.0, None), (0.3, None), (0.1, None), (0.03, None),
    (0.1, "balanced"), (0.03, "balanced"), (0.01, "balanced"),
)  # fmt: skip
_ALPHAS = tuple(10.0**power for power in range(-2, 7))


def fit_linear(features: Features, task: Task, units: Taught, *, seed: int, penalty: str = "l2") -> Fitted:
    """Learn labels from features: logistic regression for classes, ridge for values.

    Parameters
    ----------
    features
        ``(n_units, f)``, already scaled; rows of other parts are not looked at before the prediction.
    task
        What to learn; ordinal labels are learnt as classes.
    units
        Units that teach and choose.
    seed
        Of the solver.
    penalty
        ``l2`` (multinomial) or ``l1`` (one class against the rest, probabilities divided by their sum).

    Returns
    -------
    tuple
        Settings chosen, and the function that predicts.
    """
    if task.kind == "regression":
        return _ridge(features, task, units)
    grid = _L1 if penalty == "l1" else tuple((c, weight) for c in _C for weight in (None, "balanced"))
    fit = _one_against_rest if penalty == "l1" else _multinomial
    candidates: list[Fitted] = []
    # without validation labels only the default would be used
    for c, weight in grid if len(units.validation) else grid[:1]:
        model = fit(features, task, units.train, c=c, weight=weight, seed=seed)
        candidates.append(({"C": c, "class_weight": weight}, model))
    return choose(task, units.validation, candidates)


def _multinomial(
    features: Features, task: Task, train: np.ndarray, *, c: float, weight: str | None, seed: int
) -> Predict:
    from sklearn.linear_model import LogisticRegression

    present, labels = np.unique(task.values[train], return_inverse=True)
    if len(present) == 1:
        return _always(task, int(present[0]))
    model = LogisticRegression(C=c, class_weight=weight, max_iter=300, random_state=seed)
    _quietly(model.fit, features[train], labels)
    return lambda units: spread(model.predict_proba(features[units]), present, len(task.classes))


def _one_against_rest(
    features: Features, task: Task, train: np.ndarray, *, c: float, weight: str | None, seed: int
) -> Predict:
    present, labels = np.unique(task.values[train], return_inverse=True)
    if len(present) == 1:
        return _always(task, int(present[0]))
    known = features[train]
    models = [
        _quietly(_lasso(c, weight, seed).fit, known, labels == index)
        for index in (range(len(present)) if len(present) > 2 else [1])
    ]

    def predict(units: np.ndarray) -> np.ndarray:
        asked = features[units]
        found = np.column_stack([model.predict_proba(asked)[:, 1] for model in models])
        if len(present) == 2:
            found = np.column_stack([1 - found, found])
        return spread(
            found / np.maximum(found.sum(axis=1, keepdims=True), 1e-300), present, len(task.classes)
        )

    return predict


def _lasso(c: float, weight: str | None, seed: int) -> Any:
    """Return an L1 logistic regression; the name of the penalty changed with scikit-learn 1.8."""
    import sklearn
    from sklearn.linear_model import LogisticRegression

    newer = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) >= (1, 8)
    kind: dict[str, Any] = {"l1_ratio": 1.0} if newer else {"penalty": "l1"}
    # liblinear penalises the intercept: scaled up, it hardly is
    return LogisticRegression(
        C=c,
        class_weight=weight,
        solver="liblinear",
        intercept_scaling=10.0,
        tol=1e-3,
        random_state=seed,
        **kind,
    )


def _ridge(features: Features, task: Task, units: Taught) -> Fitted:
    """Return ridge regression, its penalty by validation, or by leave-one-out in training."""
    from sklearn.linear_model import Ridge, RidgeCV

    values = task.values[units.train]
    known = _dense(features[units.train])

    def predictor(model: Any) -> Predict:
        return lambda asked: np.asarray(model.predict(_dense(features[asked])), dtype=np.float64)

    if not len(units.validation) and len(values) > 2:
        model = RidgeCV(alphas=_ALPHAS).fit(known, values)
        return {"alpha": float(model.alpha_)}, predictor(model)
    alphas = (1.0, *(alpha for alpha in _ALPHAS if alpha != 1.0)) if len(units.validation) else (1.0,)
    fits = [({"alpha": alpha}, predictor(Ridge(alpha=alpha).fit(known, values))) for alpha in alphas]
    return choose(task, units.validation, fits)


def spread(found: np.ndarray, present: np.ndarray, n_classes: int) -> np.ndarray:
    """Return probabilities ``(m, n_classes)`` of which only the classes `present` were learnt; others 0."""
    full = np.zeros((len(found), n_classes))
    full[:, present] = found
    return full


def _always(task: Task, label: int) -> Predict:
    return lambda units: spread(np.ones((len(units), 1)), np.array([label]), len(task.classes))


def _dense(features: Features) -> np.ndarray:
    return features.toarray() if sparse.issparse(features) else np.asarray(features)


def _quietly(fit: Callable[..., Any], *arguments: Any) -> Any:
    """Fit; a solver that stops at its last step is as good as any other setting, and validation will tell."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit(*arguments)
