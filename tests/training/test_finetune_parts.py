"""Losses, weights, batches and figures of fine-tuning against formulas written down again."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import cohen_kappa_score, f1_score

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.model.heads import HeadSpec, TaskHead
from geneformer_grn.training.finetune_data import epochs_needed
from geneformer_grn.training.finetune_lessons import make_lessons
from geneformer_grn.training.finetune_loss import joined_loss, unit_losses
from geneformer_grn.training.finetune_network import layer_of
from geneformer_grn.training.finetune_settings import FinetuneModel, FinetuneOptim, FinetuneSettings
from geneformer_grn.training.finetune_state import Progress
from geneformer_grn.training.finetune_validation import Validation, macro_f1, quadratic_kappa, validate
from geneformer_grn.training.supervision import MISSING, Split, Task

NONE = np.array([], dtype=np.int64)


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary) -> RankedCells:
    """Twelve cells of 5 to 40 genes; no gene comes twice in a cell."""
    generator = np.random.default_rng(4)
    lengths = generator.integers(5, 41, 12)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    tokens = np.concatenate([generator.choice(genes, length, replace=False) for length in lengths])
    return RankedCells(tokens.astype(np.uint16), np.concatenate([[0], np.cumsum(lengths)]), np.ones(12))


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True)


def test_losses_of_classes_grades_and_values():
    generator = np.random.default_rng(0)
    logits, targets = generator.normal(size=(6, 4)) * 3, np.array([0, 1, 2, 3, 1, 0])
    head = TaskHead(HeadSpec("kind", "cell", "classification", tuple("abcd")), 3)
    right = softmax(logits)[np.arange(6), targets]
    given = torch.from_numpy(logits).float(), torch.from_numpy(targets)
    np.testing.assert_allclose(unit_losses(head, *given, FinetuneOptim()), -np.log(right), rtol=1e-5)
    focal = unit_losses(head, *given, FinetuneOptim(loss="focal", gamma=1.5))
    np.testing.assert_allclose(focal, -((1 - right) ** 1.5) * np.log(right), rtol=1e-4)

    grades = TaskHead(HeadSpec("grade", "cell", "ordinal", tuple("abcd")), 3)
    grades.start_at(np.array([0, 1, 1, 2, 3, 3]))
    places = torch.from_numpy(logits[:, :1]).float()
    shares = grades.probabilities(places.double()).detach().numpy()[np.arange(6), targets]
    found = unit_losses(grades, places, given[1], FinetuneOptim()).detach()
    np.testing.assert_allclose(found, -np.log(shares), rtol=1e-4)
    far = unit_losses(grades, torch.tensor([[80.0], [-80.0]]), torch.tensor([0, 3]), FinetuneOptim())
    assert torch.isfinite(far).all(), "probabilities that are 0 in float32"

    values = TaskHead(HeadSpec("age", "cell", "regression"), 3)
    found = unit_losses(values, torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 0.5]), FinetuneOptim())
    np.testing.assert_allclose(found, [1.0, 6.25])


def test_several_losses_are_joined_by_weights_or_by_what_is_learnt_of_their_noise():
    specs = (HeadSpec("kind", "cell", "classification", ("a", "b")), HeadSpec("age", "cell", "regression"))
    losses, factors = torch.tensor([0.7, 2.0]), torch.tensor([1.0, 3.0])
    variances = torch.tensor([0.4, -1.0])
    shares = torch.tensor([0.5, 0.25])
    given = {"factors": factors, "log_variances": variances, "shares": shares}
    assert joined_loss(losses, specs, weighting="fixed", **given).item() == pytest.approx(0.7 + 6.0)
    # Kendall, Gal and Cipolla (2018): L / s^2 + log s of classes, L / 2 s^2 + log s of values.
    s = np.exp(variances.numpy() / 2)
    expected = 0.7 / s[0] ** 2 + 0.5 * np.log(s[0]) + 3 * (2.0 / (2 * s[1] ** 2) + 0.25 * np.log(s[1]))
    found = joined_loss(losses, specs, weighting="uncertainty", **given)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_class_weights_let_every_class_weigh_the_same(ranked, tiny_vocabulary):
    values = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, MISSING, 2])
    split = {"cell": Split(np.arange(11), NONE, np.array([11]), "first")}
    task = Task("kind", "cell", "classification", values, ("a", "b", "c", "never"))
    chosen = FinetuneSettings(optim=FinetuneOptim(class_weights="balanced"))
    lesson = make_lessons(ranked, [task], split, vocabulary=tiny_vocabulary, settings=chosen).lessons[0]
    weights = lesson.weights.numpy()
    np.testing.assert_allclose([weights[values == label].sum() for label in (0, 1)], [10 / 3] * 2, rtol=1e-6)
    assert weights[9] == pytest.approx(10 / 3)
    assert weights[10] == weights[11] == 0, "no label, and not in the training part"
    np.testing.assert_array_equal(lesson.units, np.arange(10))


def test_of_genes_only_tokens_of_the_training_part_are_asked(ranked, tiny_vocabulary):
    genes = np.arange(20) + tiny_vocabulary.n_special
    task = Task("score", "gene", "regression", np.arange(20.0), (), genes)
    splits = {"gene": Split(np.arange(0, 20, 2), np.array([1, 3]), np.array([5]), "even")}
    chosen = FinetuneSettings(model=FinetuneModel(max_length=17))
    lessons = make_lessons(ranked, [task], splits, vocabulary=tiny_vocabulary, settings=chosen)
    lesson = lessons.lessons[0]
    read = [ranked.cell(cell)[:15] for cell in range(12)]  # 17 less <cls> and <eos>
    held = np.unique(np.concatenate(read))
    trained = [gene for gene in genes[::2] if gene in held]
    assert np.flatnonzero(lesson.weights.numpy()).tolist() == trained
    expected = [np.isin(tokens, trained).sum() for tokens in read]
    np.testing.assert_array_equal(lesson.per_cell, expected)
    np.testing.assert_array_equal(lessons.cells, np.flatnonzero(expected))
    values = task.values[np.isin(genes, trained)]
    np.testing.assert_allclose(lesson.targets[trained], (values - values.mean()) / values.std(), atol=1e-6)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_out_every_batch_and_agree_on_the_divisor(ranked, tiny_vocabulary, world_size):
    values = np.array([0, 1] * 5 + [MISSING] * 2)
    task = Task("kind", "cell", "classification", values, ("a", "b"))
    splits = {"cell": Split(np.arange(12), NONE, NONE, "all")}
    optim = FinetuneOptim(token_budget=60, accumulation=2)
    lessons = make_lessons(
        ranked, [task], splits, vocabulary=tiny_vocabulary, settings=FinetuneSettings(optim=optim)
    )
    plan = lessons.plan(optim, seed=1, epoch=0)
    assert sorted(np.concatenate(plan)) == list(range(10)), "unlabelled cells teach nothing"
    assert [len(batch) for batch in plan] == [len(batch) for batch in lessons.plan(optim, seed=1, epoch=0)]
    steps = [list(lessons.steps(plan, optim, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(one) for one in steps}) == 1
    seen = []
    for together in zip(*steps, strict=True):
        assert len({len(step.batches) for step in together}) == 1, "all do as many backward passes"
        cells = [cell for step in together for batch in step.batches if batch is not None for cell in batch]
        assert all(step.divisors == [len(cells)] and step.n_cells == len(cells) for step in together)
        seen += cells
    assert sorted(seen) == list(range(10))


def test_balanced_sampling_draws_classes_equally_often(ranked, tiny_vocabulary):
    values = np.array([0] * 10 + [1] * 2)
    task = Task("kind", "cell", "classification", values, ("a", "b"))
    optim = FinetuneOptim(sampling="balanced", token_budget=200)
    lessons = make_lessons(
        ranked, [task], {"cell": Split(np.arange(12), NONE, NONE, "all")}, vocabulary=tiny_vocabulary,
        settings=FinetuneSettings(optim=optim),
    )  # fmt: skip
    drawn = np.concatenate([cell for epoch in range(40) for cell in lessons.plan(optim, seed=0, epoch=epoch)])
    assert np.mean(values[drawn]) == pytest.approx(0.5, abs=0.05)
    assert len(drawn) == pytest.approx(12 * 40, rel=0.05)


def test_small_sets_get_more_epochs():
    assert epochs_needed(FinetuneOptim(epochs=5, min_steps=100), 50) == 5
    assert epochs_needed(FinetuneOptim(epochs=5, min_steps=100), 3) == 34
    assert epochs_needed(FinetuneOptim(epochs=5), 100) == 5
    assert epochs_needed(FinetuneOptim(epochs=5), 100, cheap=True) == 10


def test_figures_equal_those_of_scikit_learn():
    generator = np.random.default_rng(7)
    truth, predicted = generator.integers(0, 4, 200), generator.integers(0, 5, 200)
    assert macro_f1(truth, predicted) == pytest.approx(
        f1_score(truth, predicted, average="macro", labels=np.unique(truth))
    )
    assert quadratic_kappa(truth, predicted) == pytest.approx(
        cohen_kappa_score(truth, predicted, weights="quadratic")
    )
    assert np.isnan(quadratic_kappa(np.ones(3), np.ones(3)))


def test_rows_without_a_prediction_are_left_out_of_the_figures():
    task = Task("age", "cell", "regression", np.array([1.0, 2.0, 3.0, 9.0]))
    units = np.arange(4)
    found = validate({"age": np.array([1.0, 2.5, 3.0, np.nan])}, {"age": (task, units)}, {"age": 2.0}, {})
    assert found.score == pytest.approx(1 - 0.25 / 2.0)
    assert found.loss == pytest.approx(0.25 / 3 / 4)


def test_classes_that_were_not_taught_count_in_the_score_and_not_in_the_loss():
    task = Task("kind", "cell", "classification", np.array([0, 1, 2, 2]), ("A", "B", "C"))
    said = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.5, 0.5, 0.0], [0.4, 0.6, 0.0]])
    given = {"kind": said}, {"kind": (task, np.arange(4))}, {}
    found, blind = validate(*given, {"kind": np.array([0, 1])}), validate(*given, {"kind": np.arange(3)})
    assert found.loss == pytest.approx(-np.log([0.9, 0.8]).mean())
    assert blind.loss > 10
    assert found.score == blind.score < 1


def test_the_best_weights_are_kept_until_patience_ends():
    chosen = FinetuneOptim(patience=2)
    progress = Progress()
    for epoch, (score, loss) in enumerate([(0.5, 0.9), (0.7, 0.8), (0.7, 0.6), (0.6, 0.1), (0.7, 0.6)], 1):
        assert not progress.ended
        progress.epoch = epoch
        progress.take(Validation(score, loss, {}), lambda: {"epoch": torch.tensor(progress.epoch)}, chosen)
    assert progress.ended
    assert progress.best_epoch == 3, "of equal scores the lower loss"
    assert int(progress.best["epoch"]) == 3


def test_a_weight_knows_its_layer():
    assert layer_of("bert.encoder.layer.3.output.dense.weight", 6) == 3
    assert layer_of("embeddings.LayerNorm.weight", 6) == -1


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValidationError, match="quantised layers cannot learn"):
        FinetuneModel(quantised="4bit", mode="full")
    with pytest.raises(ValidationError, match="learning_rate"):
        FinetuneOptim(learning_rate=1e-3)


def test_settings_are_read_without_torch():
    program = (
        "import sys; import geneformer_grn.training.finetune_settings; "
        "sys.exit(bool({'torch', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_hidden_genes_are_drawn_from_the_key_and_keep_their_order(ranked, tiny_vocabulary):
    task = Task("kind", "cell", "classification", np.arange(12) % 2, ("a", "b"))
    splits = {"cell": Split(np.arange(12), NONE, NONE, "all")}
    lessons = make_lessons(ranked, [task], splits, vocabulary=tiny_vocabulary, settings=FinetuneSettings())
    cells = np.arange(12)
    batch = lessons.packed(cells, dropout=0.4, key=(0, 2, 1, 3))
    again = lessons.packed(cells, dropout=0.4, key=(0, 2, 1, 3))
    other = lessons.packed(cells, dropout=0.4, key=(0, 2, 1, 4))
    assert torch.equal(batch.input_ids, again.input_ids)
    assert not torch.equal(batch.cu_seqlens, other.cu_seqlens)
    kept = 0
    for cell, (start, stop) in enumerate(zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)):
        whole = ranked.cell(cell).tolist()
        genes = [token for token in batch.input_ids[0, start:stop].tolist() if token in whole]
        places = [whole.index(token) for token in genes]
        assert places == sorted(places)
        assert genes
        kept += len(genes)
    assert kept / len(ranked.tokens) == pytest.approx(0.6, abs=0.12)
    empty = lessons.packed(cells, dropout=0.999, key=(1,))
    assert bool((empty.cu_seqlens.diff() > tiny_vocabulary.n_wrapping).all()), "a cell keeps a gene"


def test_genes_that_are_labelled_may_not_be_hidden(ranked, tiny_vocabulary):
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    task = Task("role", "gene", "classification", genes % 2, ("a", "b"), gene_tokens=genes)
    chosen = FinetuneSettings(optim=FinetuneOptim(gene_dropout=0.2))
    with pytest.raises(ValueError, match="gene_dropout would hide"):
        make_lessons(
            ranked, [task], {"gene": Split(np.arange(len(genes)), NONE, NONE, "all")},
            vocabulary=tiny_vocabulary, settings=chosen,
        )  # fmt: skip
