"""Heads fitted to pretrained states, against scikit-learn; training that goes on from them."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, Ridge

from geneformer_grn.embedding import EmbedSettings, embed_cells
from geneformer_grn.model.heads import inference_batches
from geneformer_grn.training import finetune_batches, finetune_fit, finetune_loop
from geneformer_grn.training.finetune import finetune
from geneformer_grn.training.finetune_settings import FinetuneModel, FinetuneOptim, FinetuneSettings
from geneformer_grn.training.supervision import MISSING, Task

NOBODY = np.array([], dtype=np.int64)


def settings(mode="frozen", **changes) -> FinetuneSettings:
    of_model = {key: changes.pop(key) for key in list(changes) if key in FinetuneModel.model_fields}
    model = FinetuneModel(mode=mode, **of_model)
    return FinetuneSettings(model=model, optim=FinetuneOptim(token_budget=800, min_steps=0, **changes))


@pytest.fixture
def only(monkeypatch):
    """Return a function that leaves one penalty to choose from."""

    def leave(c: float, scale: str = "each") -> None:
        monkeypatch.setattr(finetune_fit, "_PENALTIES", (c,))
        monkeypatch.setattr(finetune_fit, "_USUAL", c)
        monkeypatch.setattr(finetune_fit, "_SCALES", (scale,))

    return leave


@pytest.fixture(scope="module")
def states(tiny_encoder, ranked) -> np.ndarray:
    return embed_cells(tiny_encoder, ranked, EmbedSettings(encoder_layer=0)).astype(np.float64)


def scaled(states: np.ndarray, train: np.ndarray, scale: str) -> np.ndarray:
    deviation = states[train].std(axis=0)
    return (states - states[train].mean(axis=0)) / (deviation if scale == "each" else deviation.max())


@pytest.mark.parametrize("scale", ["each", "common"])
@pytest.mark.parametrize("c", [0.01, 1.0])
@pytest.mark.parametrize("weighed", ["none", "balanced"])
def test_classes_are_logistic_regression(tiny_encoder, ranked, splits, states, only, scale, c, weighed):
    only(c, scale)
    labels = np.repeat([0, 1, 2, 2], 20)
    labels[70:] = MISSING
    task = Task("kind", "cell", "classification", labels, ("A", "B", "C"))
    result = finetune(tiny_encoder, ranked, [task], splits, settings(class_weights=weighed))
    train = splits["cell"].train[labels[splits["cell"].train] != MISSING]
    features = scaled(states, train, scale)
    oracle = LogisticRegression(
        C=c, class_weight=None if weighed == "none" else "balanced", tol=1e-9, max_iter=10_000
    ).fit(features[train], labels[train])
    ours = result.model.predict(ranked)["kind"]
    np.testing.assert_allclose(ours, oracle.predict_proba(features), atol=2e-4)
    assert result.fingerprint_before == result.fingerprint_after
    assert len(result.history) == 1
    assert result.history[0]["kind C"] == c
    assert result.history[0]["kind scale"] == scale
    assert result.best_epoch == 0


def test_values_are_ridge(tiny_encoder, ranked, tasks, splits, states, only):
    only(0.1)
    result = finetune(tiny_encoder, ranked, [tasks["age"]], splits, settings())
    train = splits["cell"].train
    features = scaled(states, train, "each")
    values = tasks["age"].values
    standard = (values[train] - values[train].mean()) / values[train].std()
    oracle = Ridge(alpha=1 / (2 * 0.1)).fit(features[train], standard)
    expected = oracle.predict(features) * values[train].std() + values[train].mean()
    np.testing.assert_allclose(result.model.predict(ranked)["age"], expected, atol=5e-3)


def test_grades_are_an_ordered_logit(tiny_encoder, ranked, splits, states, only):
    only(1.0)
    grades = np.repeat([0, 1, 2, 1], 20)
    task = Task("grade", "cell", "ordinal", grades, ("low", "middle", "high"))
    result = finetune(tiny_encoder, ranked, [task], splits, settings())
    train = splits["cell"].train
    features = scaled(states, train, "each")

    def probabilities(place: np.ndarray, which: np.ndarray) -> np.ndarray:
        edges = np.array([place[0], place[0] + np.exp(place[1])])
        below = 1 / (1 + np.exp(-(edges[None] - (features[which] @ place[2:])[:, None])))
        return np.diff(np.column_stack([np.zeros(len(which)), below, np.ones(len(which))]), axis=1)

    def loss(place: np.ndarray) -> float:
        of_truth = probabilities(place, train)[np.arange(len(train)), grades[train]]
        return float(-np.log(of_truth).sum() + (place[2:] ** 2).sum() / 2)

    start = np.zeros(2 + features.shape[1])
    oracle = minimize(loss, start, method="L-BFGS-B", options={"maxiter": 2000, "maxfun": 10**6})
    ours = result.model.predict(ranked)["grade"]
    np.testing.assert_allclose(ours, probabilities(oracle.x, np.arange(80)), atol=2e-3)


@pytest.mark.parametrize("weighed", ["none", "balanced"])
def test_genes_count_once_by_their_mean_state(
    tiny_encoder, ranked, tasks, splits, tiny_vocabulary, only, weighed
):
    only(1.0)
    task, train = tasks["role"], splits["gene"].train[:-3]  # classes of unlike size
    split = replace(splits["gene"], train=train)
    result = finetune(tiny_encoder, ranked, [task], {"gene": split}, settings(class_weights=weighed))
    held: dict[int, list[np.ndarray]] = {int(token): [] for token in task.gene_tokens}
    one_by_one = inference_batches(
        ranked, tiny_vocabulary, token_budget=1, max_length=tiny_vocabulary.max_length
    )
    for batch in one_by_one:
        hidden = tiny_encoder.hidden_states(batch, encoder_layer=0).numpy().astype(np.float64)
        for token, state in zip(batch.input_ids[0].tolist(), hidden, strict=True):
            if token in held:
                held[token].append(state)
    means = np.array([np.mean(held[int(token)], axis=0) for token in task.gene_tokens[train]])
    middle, deviation = means.mean(axis=0), means.std(axis=0)
    # one row of weights instead of one for either class: the same penalty is twice the C
    oracle = LogisticRegression(
        C=2.0, class_weight=None if weighed == "none" else "balanced", tol=1e-9, max_iter=10_000
    ).fit((means - middle) / deviation, task.values[train])
    ours = result.model.predict(ranked)["role"]
    for token, states in held.items():
        if not states:  # in no cell's input: nothing is said of it
            assert np.isnan(ours[token]).all()
            continue
        expected = oracle.predict_proba((np.array(states) - middle) / deviation).mean(axis=0)
        np.testing.assert_allclose(ours[token], expected, atol=5e-4)


def test_validation_chooses_the_penalty(tiny_encoder, ranked, splits, monkeypatch):
    """Labels of noise: the strongest penalty has the smallest loss on cells that were not learnt from."""
    noise = np.random.default_rng(8).integers(0, 2, 80)
    task = Task("noise", "cell", "classification", noise, ("A", "B"))
    by_loss = finetune(tiny_encoder, ranked, [task], splits, settings(stop_on="loss"))
    assert by_loss.history[0]["noise C"] == min(finetune_fit._PENALTIES)
    alone = {"cell": replace(splits["cell"], validation=NOBODY)}
    assert finetune(tiny_encoder, ranked, [task], alone, settings()).history[0]["noise C"] == 1.0


@pytest.mark.parametrize(
    ("scores", "losses", "chosen"),
    [
        ([0.70, 0.90, 0.895], [0.1, 0.5, 0.4], 2),  # within a hundredth: the smaller loss
        ([0.70, 0.90, 0.88], [0.1, 0.5, 0.4], 1),
        ([float("nan")] * 3, [0.3, 0.2, 0.4], 1),
    ],
)
def test_of_equal_scores_the_smaller_loss_decides(scores, losses, chosen):
    fits = [finetune_fit.FittedHead({}, c, "each", 0.0) for c in (0.01, 0.1, 1.0)]
    judged = [
        (fit, {"score": score, "loss": loss}) for fit, score, loss in zip(fits, scores, losses, strict=True)
    ]
    assert finetune_fit._chosen(judged, FinetuneOptim()) is fits[chosen]
    by_loss = finetune_fit._chosen(judged, FinetuneOptim(stop_on="loss"))
    assert by_loss is fits[int(np.argmin(losses))]


def test_a_fit_has_no_seed_and_tasks_do_not_touch_each_other(tiny_encoder, ranked, tasks, splits):
    both = [tasks["kind"], tasks["age"]]
    one, two = (finetune(tiny_encoder, ranked, both, splits, settings(), seed=seed) for seed in (1, 2))
    alone = finetune(tiny_encoder, ranked, both[1:], splits, settings(task_weighting="uncertainty"))
    ours = one.model.predict(ranked)
    for name in ("kind", "age"):
        np.testing.assert_array_equal(ours[name], two.model.predict(ranked)[name])
    np.testing.assert_allclose(ours["age"], alone.model.predict(ranked)["age"], rtol=1e-5)


def test_layers_that_learn_begin_with_the_fitted_heads(tiny_encoder, ranked, tasks, splits):
    frozen = finetune(tiny_encoder, ranked, [tasks["kind"]], splits, settings())
    rates = {"lr": 1e-4, "head_lr": 1e-4, "epochs": 2, "patience": None, "dropout": 0.0}
    result = finetune(
        tiny_encoder, ranked, [tasks["kind"]], splits, settings("full", heads="fitted", **rates)
    )
    assert [row["epoch"] for row in result.history] == [0, 1, 2]
    assert result.history[0] == frozen.history[0]
    drawn = finetune(tiny_encoder, ranked, [tasks["kind"]], splits, settings("full", **rates))
    assert result.history[1]["loss"] < drawn.history[0]["loss"]


def test_what_training_spoils_is_not_kept(tiny_encoder, ranked, tasks, splits):
    frozen = finetune(tiny_encoder, ranked, [tasks["age"]], splits, settings())
    spoilt = settings("full", heads="fitted", lr=1e-9, head_lr=10.0, schedule="constant", epochs=2)
    result = finetune(tiny_encoder, ranked, [tasks["age"]], splits, spoilt)
    assert result.best_epoch == 0
    expected = frozen.model.predict(ranked)["age"]
    np.testing.assert_allclose(result.model.predict(ranked)["age"], expected, atol=1e-3)


@pytest.mark.parametrize("mode", ["frozen", "full", "lora"])
def test_a_killed_run_goes_on_from_its_fit(tiny_encoder, ranked, tasks, splits, mode, tmp_path, monkeypatch):
    given = (tiny_encoder, ranked, [tasks["kind"]], splits, settings(mode, heads="fitted", epochs=2))
    whole = finetune(*given)
    real, calls = finetune_loop.save_progress, []

    def dies(*arguments, **named):
        real(*arguments, **named)
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune_loop, "save_progress", dies)
    with pytest.raises(KeyboardInterrupt):
        finetune(*given, out=tmp_path)
    monkeypatch.setattr(finetune_loop, "save_progress", real)
    monkeypatch.setattr(finetune_loop, "fit_heads", lambda *_: pytest.fail("fitted twice"))
    again = finetune(*given, out=tmp_path, resume=True)
    assert again.history == whole.history
    ours, theirs = (one.model.predict(ranked)["kind"] for one in (again, whole))
    np.testing.assert_array_equal(ours, theirs)


def test_what_does_not_fit_in_memory_is_learnt_by_steps(
    tiny_encoder, ranked, tasks, splits, monkeypatch, caplog
):
    monkeypatch.setattr(finetune_batches, "_MOST_BYTES", 0)
    with caplog.at_level(logging.WARNING):
        result = finetune(tiny_encoder, ranked, [tasks["kind"]], splits, settings(epochs=2))
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert "heads learn by steps" in caplog.text


def test_balanced_sampling_weighs_rare_classes_more(tiny_encoder, ranked, splits, only):
    only(0.01)
    labels = np.zeros(80, dtype=np.int64)
    labels[:12] = 1
    task = Task("kind", "cell", "classification", labels, ("common", "rare"))
    plain, balanced = (
        finetune(tiny_encoder, ranked, [task], splits, settings(sampling=sampling)).model.predict(ranked)[
            "kind"
        ]
        for sampling in ("random", "balanced")
    )
    assert balanced[:, 1].mean() > plain[:, 1].mean() + 0.1


def test_labels_without_a_number_end_the_fit(tiny_encoder, ranked, tasks, splits, monkeypatch):
    real = finetune_fit.unit_losses
    monkeypatch.setattr(finetune_fit, "unit_losses", lambda *given: real(*given) * torch.nan)
    with pytest.raises(ValueError, match="loss of task 'kind' is not finite"):
        finetune(tiny_encoder, ranked, [tasks["kind"]], splits, settings())


def test_heads_that_cannot_be_fitted_are_told(tiny_encoder, ranked, tasks, splits):
    with pytest.raises(ValueError, match="needs pooling 'mean', or set heads to 'steps'"):
        FinetuneModel(pooling="cls", heads="fitted")
    by_steps = finetune(tiny_encoder, ranked, [tasks["kind"]], splits, settings(pooling="cls", epochs=1))
    assert by_steps.history[0]["epoch"] == 1
