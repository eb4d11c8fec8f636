"""Streaming attention against the eager attention matrices of transformers, cell by cell."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from geneformer_grn.cells.packing import pack
from geneformer_grn.extraction import streaming
from geneformer_grn.extraction.attention import (
    AttentionSettings,
    attention_by_head,
    attention_edges,
    average_product_correction,
)
from geneformer_grn.extraction.attention_sums import row_ranks


def edges(encoder, ranked, genes, *, cells=None, **settings):
    return attention_edges(
        encoder, ranked, regulators=genes[0], targets=genes[1],
        settings=AttentionSettings(**{"min_support": 3, **settings}), cells=cells,
    )  # fmt: skip


def raw(ids, matrices):
    return matrices.reshape(-1, *matrices.shape[2:]) * len(ids)


@pytest.mark.parametrize(
    ("layers", "cells", "budget", "chunk"),
    [("all", None, 16_384, 1 << 22), ((1,), None, 100, 1 << 22), ((0,), np.arange(5, 25), 64, 500)],
)
def test_streaming_equals_eager(
    tiny_encoder, ranked, genes, mean_over_cells, layers, cells, budget, chunk, monkeypatch
):
    monkeypatch.setattr(streaming, "SCORES_PER_CHUNK", chunk)
    pairs = edges(tiny_encoder, ranked, genes, layers=layers, token_budget=budget, cells=cells)
    heads = slice(None) if layers == "all" else slice(2 * layers[0], 2 * layers[0] + 2)
    weights, support = mean_over_cells(
        lambda ids, matrices: raw(ids, matrices)[heads], cells=range(30) if cells is None else cells
    )
    np.testing.assert_array_equal(pairs.support, support)
    np.testing.assert_allclose(pairs.weights, weights.mean(axis=0), rtol=1e-6, atol=1e-6)
    assert pairs.regulators.tolist() == tiny_encoder.vocabulary.ensembl_ids[genes[0]].tolist()
    assert not pairs.signed


@pytest.mark.parametrize("direction", ["target_reads", "regulator_reads", "both"])
def test_directions_and_heads_equal_eager(tiny_encoder, ranked, genes, mean_over_cells, direction):
    heads = ((0, 1), (1, 0), (1, 1))

    def reading(ids, matrices):
        read = raw(ids, matrices)[[1, 2, 3]]
        back = read.transpose(0, 2, 1)
        return {"target_reads": read, "regulator_reads": back, "both": (read + back) / 2}[direction]

    weights, _ = mean_over_cells(reading)
    together = edges(tiny_encoder, ranked, genes, heads=heads, direction=direction)
    np.testing.assert_allclose(together.weights, weights.mean(axis=0), rtol=1e-6, atol=1e-6)
    alone = attention_by_head(
        tiny_encoder, ranked, regulators=genes[0], targets=genes[1],
        settings=AttentionSettings(heads=heads[::-1], direction=direction, min_support=3),
    )  # fmt: skip
    assert list(alone) == list(heads)
    for found, expected in zip(alone.values(), weights, strict=True):
        np.testing.assert_allclose(found.weights, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("direction", ["target_reads", "regulator_reads"])
def test_row_ranks_equal_ranks_of_eager_rows(tiny_encoder, ranked, genes, mean_over_cells, direction):
    ranked_genes = genes[0] if direction == "target_reads" else genes[1]

    def reading(ids, matrices):
        matrices = raw(ids, matrices)
        held = np.isin(ids, ranked_genes)
        ranks = np.full(matrices.shape, np.nan)
        if held.any():
            ranks[:, :, held] = (rankdata(matrices[:, :, held], axis=2) - 0.5) / held.sum()
        return ranks if direction == "target_reads" else ranks.transpose(0, 2, 1)

    weights, _ = mean_over_cells(reading)
    found = edges(tiny_encoder, ranked, genes, correction="row_rank", direction=direction)
    np.testing.assert_allclose(found.weights, weights.mean(axis=0), atol=1e-6)


def test_tied_values_share_their_rank():
    values = np.random.default_rng(0).integers(0, 4, (3, 5, 7)).astype(np.float32)
    expected = (rankdata(values, axis=2) - 0.5) / 7
    np.testing.assert_allclose(row_ranks(torch.from_numpy(values)).numpy(), expected, atol=1e-7)


def test_uniform_attention_scores_one(tiny_encoder, ranked, genes):
    """With all queries zero every key is read alike, in cells of any length."""
    model = copy.deepcopy(tiny_encoder.model)
    for layer in model.bert.encoder.layer:
        torch.nn.init.zeros_(layer.attention.self.query.weight)
        torch.nn.init.zeros_(layer.attention.self.query.bias)
    encoder = replace(tiny_encoder, model=model)
    for correction, expected in (("none", 1.0), ("rank_position", 1.0), ("row_rank", 0.5)):
        pairs = edges(encoder, ranked, genes, correction=correction)
        np.testing.assert_allclose(pairs.weights[pairs.scored], expected, rtol=1e-6)


def test_average_product_correction_by_hand():
    weights = np.array([[1.0, 2.0, np.nan], [3.0, 4.0, 5.0]])
    corrected = average_product_correction(weights)
    assert corrected[0, 0] == pytest.approx(1.0 - 1.5 * 2.0 / 3.0)
    assert corrected[1, 2] == pytest.approx(5.0 - 4.0 * 5.0 / 3.0)
    assert np.isnan(corrected[0, 2])
    rank_one = np.outer([1.0, 2.0, 3.0], [4.0, 5.0])
    np.testing.assert_allclose(average_product_correction(rank_one), 0.0, atol=1e-12)
    assert np.isnan(average_product_correction(np.full((2, 2), np.nan))).all()


def test_corrected_edges_are_the_correction_of_raw_edges(tiny_encoder, ranked, genes):
    """What is read less than its genes are on average is no edge: a magnitude would make it one."""
    uncorrected = edges(tiny_encoder, ranked, genes)
    corrected = edges(tiny_encoder, ranked, genes, correction="average_product")
    expected = np.maximum(average_product_correction(uncorrected.weights.astype(np.float64)), 0.0)
    assert (expected == 0.0).sum() > 10
    np.testing.assert_allclose(corrected.weights, expected, atol=1e-6)


def test_empty_cells_are_passed_over(tiny_encoder, ranked, genes, monkeypatch):
    """Without special tokens there would be nothing to pack."""
    expected = edges(tiny_encoder, ranked, genes).weights
    gap = replace(ranked, offsets=np.insert(ranked.offsets, 3, ranked.offsets[3]), n_counts=np.ones(31))
    packed = []
    monkeypatch.setattr(streaming, "pack", lambda cells: packed.extend(cells) or pack(cells))
    np.testing.assert_allclose(edges(tiny_encoder, gap, genes).weights, expected, rtol=1e-5)
    assert len(packed) == len(ranked)


def test_bad_calls(tiny_encoder, ranked, genes):
    regulators, targets = genes
    with pytest.raises(ValueError, match="this model has 2, 0 to 1"):
        edges(tiny_encoder, ranked, genes, layers=(2,))
    with pytest.raises(ValueError, match=r"heads \[\(0, 2\)\] do not exist: .* 0 to 1, .* heads 0 to 1"):
        edges(tiny_encoder, ranked, genes, heads=((0, 2), (1, 1)))
    with pytest.raises(ValueError, match="at least one regulator"):
        edges(tiny_encoder, ranked, (regulators[:0], targets))
    with pytest.raises(ValueError, match="target of token 7 is named 2 times"):
        edges(tiny_encoder, ranked, (regulators, np.array([6, 7, 7])))
    with pytest.raises(ValueError, match="correction 'magic' is unknown; use none, average_product, rank_p"):
        AttentionSettings(correction="magic")
    with pytest.raises(ValueError, match="direction 'up' is unknown"):
        AttentionSettings(direction="up")
    with pytest.raises(ValueError, match="layers or heads, not both"):
        AttentionSettings(layers=(0,), heads=((0, 0),))
    with pytest.raises(ValueError, match="min_support must be at least 1"):
        AttentionSettings(min_support=0)
