"""Score cards against scikit-learn, resample by resample, and the cases real labels bring."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.metrics as sk

from geneformer_grn._runtime import plain_json
from geneformer_grn.evaluation.label_curves import ranking_curves
from geneformer_grn.evaluation.label_measures import (
    classification_measures,
    value_measures,
    weighted_ranks,
)
from geneformer_grn.evaluation.labels import compare_predictions, score_labels
from geneformer_grn.training.supervision import MISSING, Prediction, Task

CLASSES = ("a", "b", "c", "d")


def some_scores(rng: np.random.Generator, n: int = 200, n_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Truth of all classes but the last, and probabilities with ties."""
    truth = rng.integers(0, n_classes - 1, n)
    scores = rng.dirichlet(np.ones(n_classes), n)
    scores[np.arange(n), truth] += 0.4
    scores = np.round(scores, 1) + 0.01
    return truth, scores / scores.sum(axis=1, keepdims=True)


def by_sklearn(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Repeat each unit as often as it weighs, and ask scikit-learn."""
    rows = np.repeat(np.arange(len(truth)), weights.astype(int))
    truth, scores = truth[rows], scores[rows]
    predicted, labels = scores.argmax(axis=1), np.unique(truth)
    average = {"labels": labels, "average": "macro", "zero_division": 0}
    confidence = scores.max(axis=1)
    bins = np.ceil(np.round(confidence * 10, 9)).clip(1, 10)
    gaps = [
        abs((predicted == truth)[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    one_hot = np.eye(scores.shape[1])[truth]
    return {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.recall_score(truth, predicted, **average),
        "macro_f1": sk.f1_score(truth, predicted, **average),
        "precision": sk.precision_score(truth, predicted, **average),
        "recall": sk.recall_score(truth, predicted, **average),
        "auroc": np.mean([sk.roc_auc_score(truth == k, scores[:, k]) for k in labels]),
        "auprc": np.mean([sk.average_precision_score(truth == k, scores[:, k]) for k in labels]),
        "brier": ((scores - one_hot) ** 2).sum(axis=1).mean(),
        "ece": sum(gaps),
        "quadratic_kappa": sk.cohen_kappa_score(truth, predicted, weights="quadratic"),
        "mae": np.abs(truth - predicted).mean(),
    }


def test_measures_are_those_of_scikit_learn_in_every_resample() -> None:
    rng = np.random.default_rng(0)
    truth, scores = some_scores(rng)
    weights = np.vstack([np.ones(200), rng.multinomial(200, np.full(200, 1 / 200), size=4)]).astype(float)
    found = classification_measures(truth, scores, weights, ordinal=True)
    for row, weight in enumerate(weights):
        expected = by_sklearn(truth, scores, weight)
        assert set(expected) == set(found)
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, abs=1e-12), name


def test_values_are_scored_as_scikit_learn_and_scipy_do() -> None:
    from scipy.stats import rankdata, spearmanr

    rng = np.random.default_rng(1)
    truth = np.round(rng.normal(5, 2, 100), 1)
    values = np.round(truth + rng.normal(0, 2, 100), 1)
    weights = rng.multinomial(100, np.full(100, 0.01), size=3).astype(float)
    found = value_measures(truth, values, weights)
    for row, weight in enumerate(weights):
        units = np.repeat(np.arange(100), weight.astype(int))
        assert found["r2"][row] == pytest.approx(sk.r2_score(truth[units], values[units]))
        assert found["mae"][row] == pytest.approx(sk.mean_absolute_error(truth[units], values[units]))
        assert found["spearman"][row] == pytest.approx(spearmanr(truth[units], values[units])[0])
        np.testing.assert_allclose(weighted_ranks(truth, weights)[row][units], rankdata(truth[units]))
    constant = value_measures(np.ones(5), np.arange(5.0))
    assert np.isnan(constant["r2"][0])
    assert np.isnan(constant["spearman"][0])
    assert constant["mae"][0] == pytest.approx(1.4)


def test_a_card_leaves_out_what_has_no_label_or_no_score_and_counts_it() -> None:
    rng = np.random.default_rng(2)
    truth, scores = some_scores(rng)
    task = Task("type", "cell", "classification", truth.copy(), CLASSES)
    task.values[:10] = MISSING
    scores[10:15] = np.nan
    units = rng.permutation(200)
    card = score_labels(task, Prediction("type", units, scores[units]), n_bootstrap=50)
    assert (card["n_units"], card["n_unlabelled"], card["n_without_score"]) == (185, 10, 5)
    expected = by_sklearn(truth[15:], scores[15:], np.ones(185))
    assert card["macro_f1"] == pytest.approx(expected["macro_f1"])
    assert (
        np.array(card["confusion"]).tolist()
        == sk.confusion_matrix(truth[15:], scores[15:].argmax(axis=1), labels=range(4)).tolist()
    )
    rows = {row["class"]: row for row in card["per_class"]}
    assert rows["a"]["auroc"] == pytest.approx(sk.roc_auc_score(truth[15:] == 0, scores[15:, 0]))
    assert rows["d"]["n"] == 0
    assert np.isnan(rows["d"]["f1"])
    assert sum(row["n"] for row in card["reliability"]) == 185
    json.dumps(plain_json(card), allow_nan=True)


def test_intervals_hold_the_estimate_repeat_and_are_over_groups_where_there_are_enough() -> None:
    rng = np.random.default_rng(3)
    truth, scores = some_scores(rng, 400)
    task, prediction = (
        Task("t", "cell", "classification", truth, CLASSES),
        Prediction("t", np.arange(400), scores),
    )
    donors = np.repeat(np.array([f"d{i}" for i in range(8)], dtype=object), 50)
    over_cells = score_labels(task, prediction, n_bootstrap=300, seed=1)
    over_donors = score_labels(task, prediction, groups=donors, n_bootstrap=300, seed=1)
    assert over_cells["interval_over"] == "units"
    assert over_donors["interval_over"] == "groups"
    again = score_labels(task, prediction, groups=donors, n_bootstrap=300, seed=1)
    assert repr(over_donors) == repr(again)
    for card in (over_cells, over_donors):
        for name in ("accuracy", "macro_f1", "auroc", "brier"):
            low, high = card["intervals"][name]
            assert low < card[name] < high
    # the bootstrap of a mean has the standard error of a mean
    low, high = over_cells["intervals"]["accuracy"]
    p = over_cells["accuracy"]
    assert (high - low) / 2 / 1.96 == pytest.approx(np.sqrt(p * (1 - p) / 400), rel=0.2)
    assert [row["group"] for row in over_donors["per_group"]] == sorted(set(donors))
    first = classification_measures(truth[:50], scores[:50])
    assert over_donors["per_group"][0]["macro_f1"] == pytest.approx(first["macro_f1"][0])
    few = score_labels(task, prediction, groups=np.where(donors < "d4", "x", "y"), n_bootstrap=10)
    assert few["interval_over"] == "units"


def test_donors_that_differ_widen_the_interval() -> None:
    truth = np.zeros(600, dtype=int)
    truth[::2] = 1
    donors = np.repeat(np.arange(6), 100)
    right = np.where(donors < 3, 0.9, 0.1)
    scores = np.column_stack([np.where(truth == 0, right, 1 - right), np.where(truth == 1, right, 1 - right)])
    task, prediction = (
        Task("t", "cell", "classification", truth, ("a", "b")),
        Prediction("t", np.arange(600), scores),
    )
    over_cells = score_labels(task, prediction, n_bootstrap=200)["intervals"]["accuracy"]
    over_donors = score_labels(task, prediction, groups=donors, n_bootstrap=200)["intervals"]["accuracy"]
    assert over_donors[1] - over_donors[0] > 4 * (over_cells[1] - over_cells[0])


def test_two_predictions_are_compared_on_the_same_resamples() -> None:
    rng = np.random.default_rng(4)
    truth, scores = some_scores(rng, 300)
    task = Task("t", "cell", "classification", truth, CLASSES)
    a = Prediction("t", np.arange(300), scores)
    worse = scores.copy()
    worse[:6] = np.roll(worse[:6], 1, axis=1)
    units = rng.permutation(300)[:-10]
    b = Prediction("t", units, worse[units])
    same = compare_predictions(task, a, Prediction("t", units, scores[units]), n_bootstrap=50)
    assert same["n_units"] == 290
    assert all(set(row.values()) == {0.0} for row in same["differences"].values())
    found = compare_predictions(task, a, b, n_bootstrap=200, seed=3)["differences"]["accuracy"]
    kept = np.sort(units)
    expected = np.mean(scores[kept].argmax(1) == truth[kept]) - np.mean(worse[kept].argmax(1) == truth[kept])
    assert found["difference"] == pytest.approx(expected)
    alone = score_labels(task, a, n_bootstrap=200, seed=3)["intervals"]["accuracy"]
    assert found["high"] - found["low"] < 0.6 * (alone[1] - alone[0])
    flipped = compare_predictions(task, b, a, n_bootstrap=200, seed=3)["differences"]["accuracy"]
    assert flipped["low"] == pytest.approx(-found["high"])


def test_one_class_and_one_unit_are_scored_without_warnings() -> None:
    task = Task("t", "cell", "classification", np.zeros(5, dtype=int), ("a", "b"))
    card = score_labels(task, Prediction("t", np.arange(5), np.tile([0.7, 0.3], (5, 1))), n_bootstrap=20)
    assert card["accuracy"] == 1.0
    assert np.isnan(card["auroc"])
    assert np.isnan(card["intervals"]["auroc"]).all()
    one = score_labels(task, Prediction("t", np.array([2]), np.array([[0.2, 0.8]])))
    assert one["accuracy"] == 0.0
    assert one["intervals"] == {}


def test_regression_and_ordinal_cards_hold_their_measures() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=40)
    values[3] = np.nan
    task = Task("age", "cell", "regression", values)
    card = score_labels(task, Prediction("age", np.arange(40), np.nan_to_num(values) + 0.1), n_bootstrap=30)
    assert card["mae"] == pytest.approx(0.1)
    assert card["n_unlabelled"] == 1
    assert "confusion" not in card
    truth, scores = some_scores(rng)
    grades = score_labels(
        Task("stage", "cell", "ordinal", truth, CLASSES), Prediction("stage", np.arange(200), scores)
    )
    assert {"quadratic_kappa", "mae", "macro_f1"} <= set(grades) & set(grades["intervals"])


def test_curves_lead_to_the_areas_they_name() -> None:
    rng = np.random.default_rng(6)
    truth, scores = some_scores(rng)
    curves = ranking_curves(
        Task("t", "cell", "classification", truth, CLASSES), Prediction("t", np.arange(200), scores)
    )
    assert list(curves["class"].unique()) == ["a", "b", "c"]
    for name, rows in curves.groupby("class"):
        area = np.trapezoid(rows["recall"], rows["false_positive_rate"])
        assert area == pytest.approx(rows["auroc"].iloc[0])
        k = CLASSES.index(name)
        precision, recall, _ = sk.precision_recall_curve(truth == k, scores[:, k])
        points = set(zip(rows["recall"].round(9)[1:], rows["precision"].round(9)[1:], strict=True))
        assert points <= set(zip(recall.round(9), precision.round(9), strict=True))


def test_what_cannot_be_scored_is_refused() -> None:
    task = Task("t", "cell", "classification", np.array([0, 1, MISSING]), ("a", "b"))
    good = Prediction("t", np.array([0, 1]), np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match=r"shape \(2, 3\); the task needs \(2, 2\)"):
        score_labels(task, Prediction("t", good.units, np.ones((2, 3))))
    with pytest.raises(ValueError, match="nothing to score for 't': of 1 units 0 have a label"):
        score_labels(task, Prediction("t", np.array([2]), np.full((1, 2), 0.5)))
    with pytest.raises(ValueError, match="holds a unit twice"):
        score_labels(task, Prediction("t", np.array([1, 1]), np.full((2, 2), 0.5)))
    with pytest.raises(ValueError, match="2 group labels were given for 3 units"):
        score_labels(task, good, groups=np.array(["x", "y"]))
    with pytest.raises(ValueError, match="1 scored units of 't' have no group label"):
        score_labels(task, good, groups=np.array(["x", None, "y"], dtype=object))
    with pytest.raises(ValueError, match="share no scored unit"):
        compare_predictions(
            task,
            Prediction("t", np.array([0]), good.scores[:1]),
            Prediction("t", np.array([1]), good.scores[:1]),
        )
