"""Edits worked out by hand on cells of four genes, and alignment by brute force."""

import numpy as np
import pytest

from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.perturbation.edits import EDITS, InputLayout, delete, knockout, overexpress, require_kind

PLAIN = InputLayout(n_front=0, n_back=0, max_length=4)  # like v1
WRAPPED = InputLayout(n_front=1, n_back=1, max_length=6)  # <cls> is 2, <eos> is 3
A, B, C, D, X, Y = 11, 12, 13, 14, 21, 22
CELL = np.array([A, B, C, D])
WRAPPED_CELL = np.array([2, A, B, C, D, 3])


def test_delete_moves_later_genes_up():
    edit = delete(CELL, (B,), PLAIN)
    assert edit.input_ids.tolist() == [A, C, D]
    assert edit.position_ids.tolist() == [0, 1, 2]
    assert edit.original_index.tolist() == [0, 2, 3]
    assert edit.perturbed_index.tolist() == [0, 1, 2]
    assert edit.original_pool.tolist() == [0, 1, 2, 3]


def test_delete_keeps_special_tokens():
    edit = delete(WRAPPED_CELL, (D, A), WRAPPED)
    assert edit.input_ids.tolist() == [2, B, C, 3]
    assert edit.original_index.tolist() == [2, 3]
    assert edit.perturbed_index.tolist() == [1, 2]


def test_knockout_moves_nothing():
    edit = knockout(WRAPPED_CELL, (B,), WRAPPED)
    assert edit.input_ids.tolist() == [2, A, C, D, 3]
    assert edit.position_ids.tolist() == [0, 1, 3, 4, 5]
    assert edit.original_index.tolist() == edit.original_pool.tolist() == [1, 3, 4]
    assert edit.perturbed_index.tolist() == [1, 2, 3]


@pytest.mark.parametrize("remove", [delete, knockout])
def test_removal_needs_all_genes_and_one_that_stays(remove):
    assert remove(CELL, (X,), PLAIN) is None
    assert remove(CELL, (A, X), PLAIN) is None
    assert remove(np.array([A]), (A,), PLAIN) is None
    assert remove(np.array([2, A, 3]), (A,), WRAPPED) is None
    assert remove(np.array([], dtype=np.int64), (A,), PLAIN) is None


def test_overexpress_moves_a_held_gene_to_the_front():
    edit = overexpress(CELL, (C,), PLAIN)
    assert edit.input_ids.tolist() == [C, A, B, D]
    assert edit.original_index.tolist() == [0, 1, 3]
    assert edit.perturbed_index.tolist() == [1, 2, 3]
    assert edit.original_dropped.tolist() == []


def test_overexpress_an_unexpressed_gene_at_full_length_drops_the_last():
    edit = overexpress(CELL, (X,), PLAIN)
    assert edit.input_ids.tolist() == [X, A, B, C]
    assert edit.original_dropped.tolist() == [3]
    assert edit.original_index.tolist() == edit.original_pool.tolist() == [0, 1, 2]
    wrapped = overexpress(WRAPPED_CELL, (X,), WRAPPED)
    assert wrapped.input_ids.tolist() == [2, X, A, B, C, 3]
    assert wrapped.original_index.tolist() == [1, 2, 3]
    assert wrapped.original_dropped.tolist() == [4]


def test_overexpress_below_full_length_drops_nothing():
    edit = overexpress(np.array([2, A, B, 3]), (X, B), WRAPPED)
    assert edit.input_ids.tolist() == [2, X, B, A, 3]
    assert edit.original_index.tolist() == [1]
    assert edit.perturbed_index.tolist() == [3]


def test_overexpress_keeps_a_held_gene_of_the_original_when_others_are_pushed_out():
    edit = overexpress(CELL, (D, X), PLAIN)  # D is last and held; C is what no longer fits
    assert edit.input_ids.tolist() == [D, X, A, B]
    original = np.delete(CELL, edit.original_dropped)
    assert original.tolist() == [A, B, D]
    assert original[edit.original_index].tolist() == [A, B]


def test_overexpress_more_than_fits_is_refused():
    assert overexpress(np.array([A]), (A,), PLAIN) is None
    with pytest.raises(ValueError, match="cannot overexpress 4 genes"):
        overexpress(CELL, (A, B, X, Y), PLAIN)


@pytest.mark.parametrize("kind", sorted(EDITS))
@pytest.mark.parametrize("layout", [PLAIN, WRAPPED])
def test_aligned_positions_hold_the_same_gene(kind, layout):
    rng = np.random.default_rng(4)
    layout = InputLayout(layout.n_front, layout.n_back, max_length=12)
    for _ in range(200):
        room = layout.max_length - layout.n_front - layout.n_back
        genes = rng.permutation(np.arange(10, 30))[: rng.integers(1, room + 1)]
        ids = np.concatenate([[2] * layout.n_front, genes, [3] * layout.n_back]).astype(np.int64)
        chosen = tuple(rng.choice(np.arange(10, 30), size=rng.integers(1, 4), replace=False).tolist())
        edit = EDITS[kind](ids, chosen, layout)
        if edit is None:
            continue
        original = np.delete(ids, edit.original_dropped)
        before, after = original[edit.original_index], edit.input_ids[edit.perturbed_index]
        np.testing.assert_array_equal(before, after)
        assert not set(before.tolist()) & set(chosen)
        unperturbed = [gene for gene in edit.input_ids if gene >= 10 and gene not in chosen]
        assert len(edit.perturbed_index) == len(unperturbed)
        assert set(original.tolist()) - set(chosen) == set(edit.input_ids.tolist()) - set(chosen)
        assert len(edit.input_ids) == len(edit.position_ids) <= layout.max_length


def test_layout_follows_the_vocabulary(tiny_vocabulary: GeneVocabulary):
    layout = InputLayout.of(tiny_vocabulary)
    assert (layout.n_front, layout.n_back, layout.max_length) == (1, 1, 48)


@pytest.mark.parametrize("kind", ["inhibit", "activate", "Delete"])
def test_kinds_that_are_not_there_name_those_that_are(kind):
    with pytest.raises(ValueError, match="delete, overexpress, knockout"):
        require_kind(kind)
