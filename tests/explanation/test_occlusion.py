"""Occlusion equals the brute force of one run per missing gene; attention equals the eager weights."""

import numpy as np
import pytest
import torch
from transformers import BertModel

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.explanation.attention import pooled_attention
from geneformer_grn.explanation.occlusion import occlusion
from geneformer_grn.explanation.settings import AttributionSettings


@pytest.fixture(scope="module")
def plain(tiny_checkpoint) -> BertModel:
    return BertModel.from_pretrained(
        tiny_checkpoint, attn_implementation="eager", add_pooling_layer=False
    ).eval()


def log_odds(probability):
    return np.log(probability / (1 - probability))


def test_deletion_equals_a_cell_without_the_gene(explained, ranked, chosen):
    cells, targets = chosen
    found = occlusion(explained, ranked, cells, targets)
    for number, (cell, target) in enumerate(zip(cells, targets, strict=True)):
        genes = ranked.cell(cell)[:46]
        rows = [genes, *(np.delete(genes, place) for place in range(len(genes)))]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        alone = RankedCells(np.concatenate(rows), offsets, np.ones(len(rows)))
        scores = log_odds(explained.model.predict(alone)["cell_type"][:, target])
        part = found.scores[found.offsets[number] : found.offsets[number + 1]]
        np.testing.assert_allclose(part, scores[0] - scores[1:], atol=2e-4)
        assert found.outputs[number] == pytest.approx(scores[0], abs=1e-4)


def test_a_knockout_equals_a_gene_that_nothing_reads(explained, ranked, plain):
    """Masked as a key in every layer of plain BERT, and left out of the pool."""
    if explained.spec.pooling == "attention":
        pytest.skip("its pool is the head's own; the other two pin the mechanism")
    settings = AttributionSettings(occlusion="knockout")
    found = occlusion(explained, ranked, np.array([41]), np.array([2]), settings)
    ids = torch.from_numpy(explained.input_of(ranked, 41))[None]
    head = explained.model.heads[0]

    def score(hidden: int | None) -> float:
        mask = torch.ones_like(ids)
        if hidden is not None:
            mask[0, hidden] = 0
        with torch.no_grad():
            states = plain(input_ids=ids, attention_mask=mask).last_hidden_state[0]
            genes = (ids[0] >= explained.vocabulary.n_special) & mask[0].bool()
            pooled = states[:1] if explained.spec.pooling == "cls" else states[genes].mean(0, keepdim=True)
            return float(explained.scores(head(pooled), torch.tensor([2])))

    expected = [score(None) - score(place) for place in range(1, ids.shape[1] - 1)]
    np.testing.assert_allclose(found.scores, expected, atol=2e-4)


def test_attention_equals_eager_weights(explained, ranked, chosen, plain):
    found = pooled_attention(explained, ranked, *chosen, AttributionSettings(token_budget=100))
    for number, cell in enumerate(chosen[0]):
        ids = torch.from_numpy(explained.input_of(ranked, cell))[None]
        with torch.no_grad():
            weights = plain(input_ids=ids, output_attentions=True).attentions[-1][0].mean(dim=0).numpy()
        reads = weights[0] if explained.spec.pooling == "cls" else weights[1:-1].mean(axis=0)
        part = found.scores[found.offsets[number] : found.offsets[number + 1]]
        np.testing.assert_allclose(part, reads[1:-1] * ids.shape[1], atol=1e-4)


def test_a_cell_of_one_gene_cannot_lose_it(by_mean, tiny_vocabulary):
    lonely = RankedCells(np.array([7], dtype=np.uint16), np.array([0, 1]), np.ones(1))
    with pytest.raises(ValueError, match="none is left"):
        occlusion(by_mean, lonely, np.array([0]), np.array([0]))


def test_a_cell_without_genes_is_named(by_mean):
    empty = RankedCells(np.array([7], dtype=np.uint16), np.array([0, 1, 1]), np.ones(2))
    with pytest.raises(ValueError, match="cell 1 holds no gene"):
        occlusion(by_mean, empty, np.array([0, 1]), np.array([0, 0]))
