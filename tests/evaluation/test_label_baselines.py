"""Baselines find planted classes, learn nothing from rows they may not see, and stand odd splits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.ranking import RankedCells, rank_cells
from geneformer_grn.evaluation import label_features
from geneformer_grn.evaluation.gene_baselines import (
    GENE_BASELINES,
    coexpression_features,
    expression_features,
)
from geneformer_grn.evaluation.label_baselines import CELL_BASELINES
from geneformer_grn.evaluation.label_data import LabelData, choose, validation_score, without_gaps
from geneformer_grn.evaluation.label_features import (
    centred,
    expression_components,
    standardised,
    variable_genes,
)
from geneformer_grn.training.supervision import MISSING, Prediction, Split, Task

FAST = (
    "hvg_pca_logistic", "l1_logistic", "mlp", "denoising_autoencoder", "linear_probe",
    "components_and_states",
)  # fmt: skip
ON_TOKENS = ("cnn", "bilstm")
SPLIT = Split(np.r_[0:24, 40:64], np.r_[24:30, 64:70], np.r_[30:40, 70:80], "as written")


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of few steps: the planted classes are easy."""
    monkeypatch.setattr("geneformer_grn.evaluation.small_networks._STEPS", 6)


@pytest.fixture(scope="module")
def data(tiny_adata, tiny_vocabulary, tiny_encoder) -> LabelData:
    counts = read_counts(tiny_adata, tiny_vocabulary)
    ranked = rank_cells(counts, tiny_vocabulary)
    return LabelData(counts=counts, ranked=ranked, vocabulary=tiny_vocabulary, encoder=tiny_encoder)


@pytest.fixture(scope="module")
def task() -> Task:
    return Task("type", "cell", "classification", np.repeat([0, 1], 40), ("A", "B"))


def shuffled_test(data: LabelData, task: Task) -> tuple[LabelData, Task]:
    """The same training and validation cells; counts, tokens and labels of the test cells are others."""
    order = np.arange(80)
    order[SPLIT.test] = SPLIT.test[::-1]
    matrix = data.counts.matrix[order]
    factor = np.ones(80)
    factor[SPLIT.test] = 3.0
    matrix = sparse.csr_matrix(sparse.diags(factor) @ matrix.astype(np.float64)).astype(np.float32)
    counts = replace(data.counts, matrix=matrix)
    cells = [data.ranked.cell(i) for i in order]
    ranked = RankedCells(
        np.concatenate(cells), np.r_[0, np.cumsum([len(cell) for cell in cells])], data.ranked.n_counts
    )
    labels = task.values.copy()
    labels[SPLIT.test] = labels[SPLIT.test][::-1]
    return replace(data, counts=counts, ranked=ranked, kept={}), replace(task, values=labels)


def test_rivals_read_no_more_of_a_cell_than_the_model(data, task, tiny_encoder) -> None:
    """What follows behind the model's longest input changes no baseline on ranked genes."""
    from geneformer_grn.embedding import EmbedSettings, embed_cells, embed_genes
    from geneformer_grn.training.finetune_settings import FinetuneModel, FinetuneSettings

    longest = 12
    settings = FinetuneSettings(model=FinetuneModel(max_length=longest))
    cells = [data.ranked.cell(i)[: longest - data.vocabulary.n_wrapping] for i in range(80)]
    offsets = np.r_[0, np.cumsum([len(cell) for cell in cells])]
    by_hand = RankedCells(np.concatenate(cells), offsets, data.ranked.n_counts)
    assert offsets[-1] < len(data.ranked.tokens)
    short = replace(data, settings=settings, kept={})
    how = EmbedSettings(encoder_layer=-1)
    assert np.array_equal(short.cell_embeddings(-1), embed_cells(tiny_encoder, by_hand, how))
    genes = short.gene_embeddings(-1), embed_genes(tiny_encoder, by_hand, how)
    assert np.array_equal(*genes, equal_nan=True)
    cnn = CELL_BASELINES["cnn"]
    scores = [cnn(one, task, SPLIT, seed=0).scores for one in (short, replace(data, ranked=by_hand))]
    assert np.array_equal(*scores)


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in ON_TOKENS)])
def test_planted_classes_are_found_and_nothing_is_learnt_from_test_cells(name, data, task) -> None:
    baseline = CELL_BASELINES[name]
    found = baseline(data, task, SPLIT, seed=0)
    assert found.units.tolist() == SPLIT.test.tolist()
    np.testing.assert_allclose(found.scores.sum(axis=1), 1)
    # the states of a random encoder tell less than the genes do
    enough = 0.6 if name == "linear_probe" else 0.9
    assert (found.scores.argmax(axis=1) == task.values[SPLIT.test]).mean() >= enough
    assert found.details["seconds"] > 0
    again = baseline(data, task, SPLIT, seed=0, units=np.r_[0:24])
    others = baseline(*shuffled_test(data, task), SPLIT, seed=0, units=np.r_[0:24])
    assert again.details["settings"] == others.details["settings"]
    np.testing.assert_array_equal(again.scores, others.scores)


def test_every_baseline_repeats_with_its_seed_and_the_majority_says_the_shares(data, task) -> None:
    first = CELL_BASELINES["mlp"](data, task, SPLIT, seed=3)
    np.testing.assert_array_equal(first.scores, CELL_BASELINES["mlp"](data, task, SPLIT, seed=3).scores)
    assert not np.array_equal(first.scores, CELL_BASELINES["mlp"](data, task, SPLIT, seed=4).scores)
    uneven = replace(SPLIT, train=np.r_[0:6, 40:42])
    np.testing.assert_allclose(CELL_BASELINES["majority"](data, task, uneven, seed=0).scores[0], [0.75, 0.25])


@pytest.mark.parametrize(
    "name", ["hvg_pca_logistic", "l1_logistic", "mlp", "linear_probe", "components_and_states", "majority"]
)
def test_odd_splits_are_stood(name, data, task) -> None:
    baseline = CELL_BASELINES[name]
    three = replace(task, classes=("A", "B", "C"))
    few = Split(np.array([0, 40]), np.empty(0, dtype=np.int64), SPLIT.test, "one a class, none to choose by")
    found = baseline(data, three, few, seed=0)
    np.testing.assert_allclose(found.scores.sum(axis=1), 1)
    assert (found.scores[:, 2] == 0).all()
    one = baseline(data, three, replace(SPLIT, train=np.r_[40:50]), seed=0)
    np.testing.assert_array_equal(one.scores, np.tile([0.0, 1.0, 0.0], (20, 1)))
    partly = task.values.copy()
    partly[np.r_[0:20, 24:28, 70]] = MISSING
    assert not np.isnan(baseline(data, replace(task, values=partly), SPLIT, seed=0).scores).any()
    with pytest.raises(ValueError, match="none of the 1 training units has a label of 'type'"):
        baseline(data, replace(task, values=partly), replace(SPLIT, train=np.array([0])), seed=0)


@pytest.mark.parametrize(
    "name", ["ridge", "hvg_pca_ridge", "mlp", "linear_probe", "components_and_states", "mean"]
)
def test_values_are_learnt(name, data) -> None:
    ages = np.repeat([20.0, 60.0], 40) + np.random.default_rng(0).normal(0, 2, 80)
    ages[5] = np.nan
    task = Task("age", "cell", "regression", ages)
    error = np.abs(CELL_BASELINES[name](data, task, SPLIT, seed=0).scores - ages[SPLIT.test]).mean()
    assert error > 19 if name == "mean" else error < (18 if name == "linear_probe" else 12)
    blind = replace(SPLIT, validation=np.empty(0, dtype=np.int64))
    assert np.isfinite(CELL_BASELINES[name](data, task, blind, seed=0).scores).all()


def test_cells_without_labels_may_be_looked_at_but_not_those_of_test(data, task) -> None:
    few = replace(SPLIT, train=np.array([0, 40]))
    withheld = np.setdiff1d(SPLIT.train, few.train)
    alone = CELL_BASELINES["hvg_pca_logistic"](data, task, few, seed=0)
    helped = CELL_BASELINES["hvg_pca_logistic"](replace(data, unlabelled=withheld), task, few, seed=0)
    assert not np.array_equal(alone.scores, helped.scores)
    with pytest.raises(ValueError, match="also cells of validation or test"):
        CELL_BASELINES["l1_logistic"](replace(data, unlabelled=SPLIT.test[:1]), task, few, seed=0)


def test_a_unit_without_a_score_has_the_shares_of_training(task) -> None:
    scores = np.array([[0.9, 0.1], [np.nan, np.nan]])
    few = replace(SPLIT, train=np.r_[0:3, 40])
    found = without_gaps(Prediction("type", np.array([30, 70]), scores), task, few)
    np.testing.assert_allclose(found.scores, [[0.9, 0.1], [0.75, 0.25]])
    assert found.details["n_without_score"] == 1
    age = Task("age", "cell", "regression", np.r_[np.full(79, 2.0), np.nan])
    assert without_gaps(Prediction("age", np.array([30]), np.array([np.nan])), age, few).scores.tolist() == [
        2.0
    ]


def test_features_are_those_of_the_units_given(data) -> None:
    features = np.random.default_rng(0).normal(3, 2, (50, 6))
    features[:, 5] = np.where(np.arange(50) < 20, 1.0, 7.0)
    scaled = standardised(features, np.arange(20))
    np.testing.assert_allclose(scaled[:20, :5].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled[:20, :5].std(axis=0), 1, rtol=1e-5)
    assert (scaled[:, 5] == 0).all()
    seen = np.arange(30)
    assert variable_genes(data.log, seen).tolist() == np.flatnonzero(data.log[seen].getnnz(axis=0)).tolist()
    assert len(variable_genes(data.log, seen, n=10)) == 10


def test_variable_genes_are_variable_for_their_mean() -> None:
    rng = np.random.default_rng(0)
    mean = np.linspace(1, 6, 200)
    counts = rng.poisson(mean, (300, 200)).astype(float)
    chosen = np.arange(5, 200, 20)
    counts[:, chosen] = rng.poisson(rng.gamma(0.5, mean[chosen] / 0.5, (300, len(chosen))))
    found = variable_genes(sparse.csr_matrix(np.log1p(counts)), np.arange(300), n=20)
    assert set(chosen) <= set(found)


def test_the_probe_needs_a_model_and_scvi_its_extra(data, task) -> None:
    for name in ("linear_probe", "components_and_states"):
        with pytest.raises(ValueError, match="this baseline needs a pretrained model"):
            CELL_BASELINES[name](replace(data, encoder=None, kept={}), task, SPLIT, seed=0)
    with pytest.raises(ValueError, match="serves regression, and task 'type' is of kind classification"):
        CELL_BASELINES["ridge"](data, task, SPLIT, seed=0)
    try:
        import scvi  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ModuleNotFoundError, match=r'pip install "geneformer-grn\[scvi\]"'):
            CELL_BASELINES["scvi"](data, task, SPLIT, seed=0)


def test_validation_prefers_the_better_and_breaks_ties_by_the_log_loss() -> None:
    task = Task("t", "cell", "classification", np.array([0, 0, 1, 1]), ("a", "b"))
    sure, unsure = np.array([0.9, 0.9, 0.1, 0.1]), np.array([0.6, 0.6, 0.4, 0.4])
    values = [
        validation_score(task, np.arange(4), np.column_stack([p, 1 - p])) for p in (sure, unsure, 1 - sure)
    ]
    assert values[0] > values[1] > values[2]
    age = Task("t", "cell", "regression", np.array([1.0, 2.0]))
    assert validation_score(age, np.arange(2), np.array([1.0, 4.0])) == (-2.0, 0.0)


@pytest.fixture(scope="module")
def genes(data) -> tuple[Task, Split]:
    """Genes 0 to 14 are high in group B, 15 to 29 in group A: told apart by with whom they are expressed."""
    tokens = np.r_[data.counts.column_tokens[:30], [0]].astype(np.int64)
    task = Task("set", "gene", "classification", np.r_[np.repeat([0, 1], 15), 0], ("B", "A"), tokens)
    return task, Split(np.r_[0:9, 15:24], np.r_[9:11, 24:26], np.r_[11:15, 26:31], "as written")


def test_genes_are_told_apart_by_co_expression(data, genes) -> None:
    task, split = genes
    for name in (
        "coexpression_logistic",
        "expression_coexpression_logistic",
        "expression_logistic",
        "linear_probe",
        "expression_and_states",
    ):
        found = GENE_BASELINES[name](data, task, split, seed=0)
        np.testing.assert_allclose(found.scores.sum(axis=1), 1)
        if name == "coexpression_logistic":
            assert (found.scores.argmax(axis=1) == task.values[split.test])[:-1].mean() >= 0.7
    np.testing.assert_array_equal(expression_features(data, task)[-1, :3], 0)
    column = data.log[:, 3].toarray().ravel()
    np.testing.assert_allclose(
        expression_features(data, task)[3, :3], [column.mean(), column.var(), (column > 0).mean()], rtol=1e-5
    )


def test_components_are_learnt_without_the_genes_of_test(data, genes) -> None:
    task, split = genes
    before = coexpression_features(data, task, split, seed=0)
    log = data.log.tolil()
    log[:, split.test[:-1]] = log[:, split.test[:-1]][::-1]
    changed = replace(data)
    changed.__dict__["log"] = log.tocsr()
    np.testing.assert_allclose(
        before[split.train], coexpression_features(changed, task, split, seed=0)[split.train]
    )
    values = Task("loeuf", "gene", "regression", np.linspace(0, 1, 31), (), task.gene_tokens)
    for name in ("expression_ridge", "coexpression_ridge", "expression_coexpression_ridge", "mean"):
        assert GENE_BASELINES[name](data, values, split, seed=0).scores.shape == (9,)
    strangers = replace(task, gene_tokens=np.zeros(31, dtype=np.int64))
    with pytest.raises(ValueError, match="hold none of the 31 genes labelled by 'set'"):
        GENE_BASELINES["expression_logistic"](data, strangers, split, seed=0)
    cells = Task("t", "cell", "classification", task.values, task.classes)
    with pytest.raises(ValueError, match="labels cells; this baseline is one of genes"):
        GENE_BASELINES["expression_logistic"](data, cells, split, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["cell", "gene"])
def test_random_weights_know_nothing_of_the_pretrained_ones(level, data, task, genes) -> None:
    asked, split = task, SPLIT
    if level == "gene":  # without the one that is no gene of the vocabulary
        asked = replace(genes[0], values=genes[0].values[:-1], gene_tokens=genes[0].gene_tokens[:-1])
        split = replace(genes[1], test=genes[1].test[:-1])
    baseline = (CELL_BASELINES if level == "cell" else GENE_BASELINES)["random_weights"]
    found: Prediction = baseline(data, asked, split, seed=0)
    np.testing.assert_allclose(found.scores.sum(axis=1), 1)
    other = replace(data.encoder, model=_with_other_weights(data.encoder.model))
    again = baseline(replace(data, encoder=other), asked, split, seed=0)
    np.testing.assert_array_equal(found.scores, again.scores)


def test_random_weights_learn_with_their_own_settings(data, task, monkeypatch) -> None:
    from geneformer_grn.training import finetune as room
    from geneformer_grn.training.finetune_settings import FinetuneModel, FinetuneOptim, FinetuneSettings

    real, seen = room.finetune, []

    def spy(encoder, ranked, tasks, splits, settings, **named):
        seen.append(settings)
        return real(encoder, ranked, tasks, splits, settings, **named)

    monkeypatch.setattr(room, "finetune", spy)
    quick = FinetuneOptim(epochs=1, min_steps=0, lr=2e-3, token_budget=4_000)
    own = FinetuneSettings(model=FinetuneModel(mode="frozen", encoder_layer=-1), optim=quick)
    found = CELL_BASELINES["random_weights"](replace(data, random_settings=own), task, SPLIT, seed=0)
    assert seen[0].optim == quick
    assert (seen[0].model.mode, seen[0].model.encoder_layer) == ("full", -1)
    assert found.details["settings"] == {"mode": "full", "lr": 2e-3, "head_lr": quick.head_lr, "epoch": 1}


def _with_other_weights(model):
    import copy

    changed = copy.deepcopy(model)
    for parameter in changed.parameters():
        parameter.data.add_(0.1)
    return changed


def test_two_thousandths_of_a_score_choose_nothing_and_the_log_loss_does(task) -> None:
    """Scores that rank one pair better and say little, against scores that mean what they say."""
    validation = np.r_[0:20, 40:60]
    truth = task.values[validation]
    shy = np.column_stack([0.502 - 1e-3 * truth, 0.498 + 1e-3 * truth])
    bold = np.column_stack([0.95 - 0.9 * truth, 0.05 + 0.9 * truth])
    bold[0] = bold[20] = 0.5  # a tie of one pair: a little less AUROC
    assert validation_score(task, validation, shy)[0] > validation_score(task, validation, bold)[0] > 0.99
    candidates = [({"is": "shy"}, lambda _: shy), ({"is": "bold"}, lambda _: bold)]
    assert choose(task, validation, candidates)[0] == {"is": "bold"}
    assert choose(task, validation, [candidates[0], candidates[0]])[0] == {"is": "shy"}
    assert choose(task, validation[:0], candidates)[0] == {"is": "shy"}, "nothing to choose by: the first"


def test_genes_with_counts_and_states_together_hear_the_states(data, genes) -> None:
    task, split = genes
    shuffled = np.random.default_rng(5).permutation(task.values)  # counts do not tell these
    states = np.random.default_rng(0).normal(size=(int(task.gene_tokens.max()) + 1, 6)).astype(np.float32)
    states[task.gene_tokens, 0] += 20.0 * shuffled
    known = replace(data, kept={f"genes {layer}": states for layer in (-1, 0)})
    found = {
        name: GENE_BASELINES[name](known, replace(task, values=shuffled), split, seed=0).scores.argmax(axis=1)
        for name in ("expression_and_states", "expression_coexpression_logistic")
    }
    right = {name: float((called == shuffled[split.test]).mean()) for name, called in found.items()}
    assert right["expression_and_states"] >= 0.8 > right["expression_coexpression_logistic"]


def test_centring_keeps_what_varies_much_large_and_learns_from_the_seen_units_alone() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(5.0, [3.0, 1.0, 0.0], size=(40, 3))
    seen = np.arange(30)
    found = centred(features, seen)
    spread = found[seen].std(axis=0)
    np.testing.assert_allclose(found[seen].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(spread[0], 1, rtol=1e-5)
    np.testing.assert_allclose(spread[1], features[seen, 1].std() / features[seen, 0].std(), rtol=1e-5)
    assert not found[:, 2].any()
    features[35] = 1e6
    np.testing.assert_array_equal(centred(features, seen)[seen], found[seen])
    assert not centred(np.full((4, 2), 7.0), np.arange(4)).any(), "a constant stays 0"


def test_the_linear_probe_says_which_scaling_it_chose(data, task) -> None:
    settings = CELL_BASELINES["linear_probe"](data, task, SPLIT, seed=0).details["settings"]
    assert settings["scaling"] in {"standardised", "centred"}


def test_components_and_states_together_hear_both(data, task) -> None:
    """One class differs in expression, another only in the states: neither alone tells all three."""
    labels = task.values.copy()
    labels[1::2][labels[1::2] == 1] = 2  # of group B every second cell
    three = replace(task, values=labels, classes=("A", "B", "C"))
    states = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    states[labels == 2, 0] += 9.0
    known = replace(data, kept={f"cells {layer}": states for layer in (-1, 0)})
    right = {
        name: float(
            (
                CELL_BASELINES[name](known, three, SPLIT, seed=0).scores.argmax(axis=1) == labels[SPLIT.test]
            ).mean()
        )
        for name in ("hvg_pca_logistic", "linear_probe", "components_and_states")
    }
    assert right["components_and_states"] >= 0.9 > max(right["hvg_pca_logistic"], right["linear_probe"])
    empty = states.copy()
    empty[[0, 30]] = np.nan  # no gene of the vocabulary
    found = CELL_BASELINES["components_and_states"](
        replace(known, kept=dict.fromkeys(known.kept, empty)), three, SPLIT, seed=0
    )
    assert np.isfinite(found.scores).all()


def test_components_of_expression_are_the_same_in_blocks_and_learn_from_the_seen_alone(
    data, monkeypatch
) -> None:
    seen = np.arange(50)
    whole = expression_components(data.log, seen, n=5, seed=0)
    scaled = standardised(data.log[:, variable_genes(data.log, seen)].toarray(), seen)
    _, s, axes = np.linalg.svd(scaled[seen] - scaled[seen].mean(axis=0), full_matrices=False)
    by_hand = (scaled - scaled[seen].mean(axis=0)) @ axes[:5].T / s[0] * np.sqrt(49)
    np.testing.assert_allclose(np.abs(whole[:, 0]), np.abs(by_hand[:, 0]), atol=1e-3)
    monkeypatch.setattr(label_features, "_BLOCK", 7)
    np.testing.assert_allclose(expression_components(data.log, seen, n=5, seed=0), whole, atol=1e-5)
    doubled = data.log.copy()
    doubled[60:] *= 2
    np.testing.assert_allclose(expression_components(doubled, seen, n=5, seed=0)[:60], whole[:60], atol=1e-5)
