"""Edits worked out by hand on cells of four genes, and alignment by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneformer_grn.genes.vocabulary import GeneVocabulary
from geneformer_grn.perturbation.edits import (
    EDITS,
    InputLayout,
    activate,
    delete,
    edit_function,
    inhibit,
    knockout,
    overexpress,
    quartile_place,
    require_kind,
)

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


@pytest.mark.parametrize("remove", [delete, knockout, inhibit, activate])
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


@pytest.mark.parametrize(
    ("genes", "quartiles", "up", "down"),
    [
        ((A,), 1, [A, B, C, D], [B, A, C, D]),
        ((B,), 1, [B, A, C, D], [A, C, B, D]),
        ((C,), 1, [A, C, B, D], [A, B, D, C]),
        ((D,), 1, [A, B, D, C], [A, B, C, D]),
        ((D,), 2, [A, D, B, C], [A, B, C, D]),
        ((A,), 2, [A, B, C, D], [B, C, A, D]),
        ((B,), 3, [B, A, C, D], [A, C, D, B]),
        ((D,), 3, [D, A, B, C], [A, B, C, D]),
        ((B, C), 1, [B, C, A, D], [A, B, C, D]),  # down: A C B D, then C back to its place
        ((C, B), 1, [A, B, C, D], [A, D, B, C]),  # up: A C B D, then B back to its place
    ],
)
def test_genes_of_four_move_by_quartiles(genes, quartiles, up, down):
    for move, expected in ((activate, up), (inhibit, down)):
        plain = move(CELL, genes, PLAIN, quartiles=quartiles)
        wrapped = move(WRAPPED_CELL, genes, WRAPPED, quartiles=quartiles)
        assert plain.input_ids.tolist() == expected
        assert wrapped.input_ids.tolist() == [2, *expected, 3]
        assert plain.position_ids.tolist() == [0, 1, 2, 3]
        assert wrapped.position_ids.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_move_aligns_every_other_gene_by_hand():
    edit = activate(CELL, (D,), PLAIN, quartiles=2)  # A D B C
    assert edit.original_index.tolist() == [0, 1, 2]
    assert edit.perturbed_index.tolist() == [0, 2, 3]
    assert edit.original_pool.tolist() == [0, 1, 2, 3]
    wrapped = inhibit(WRAPPED_CELL, (A, B), WRAPPED)  # A: B A C D; B, in front by then: A B C D
    assert wrapped.input_ids.tolist() == [2, A, B, C, D, 3]
    assert wrapped.original_index.tolist() == [3, 4]
    assert wrapped.perturbed_index.tolist() == [3, 4]
    assert wrapped.original_dropped.tolist() == []


def test_places_among_five_and_eight_genes():
    # five genes: quartiles hold positions 0 1 | 2 | 3 | 4
    assert [quartile_place(5, p, -1) for p in range(5)] == [0, 0, 0, 2, 3]
    assert [quartile_place(5, p, 1) for p in range(5)] == [2, 2, 3, 4, 4]
    assert [quartile_place(5, p, -2) for p in range(5)] == [0, 0, 0, 0, 2]
    assert [quartile_place(5, p, 2) for p in range(5)] == [3, 3, 4, 4, 4]
    # eight: 0 1 | 2 3 | 4 5 | 6 7
    assert [quartile_place(8, p, -1) for p in range(8)] == [0, 0, 0, 0, 2, 2, 4, 4]
    assert [quartile_place(8, p, 1) for p in range(8)] == [3, 3, 5, 5, 7, 7, 7, 7]
    assert [quartile_place(8, p, -3) for p in range(8)] == [0, 0, 0, 0, 0, 0, 0, 0]
    assert [quartile_place(8, p, 3) for p in range(8)] == [7, 7, 7, 7, 7, 7, 7, 7]


def test_places_where_a_quartile_is_empty():
    assert [quartile_place(1, 0, steps) for steps in (-3, -1, 1, 3)] == [0, 0, 0, 0]
    assert [quartile_place(2, p, 1) for p in range(2)] == [1, 1]  # quartiles: 0 | | 1 |
    assert [quartile_place(2, p, -1) for p in range(2)] == [0, 0]
    assert [quartile_place(3, p, 1) for p in range(3)] == [1, 2, 2]  # 0 | 1 | 2 |


def place_by_listing(n, position, steps):
    """The same from lists: divide the positions, take the middle of the part reached."""
    quartiles = [[p for p in range(n) if (4 * p) // n == t] for t in range(4)]
    here = next(t for t in range(4) if position in quartiles[t])
    if not 0 <= here + steps <= 3:
        return 0 if steps < 0 else n - 1
    part = quartiles[here + steps]
    return part[(len(part) - 1) // 2] if steps < 0 else part[len(part) // 2]


def move_by_lists(cell, genes, steps):
    """Take each gene out of a list in turn, and put it where it should be."""
    cell = list(cell)
    for gene in genes:
        place = place_by_listing(len(cell), cell.index(gene), steps)
        cell.remove(gene)
        cell = [*cell[:place], gene, *cell[place:]]
    return cell


@given(
    n=st.integers(4, 60), kind=st.sampled_from(["inhibit", "activate"]), quartiles=st.integers(1, 3),
    data=st.data(),
)  # fmt: skip
def test_moves_equal_lists(n, kind, quartiles, data):
    cell = data.draw(st.permutations(range(10, 10 + n)))
    genes = tuple(data.draw(st.lists(st.sampled_from(cell), min_size=1, max_size=3, unique=True)))
    wrapped = data.draw(st.booleans())
    layout = InputLayout(int(wrapped), int(wrapped), max_length=n + 2)
    ids = np.array([2, *cell, 3] if wrapped else cell)
    before = ids.copy()
    edit = edit_function(kind, quartiles)(ids, genes, layout)
    moved = edit.input_ids[layout.genes(len(ids))].tolist()
    assert moved == move_by_lists(cell, genes, quartiles if kind == "inhibit" else -quartiles)
    assert sorted(moved) == sorted(cell)
    others = [gene for gene in cell if gene not in genes]
    assert [gene for gene in moved if gene not in genes] == others
    assert ids[edit.original_index].tolist() == edit.input_ids[edit.perturbed_index].tolist() == others
    np.testing.assert_array_equal(ids, before)


@given(n=st.integers(1, 400), steps=st.integers(1, 3), data=st.data())
def test_places_go_their_way_and_mirror_each_other(n, steps, data):
    position = data.draw(st.integers(0, n - 1))
    assert 0 <= quartile_place(n, position, -steps) <= position <= quartile_place(n, position, steps) < n
    mirrored = n * 4 - 1 - quartile_place(4 * n, 4 * n - 1 - position, -steps)
    assert quartile_place(4 * n, position, steps) == mirrored


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


@pytest.mark.parametrize("check", [require_kind, edit_function])
def test_kinds_that_are_not_there_name_those_that_are(check):
    with pytest.raises(ValueError, match="delete, overexpress, inhibit, activate, knockout"):
        check("Delete")
