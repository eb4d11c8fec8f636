"""Streaming attention against the eager attention matrices of transformers, cell by cell."""

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.extraction import attention
from geneformer_grn.extraction.attention import (
    AttentionSettings,
    attention_edges,
    average_product_correction,
)

N_CELLS = 30


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary) -> RankedCells:
    """30 cells of 3 to 60 genes: some longer than the model's 48 tokens."""
    generator = np.random.default_rng(0)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))
    cells = [generator.permutation(genes)[: generator.integers(3, 61)] for _ in range(N_CELLS)]
    return RankedCells(
        tokens=np.concatenate(cells).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int64),
        n_counts=np.ones(N_CELLS),
    )


@pytest.fixture(scope="module")
def genes(tiny_vocabulary) -> tuple[np.ndarray, np.ndarray]:
    regulators = np.flatnonzero(tiny_vocabulary.is_regulator)
    targets = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary))[::-2].copy()
    return regulators, targets


@pytest.fixture(scope="module")
def eager(tiny_checkpoint, tiny_vocabulary, ranked) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids and the (layers, heads, L, L) attention of every cell."""
    model = BertForMaskedLM.from_pretrained(tiny_checkpoint, attn_implementation="eager").eval()
    found = []
    for cell in range(N_CELLS):
        ids = model_input(ranked.cell(cell), tiny_vocabulary)
        with torch.no_grad():
            output = model(torch.from_numpy(ids)[None], output_attentions=True)
        found.append((ids, torch.stack(output.attentions)[:, 0].numpy().astype(np.float64)))
    return found


def oracle(eager, regulators, targets, *, layers, cells, min_support):
    weights = np.full((len(regulators), len(targets)), np.nan)
    support = np.zeros((len(regulators), len(targets)), dtype=int)
    for i, regulator in enumerate(regulators):
        for j, target in enumerate(targets):
            values = [
                matrices[layers][:, :, ids.tolist().index(target), ids.tolist().index(regulator)].mean()
                * len(ids)
                for ids, matrices in (eager[cell] for cell in cells)
                if regulator in ids and target in ids
            ]
            support[i, j] = len(values)
            if len(values) >= min_support and regulator != target:
                weights[i, j] = np.mean(values)
    return weights, support


@pytest.mark.parametrize(
    ("layers", "cells", "budget", "chunk"),
    [("all", None, 16_384, 1 << 22), ((1,), None, 100, 1 << 22), ((0,), np.arange(5, 25), 64, 500)],
)
def test_streaming_equals_eager(
    tiny_encoder, ranked, genes, eager, layers, cells, budget, chunk, monkeypatch
):
    monkeypatch.setattr(attention, "_SCORES_PER_CHUNK", chunk)
    regulators, targets = genes
    settings = AttentionSettings(layers=layers, token_budget=budget, min_support=3)
    pairs = attention_edges(
        tiny_encoder, ranked, regulators=regulators, targets=targets, settings=settings, cells=cells
    )
    weights, support = oracle(
        eager,
        regulators,
        targets,
        layers=slice(None) if layers == "all" else list(layers),
        cells=range(N_CELLS) if cells is None else cells,
        min_support=3,
    )
    np.testing.assert_array_equal(pairs.support, support)
    np.testing.assert_array_equal(np.isnan(pairs.weights), np.isnan(weights))
    np.testing.assert_allclose(pairs.weights, weights, rtol=1e-6, atol=1e-6)
    assert pairs.regulators.tolist() == tiny_encoder.vocabulary.ensembl_ids[regulators].tolist()
    assert not pairs.signed


def test_uniform_attention_scores_one(tiny_encoder, ranked, genes):
    """With all queries zero every key is read alike, in cells of any length."""
    import copy
    from dataclasses import replace

    model = copy.deepcopy(tiny_encoder.model)
    for layer in model.bert.encoder.layer:
        torch.nn.init.zeros_(layer.attention.self.query.weight)
        torch.nn.init.zeros_(layer.attention.self.query.bias)
    pairs = attention_edges(
        replace(tiny_encoder, model=model), ranked, regulators=genes[0], targets=genes[1],
        settings=AttentionSettings(min_support=1),
    )  # fmt: skip
    np.testing.assert_allclose(pairs.weights[pairs.scored], 1.0, rtol=1e-6)


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
    raw, corrected = (
        attention_edges(
            tiny_encoder, ranked, regulators=genes[0], targets=genes[1],
            settings=AttentionSettings(correction=correction),
        )
        for correction in ("none", "average_product")
    )  # fmt: skip
    expected = average_product_correction(raw.weights.astype(np.float64))
    np.testing.assert_allclose(corrected.weights, expected, atol=1e-6)


def test_bad_calls(tiny_encoder, ranked, genes):
    regulators, targets = genes
    with pytest.raises(ValueError, match="this model has 2, 0 to 1"):
        attention_edges(
            tiny_encoder,
            ranked,
            regulators=regulators,
            targets=targets,
            settings=AttentionSettings(layers=(2,)),
        )
    with pytest.raises(ValueError, match="at least one regulator"):
        attention_edges(tiny_encoder, ranked, regulators=regulators[:0], targets=targets)
    with pytest.raises(ValueError, match="use none or average_product"):
        AttentionSettings(correction="magic")
    with pytest.raises(ValueError, match="at least 1"):
        AttentionSettings(min_support=0)
