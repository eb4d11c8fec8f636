"""Axes of variation against a singular value decomposition of states from a plain padded model."""

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.perturbation import axes as module
from geneformer_grn.perturbation.axes import gene_axes, leading_direction, take_cells


def cells_of(lists):
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in lists])])
    tokens = np.concatenate(lists).astype(np.uint16)
    return RankedCells(tokens=tokens, offsets=offsets, n_counts=np.ones(len(lists)))


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary):
    """Forty cells of 6 to 60 genes (the model reads 46); the last two genes are in two cells and in none."""
    rng = np.random.default_rng(5)
    genes = np.arange(tiny_vocabulary.n_special, len(tiny_vocabulary) - 2)
    lists = [rng.permutation(genes)[: rng.integers(6, 61)] for _ in range(40)]
    rare = len(tiny_vocabulary) - 2
    for i in (3, 4):
        lists[i] = np.concatenate([[rare], lists[i]])
    return cells_of(lists)


@pytest.fixture(scope="module")
def oracle_states(tiny_checkpoint, tiny_vocabulary, ranked):
    """Layer -> gene -> list of (cell, state, place from 0, the front, to 1), one padded cell at a time."""
    plain = BertForMaskedLM.from_pretrained(tiny_checkpoint, attn_implementation="eager").eval()
    found = {0: {}, -1: {}}
    for cell in range(len(ranked)):
        ids = model_input(ranked.cell(cell), tiny_vocabulary).tolist()
        padded = torch.tensor([[*ids, *[0] * (48 - len(ids))]])
        with torch.no_grad():
            states = plain.bert(padded, attention_mask=(padded != 0).long(), output_hidden_states=True)
        for layer, by_gene in found.items():
            hidden = states.hidden_states[2 + layer][0].double().numpy()
            for place, gene in enumerate(ids[1:-1]):
                row = (cell, hidden[place + 1], place / (len(ids) - 3))
                by_gene.setdefault(gene, []).append(row)
    return found


def check(found, by_gene, n_tokens):
    n_axes = 0
    for gene in range(n_tokens):
        rows = by_gene.get(gene, [])
        assert found.n_cells[gene] == len(rows)
        if len(rows) < 3:
            assert np.isnan(found.sd[gene])
            assert np.isnan(found.rank_correlation[gene])
            assert np.isnan(found.axes[gene]).all()
            continue
        states, places = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
        centred = states - states.mean(axis=0)
        values, axis = np.linalg.svd(centred, full_matrices=False)[1:]
        axis = axis[0]
        correlation = np.corrcoef(centred @ axis, -places)[0, 1]
        np.testing.assert_allclose(found.sd[gene], values[0] / np.sqrt(len(rows) - 1), rtol=1e-5)
        np.testing.assert_allclose(found.rank_correlation[gene], abs(correlation), atol=1e-4)
        gap = 1.0 - values[1] / values[0]
        np.testing.assert_allclose(found.axes[gene], axis * np.sign(correlation), atol=1e-5 / gap)
        n_axes += 1
    return n_axes


@pytest.mark.parametrize("layer", [0, -1])
def test_axes_equal_a_singular_value_decomposition(tiny_encoder, ranked, oracle_states, layer):
    n_tokens = len(tiny_encoder.vocabulary)
    for budget in (60, 5000):
        found = gene_axes(tiny_encoder, ranked, encoder_layer=layer, token_budget=budget)
        assert check(found, oracle_states[layer], n_tokens) > 50
    product = found.directions[7] @ found.axes[7]
    np.testing.assert_allclose(product, 1.0 / found.sd[7], rtol=1e-5)


def test_only_the_cells_asked_for_are_sampled(tiny_encoder, ranked, oracle_states, monkeypatch):
    n_tokens = len(tiny_encoder.vocabulary)
    chosen = np.arange(0, 40, 2)
    some = {gene: [row for row in rows if row[0] in set(chosen)] for gene, rows in oracle_states[-1].items()}
    check(gene_axes(tiny_encoder, ranked, cells=chosen), some, n_tokens)
    monkeypatch.setattr(module, "MOST_CELLS", 7)
    first, second, other = (gene_axes(tiny_encoder, ranked, cells=chosen, seed=seed) for seed in (1, 1, 2))
    assert first.n_cells.max() <= 7
    np.testing.assert_array_equal(first.axes, second.axes)
    assert not np.array_equal(first.n_cells, other.n_cells)
    monkeypatch.setattr(module, "MOST_CELLS", 40)
    monkeypatch.setattr(module, "_STATE_BYTES", 100 * 32 * 4)
    assert 0 < gene_axes(tiny_encoder, ranked).n_cells.sum() <= 100
    monkeypatch.setattr(module, "_STATE_BYTES", 1)
    assert gene_axes(tiny_encoder, ranked).n_cells.max() == 1


def test_direction_of_more_cells_than_dimensions_and_of_fewer():
    rng = np.random.default_rng(0)
    for shape in ((40, 6), (5, 30), (6, 6)):
        states = rng.normal(size=shape) + 3.0
        states[:, 1] *= 4.0
        axis, sd = leading_direction(states)
        expected = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)[2][0]
        np.testing.assert_allclose(np.abs(axis @ expected), 1.0, atol=1e-12)
        np.testing.assert_allclose(sd, (states @ axis).std(ddof=1), rtol=1e-10)


def test_states_that_differ_by_rounding_have_no_axis():
    rng = np.random.default_rng(0)
    states = np.ones((5, 8)) + 1e-7 * rng.normal(size=(5, 8))
    axis, sd = leading_direction(states)
    assert np.isnan(sd)
    assert np.isnan(axis).all()
    assert np.isnan(leading_direction(np.zeros((4, 3)))[1])


def test_positive_is_towards_the_front():
    axis = np.array([0.2, -0.9])
    assert module._forward(np.array([3.0, 2.0, 0.0]), np.array([0.0, 0.5, 1.0]), axis)[0]
    assert not module._forward(np.array([0.0, 2.0, 3.0]), np.array([0.0, 0.5, 1.0]), axis)[0]


def test_without_ranks_to_go_by_the_largest_component_is_positive():
    same = np.full(3, 0.4)
    for axis, forward in ((np.array([0.2, -0.9]), False), (np.array([-0.2, 0.9]), True)):
        found, correlation = module._forward(np.array([1.0, 0.0, -1.0]), same, axis)
        assert found is forward
        assert np.isnan(correlation)
        symmetric = module._forward(np.array([1.0, 0.0, 1.0]), np.array([0.0, 0.5, 1.0]), axis)
        assert symmetric == (forward, 0.0)


def test_cells_are_taken_in_the_order_asked(ranked):
    taken = take_cells(ranked, [5, 2])
    assert [taken.cell(i).tolist() for i in (0, 1)] == [ranked.cell(i).tolist() for i in (5, 2)]
    assert len(take_cells(ranked, [])) == 0


def test_no_cells_have_no_axes(tiny_encoder, ranked):
    found = gene_axes(tiny_encoder, ranked, cells=np.empty(0, dtype=np.int64))
    assert not found.n_cells.any()
    assert np.isnan(found.sd).all()
