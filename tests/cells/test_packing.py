"""Packing: nothing lost, nothing padded, budgets kept."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer_grn.cells.packing import BatchShape, fill, pack, plan_by_budget


def test_pack_by_hand():
    batch = pack(
        [np.array([2, 7, 3], dtype=np.uint16), np.array([2, 8, 9, 3], dtype=np.uint16)],
        labels=[np.array([-100, 7, -100]), np.array([-100, -100, 6, -100])],
        cell_index=[41, 5],
    )
    assert batch.input_ids.tolist() == [[2, 7, 3, 2, 8, 9, 3]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3]]
    assert batch.labels.tolist() == [[-100, 7, -100, -100, -100, 6, -100]]
    assert batch.cu_seqlens.tolist() == [0, 3, 7]
    assert batch.masked_index.tolist() == [1, 5]
    assert batch.cell_index.tolist() == [41, 5]
    assert (batch.max_seqlen, batch.n_tokens, len(batch)) == (4, 7, 2)
    for tensor in (batch.input_ids, batch.position_ids, batch.labels, batch.masked_index, batch.cell_index):
        assert tensor.dtype == torch.int64
    assert batch.cu_seqlens.dtype == torch.int32


def test_defaults_and_own_positions():
    batch = pack([np.array([4, 5]), np.array([6])], position_ids=[np.array([0, 9]), np.array([3])])
    assert batch.position_ids.tolist() == [[0, 9, 3]]
    assert batch.labels.tolist() == [[-100] * 3]
    assert len(batch.masked_index) == 0
    assert batch.cell_index.tolist() == [0, 1]


def test_moving_keeps_everything():
    batch = pack([np.array([4, 5])]).to("cpu")
    assert batch.input_ids.tolist() == [[4, 5]]
    assert batch.max_seqlen == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequences": []}, "0 cells"),
        ({"sequences": [np.array([4]), np.array([], dtype=int)]}, "1 are empty"),
        ({"sequences": [np.array([4, 5])], "labels": [np.array([4])]}, "labels do not have"),
        ({"sequences": [np.array([4, 5])], "position_ids": [np.array([4])]}, "position_ids do not have"),
        ({"sequences": [np.array([4, 5])], "cell_index": [1, 2]}, "2 cell indices"),
    ],
)
def test_wrong_calls(arguments, message):
    with pytest.raises(ValueError, match=message):
        pack(**arguments)


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60), budget=st.integers(1, 120))
@settings(max_examples=150, deadline=None)
def test_plan_by_budget(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    groups = plan_by_budget(lengths, budget)
    together = np.concatenate(groups)
    np.testing.assert_array_equal(np.sort(together), np.arange(len(lengths)))
    assert (np.diff(lengths[together]) <= 0).all()
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        assert lengths[group].sum() <= budget or len(group) == 1
        if following is not None:  # no group could have taken one more
            assert lengths[group].sum() + lengths[following[0]] > budget


def test_plan_of_no_cells_and_without_budget():
    assert plan_by_budget([], 5) == []
    with pytest.raises(ValueError, match="at least 1"):
        plan_by_budget([3], 0)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    n_tokens=st.integers(72, 90),
    n_cells=st.integers(1, 40),
)
@settings(deadline=None)
def test_filling_changes_no_cell_and_gives_one_shape(lengths, n_tokens, n_cells):
    cells = [np.arange(5, 5 + length) for length in lengths]
    labels = [np.where(cell % 2, cell, -100) for cell in cells]
    batch = pack(cells, labels=labels)
    shape = BatchShape(n_tokens=n_tokens, n_cells=n_cells, n_masked=50, max_seqlen=10)
    filled = fill(batch, shape, filler=0)
    n_real = batch.n_tokens
    for name in ("input_ids", "position_ids", "labels"):
        assert getattr(filled, name).shape == (1, n_tokens)
        assert torch.equal(getattr(filled, name)[:, :n_real], getattr(batch, name))
    assert (filled.input_ids[:, n_real:] == 0).all()
    assert (filled.labels[:, n_real:] == -100).all()
    segments = filled.cu_seqlens.diff()
    assert segments[: len(batch)].tolist() == lengths
    assert (segments.min() >= 0, int(segments.max()) <= 10, int(filled.cu_seqlens[-1])) == (
        True,
        True,
        n_tokens,
    )
    assert len(segments) == len(filled.cell_index) >= n_cells
    if n_cells >= len(lengths) + 10:
        assert len(segments) == n_cells
    for left, right in zip(filled.cu_seqlens[:-1], filled.cu_seqlens[1:], strict=True):
        assert filled.position_ids[0, left:right].tolist() == list(range(right - left))
    assert filled.masked_index.tolist() == [*batch.masked_index.tolist()] + [-100] * (
        50 - len(batch.masked_index)
    )
    assert filled.cell_lengths.tolist() == batch.cell_lengths.tolist() == lengths


def test_a_batch_too_long_for_the_shape_is_refused():
    shape = BatchShape(n_tokens=10, n_cells=4, n_masked=4, max_seqlen=6)
    with pytest.raises(ValueError, match="does not fit 10 tokens"):
        fill(pack([np.arange(6), np.arange(5)]), shape, filler=0)
    with pytest.raises(ValueError, match="cell of 7"):
        fill(pack([np.arange(7)]), shape, filler=0)
