"""Masked-gene scores against plain BERT, cell by cell with the full head, and against sums by hand."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM

from geneformer_grn.cells.counts import read_counts
from geneformer_grn.cells.rank_position import RankPositionBaseline
from geneformer_grn.cells.ranking import model_input, rank_cells
from geneformer_grn.evaluation.masked_genes import (
    hidden_genes,
    joined,
    prepare,
    score_card,
    score_contestants,
)
from geneformer_grn.training.validation import CellScores

N_CELLS = 12


@pytest.fixture(scope="module")
def ranked(tiny_adata, tiny_vocabulary):
    return rank_cells(read_counts(tiny_adata, tiny_vocabulary), tiny_vocabulary)


@pytest.fixture(scope="module")
def baseline(ranked, tiny_vocabulary):
    """Fitted on other cells than those that are scored."""
    training = [model_input(ranked.cell(row), tiny_vocabulary) for row in range(1, len(ranked), 2)]
    return RankPositionBaseline.fit(training, tiny_vocabulary)


@pytest.fixture(scope="module")
def contestants(tiny_encoder, baseline):
    return prepare(tiny_encoder, baseline, seed=1)  # the tiny checkpoint is seed 0


@pytest.fixture(scope="module")
def cells(ranked, tiny_encoder):
    return hidden_genes(ranked, tiny_encoder, seed=1, max_cells=N_CELLS)


@pytest.fixture(scope="module")
def scores(contestants, cells):
    return score_contestants(contestants, cells, token_budget=110)


def by_cell(logits_of, cells) -> np.ndarray:
    """(loss, right, hidden) of each cell, place by place."""
    rows = np.zeros((3, len(cells)))
    for number, (input_ids, labels) in enumerate(cells):
        logits = logits_of(input_ids, labels)
        for place in range(len(labels)):
            if labels[place] == -100:
                continue
            log_p = logits[place].double().log_softmax(0)
            rows[0, number] -= float(log_p[labels[place]])
            rows[1, number] += int(logits[place].argmax()) == labels[place]
            rows[2, number] += 1
    return rows


def assert_scores(found: CellScores, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.loss, expected[0], atol=1e-4)
    np.testing.assert_array_equal(found.right, expected[1])
    np.testing.assert_array_equal(found.n_masked, expected[2])


def test_the_model_is_scored_as_plain_bert_would_be(scores, cells, tiny_checkpoint):
    plain = AutoModelForMaskedLM.from_pretrained(tiny_checkpoint).eval()

    def logits_of(input_ids, _labels):
        with torch.inference_mode():
            return plain(torch.from_numpy(input_ids)[None]).logits[0]

    assert_scores(scores["model"], by_cell(logits_of, cells))
    assert len(scores["model"].loss) == N_CELLS


def test_the_untrained_copy_is_scored_too(scores, cells, contestants):
    """Its packed attention replaced by the library's own, one padded cell at a time."""
    config = deepcopy(contestants.untrained.config)  # from_config writes the attention into it
    copy = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    copy.load_state_dict(contestants.untrained.state_dict())

    def logits_of(input_ids, _labels):
        with torch.inference_mode():
            return copy(torch.from_numpy(input_ids)[None]).logits[0]

    assert_scores(scores["untrained"], by_cell(logits_of, cells))


def test_the_baseline_is_scored_on_the_same_masks(scores, cells, baseline):
    def logits_of(input_ids, labels):
        places = np.arange(len(labels))
        return torch.from_numpy(baseline.log_probabilities(places, input_ids[labels == -100]))

    assert_scores(scores["rank_position"], by_cell(logits_of, cells))


def test_the_untrained_copy_has_the_models_shape_and_starts_at_the_frequencies(
    contestants, tiny_encoder, baseline, tiny_vocabulary
):
    shapes = {name: tuple(weight.shape) for name, weight in tiny_encoder.model.state_dict().items()}
    untrained = contestants.untrained
    assert shapes == {name: tuple(weight.shape) for name, weight in untrained.state_dict().items()}
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(untrained.state_dict()[name], tiny_encoder.model.state_dict()[name])
    counts = baseline.counts.sum(axis=0) + 1
    expected = np.log(counts / counts.sum())
    np.testing.assert_allclose(untrained.cls.predictions.bias.detach().numpy(), expected, atol=1e-5)
    assert not untrained.training


def test_without_a_baseline_there_are_two_contestants(tiny_encoder, cells):
    alone = prepare(tiny_encoder, None, seed=0)
    assert not alone.untrained.cls.predictions.bias.any()
    found = score_contestants(alone, cells[:2], token_budget=100)
    assert set(found) == {"model", "untrained"}
    assert set(score_card(found, seed=0)["ahead_of"]) == {"untrained"}


def test_hidden_genes_repeat_and_are_hidden(ranked, tiny_encoder, cells):
    again = hidden_genes(ranked, tiny_encoder, seed=1, max_cells=N_CELLS)
    for one, two in zip(cells, again, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    other = hidden_genes(ranked, tiny_encoder, seed=2, max_cells=N_CELLS)
    assert [one[1].tolist() for one in cells] != [two[1].tolist() for two in other]
    mask = tiny_encoder.vocabulary.special("<mask>")
    for input_ids, labels in cells:
        hidden = labels != -100
        assert (input_ids[hidden] == mask).all()
        assert not np.isin(labels[hidden], input_ids).any(), "a cell holds each gene once"


def made_up(loss: float, right: float, *, n_cells: int = 30, seed: int = 0) -> CellScores:
    rng = np.random.default_rng(seed)
    n_masked = rng.integers(5, 20, n_cells).astype(float)
    return CellScores(loss=n_masked * (loss + rng.normal(0, 0.01, n_cells)), right=n_masked * right,
                      n_masked=n_masked)  # fmt: skip


def test_ahead_is_positive_where_the_model_is_better():
    scores = {"model": made_up(2.0, 0.5), "untrained": made_up(3.0, 0.1), "rank_position": made_up(1.5, 0.6)}
    card = score_card(scores, seed=0)
    assert card["model"]["loss"] == pytest.approx(2.0, abs=0.01)
    assert card["model"]["accuracy"] == pytest.approx(0.5)
    assert card["model"]["n_cells"] == 30
    ahead = card["ahead_of"]
    assert set(ahead) == {"untrained", "rank_position"}
    assert ahead["untrained"]["loss"]["mean"] == pytest.approx(1.0)
    assert ahead["untrained"]["accuracy"]["mean"] == pytest.approx(0.4)
    assert ahead["rank_position"]["loss"]["mean"] == pytest.approx(-0.5)
    assert ahead["rank_position"]["accuracy"]["mean"] == pytest.approx(-0.1)


def test_gains_are_paired_by_cell_and_inside_their_interval():
    """The same noise in both contestants cancels; a gain that differs between cells does not."""
    rng = np.random.default_rng(4)
    n_masked = rng.integers(5, 20, 60).astype(float)
    hard = rng.normal(5, 3, 60)
    model = CellScores(n_masked * hard, n_masked * 0.2, n_masked)
    constant = CellScores(n_masked * (hard + 0.3), n_masked * 0.2, n_masked)
    varying = CellScores(n_masked * (hard + rng.normal(0.3, 0.2, 60)), n_masked * 0.2, n_masked)
    card = score_card({"model": model, "constant": constant, "varying": varying}, seed=0)
    gain = card["ahead_of"]["constant"]["loss"]
    assert [gain["low"], gain["mean"], gain["high"]] == pytest.approx([0.3] * 3)
    gain = card["ahead_of"]["varying"]["loss"]
    assert 0 < gain["low"] < gain["mean"] < gain["high"] < 0.6
    assert gain["mean"] == pytest.approx((varying.loss - model.loss).sum() / n_masked.sum())
    assert gain["high"] - gain["low"] == pytest.approx(4 * 0.2 / np.sqrt(60), rel=0.5)


def test_files_joined_are_all_their_cells(contestants, cells, scores):
    parts = [score_contestants(contestants, part, token_budget=500) for part in (cells[:5], cells[5:])]
    together = joined(parts)
    assert set(together) == {"model", "untrained", "rank_position"}
    for name, score in together.items():
        np.testing.assert_allclose(score.loss, scores[name].loss, atol=1e-4)
        np.testing.assert_array_equal(score.right, scores[name].right)
        np.testing.assert_array_equal(score.n_masked, scores[name].n_masked)
