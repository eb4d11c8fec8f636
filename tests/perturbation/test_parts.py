"""Parts: every pair once, the same whoever computes them, and sums that add."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.perturbation import parts as module
from geneformer_grn.perturbation.engine import perturb_cells
from geneformer_grn.perturbation.parts import PartList, add_sums, perturb_part
from geneformer_grn.perturbation.requests import PerturbSettings, Request


def ranked_cells(vocabulary, lengths, seed=3):
    rng = np.random.default_rng(seed)
    genes = np.arange(vocabulary.n_special, len(vocabulary))
    cells = [rng.permutation(genes)[:length] for length in lengths]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return RankedCells(
        tokens=np.concatenate(cells).astype(np.uint16), offsets=offsets, n_counts=np.ones(len(cells))
    )


@pytest.fixture(scope="module")
def ranked(tiny_vocabulary):
    return ranked_cells(tiny_vocabulary, [60, 30, 12, 45, 7, 46, 20, 5])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_parts_hold_every_pair_once_and_no_more_than_asked(tiny_vocabulary, data):
    lengths = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=9))
    ranked = ranked_cells(tiny_vocabulary, lengths)
    cells = st.lists(st.integers(0, len(lengths) - 1), unique=True, max_size=len(lengths))
    requests = [
        Request(genes=(7 + number,), kind="delete", cells=np.array(some, dtype=np.int64))
        for number, some in enumerate(data.draw(st.lists(cells, min_size=1, max_size=7)))
    ]
    part_tokens, window = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW_PAIRS", window)
        parts = PartList(ranked, requests, tiny_vocabulary, part_tokens=part_tokens)
        listed = [parts.pairs(number) for number in range(len(parts))]
        backwards = [parts.pairs(number) for number in reversed(range(len(parts)))]
    for one, other in zip(listed, reversed(backwards), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [parts.size(number) for number in range(len(parts))] == [len(pairs.row) for pairs in listed]
    expected = [(number, cell) for number, request in enumerate(requests) for cell in request.cells]
    assert parts.n_pairs == len(expected)
    found = {
        int(row): (int(request), int(cell))
        for pairs in listed
        for request, cell, row in zip(*pairs, strict=True)
    }
    assert [found[row] for row in range(len(expected))] == expected
    order = [(int(c), int(r)) for pairs in listed for r, c, _ in zip(*pairs, strict=True)]
    assert order == sorted((cell, number) for number, cell in expected)
    model_length = np.minimum(np.array(lengths) + 2, tiny_vocabulary.max_length)
    for pairs in listed:
        tokens = int(model_length[pairs.cell].sum())
        assert tokens <= part_tokens or len(set(pairs.cell.tolist())) == 1
        if len(pairs.cell):
            assert tokens <= part_tokens + model_length[pairs.cell[0]]
    ends = [int(pairs.cell[-1]) for pairs in listed if len(pairs.cell)]
    for cell in {cell for _, cell in expected}:
        load = sum(c == cell for _, c in expected) * model_length[cell]
        if load <= part_tokens:  # a cell that fits is not cut
            assert ends.count(cell) <= 1


def test_the_rest_of_a_cell_that_was_cut_counts_in_its_part(tiny_vocabulary):
    """Three pairs of 4 tokens in parts of 9: one, then two with no room for the next cell's three."""
    requests = [
        Request(genes=(7 + number,), kind="delete", cells=np.array(cells))
        for number, cells in enumerate(([0, 1], [0, 1], [0, 1, 2]))
    ]
    parts = PartList(ranked_cells(tiny_vocabulary, [1, 2, 1]), requests, tiny_vocabulary, part_tokens=9)
    held = [parts.pairs(number).cell.tolist() for number in range(len(parts))]
    assert held == [[0, 0, 0], [1], [1, 1], [2]]


def test_a_part_needs_some_work(ranked, tiny_vocabulary):
    request = Request(genes=(7,), kind="delete", cells=np.arange(3))
    with pytest.raises(ValueError, match="at least 1 token"):
        PartList(ranked, [request], tiny_vocabulary, part_tokens=0)


def test_nothing_to_do_is_one_empty_part(ranked, tiny_encoder):
    request = Request(genes=(7,), kind="delete", cells=np.empty(0, dtype=np.int64))
    parts = PartList(ranked, [request], tiny_encoder.vocabulary)
    assert [len(column) for column in parts.pairs(0)] == [0, 0, 0]
    found = perturb_cells(
        tiny_encoder, ranked, [request], PerturbSettings(readouts=("cell", "genes", "expression"))
    )
    assert [len(table) for table in (found.cells, found.gene_shifts, found.expression)] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_however_it_is_cut_the_results_are_the_same(tiny_encoder, ranked, kind, monkeypatch):
    readouts = ("cell", "genes", "expression")
    settings = PerturbSettings(readouts=readouts, token_budget=150, masked_share=0.5)
    requests = [
        Request(genes=(int(gene),), kind=kind, cells=np.arange(len(ranked))[::-1])
        for gene in ranked.cell(4)[:5]
    ]
    whole = perturb_cells(tiny_encoder, ranked, requests, settings)
    monkeypatch.setattr(module, "PART_TOKENS", 1)
    cut = PartList(ranked, requests, tiny_encoder.vocabulary, part_tokens=120)
    assert len(cut) > 5
    values = np.full((cut.n_pairs, 1), np.nan)
    sums = {readout: [] for readout in readouts[1:]}
    for number in reversed(range(len(cut))):
        request, cell, row = cut.pairs(number)
        told = []
        result = perturb_part(tiny_encoder, ranked, requests, (request, cell), settings, tell=told.append)
        again = perturb_part(tiny_encoder, ranked, requests, (request, cell), settings)
        np.testing.assert_array_equal(result.values, again.values)
        assert sum(told) == len(request)
        values[row] = result.values
        for readout, frame in result.sums.items():
            pd.testing.assert_frame_equal(frame, again.sums[readout])
            sums[readout].append(frame)
    np.testing.assert_allclose(values[:, 0], whole.cells["cosine"], atol=1e-6)
    added = add_sums(sums["genes"])
    np.testing.assert_allclose(added["shift"] / added["n_cells"], whole.gene_shifts["shift"], atol=1e-6)
    added = add_sums(sums["expression"])
    np.testing.assert_allclose(
        added["delta_nats"] / added["n_cells"], whole.expression["delta_nats"], atol=1e-4
    )


def test_sums_add_as_a_group_by_and_in_one_order(monkeypatch):
    rng = np.random.default_rng(0)
    frames = []
    for size in (400, 0, 300, 1):
        frame = pd.DataFrame(
            {
                "request": rng.integers(0, 6, size),
                "affected": rng.integers(0, 20, size).astype(np.int32),
                "n_cells": rng.integers(1, 9, size),
                "shift": rng.normal(size=size) * 1e-6,
            }
        )
        frames.append(frame.groupby(["request", "affected"], as_index=False).sum().astype(frame.dtypes))
    expected = pd.concat(frames).groupby(["request", "affected"], as_index=False).sum()
    at_once = add_sums(frames)
    pd.testing.assert_frame_equal(at_once, expected.astype(frames[0].dtypes.to_dict()))
    monkeypatch.setattr(module, "_BUFFER_ROWS", 1)
    pd.testing.assert_frame_equal(add_sums(iter(frames)), at_once, check_exact=True)
    assert add_sums([]).empty
    assert add_sums([frames[1]]).columns.tolist() == frames[0].columns.tolist()
