"""Cosines against scipy, contextual states against the eager model cell by cell, support against loops."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from transformers import BertForMaskedLM

from geneformer_grn.cells.ranking import model_input
from geneformer_grn.extraction import similarity
from geneformer_grn.extraction.similarity import SimilaritySettings, contextual_edges, embedding_edges


def check(pairs, table, genes, *, centre):
    regulators, targets = genes
    table = table - centre
    for i, regulator in enumerate(regulators):
        for j, target in enumerate(targets):
            if pairs.support[i, j] >= 3 and regulator != target:
                expected = 1.0 - cosine(table[regulator], table[target]) / 2.0
                assert pairs.weights[i, j] == pytest.approx(expected, abs=1e-6)
            else:
                assert np.isnan(pairs.weights[i, j])
    assert not pairs.signed


@pytest.mark.parametrize("centred", [True, False])
def test_static_embeddings(
    tiny_encoder, tiny_vocabulary, ranked, genes, mean_over_cells, centred, monkeypatch
):
    monkeypatch.setattr(similarity, "_ROWS", 5)
    table = tiny_encoder.model.bert.embeddings.word_embeddings.weight.detach().numpy().astype(np.float64)
    pairs = embedding_edges(
        tiny_encoder, ranked, regulators=genes[0], targets=genes[1],
        settings=SimilaritySettings(centred=centred, min_support=3),
    )  # fmt: skip
    _, support = mean_over_cells(lambda ids, matrices: matrices[0])
    np.testing.assert_array_equal(pairs.support, support)
    # every gene is in three cells or more here, and no special token counts
    check(pairs, table, genes, centre=table[tiny_vocabulary.n_special :].mean(axis=0) if centred else 0.0)


def test_contextual_states(tiny_encoder, tiny_checkpoint, tiny_vocabulary, ranked, genes):
    cells = np.arange(4, 24)
    model = BertForMaskedLM.from_pretrained(tiny_checkpoint, attn_implementation="eager").eval()
    sums, counts = np.zeros((len(tiny_vocabulary), 32)), np.zeros(len(tiny_vocabulary))
    for cell in cells:
        ids = model_input(ranked.cell(cell), tiny_vocabulary)
        with torch.no_grad():
            states = model.bert(torch.from_numpy(ids)[None], output_hidden_states=True).hidden_states[-1][0]
        sums[ids] += states.numpy()
        counts[ids] += 1
    table = sums / np.maximum(counts, 1)[:, None]
    seen = counts >= 3
    seen[: tiny_vocabulary.n_special] = False
    pairs = contextual_edges(
        tiny_encoder, ranked, regulators=genes[0], targets=genes[1], cells=cells,
        settings=SimilaritySettings(encoder_layer=0, min_support=3),
    )  # fmt: skip
    assert np.isnan(pairs.weights).sum() > len(genes[0]) // 2
    check(pairs, table, genes, centre=table[seen].mean(axis=0))


def test_bad_calls(tiny_encoder, ranked, genes):
    with pytest.raises(ValueError, match="at least 1"):
        SimilaritySettings(min_support=0)
    with pytest.raises(ValueError, match="at least one regulator"):
        embedding_edges(tiny_encoder, ranked, regulators=genes[0][:0], targets=genes[1])
