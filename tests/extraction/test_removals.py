"""Which cells a regulator is taken out of, how work is cut, and what is put in its place."""

import numpy as np
import pytest

from geneformer_grn.cells.ranking import RankedCells, model_input
from geneformer_grn.extraction import removals as module
from geneformer_grn.extraction.removals import PairTables, draw_removals, pieces, removal_tasks


def draw(vocabulary, ranked, regulators, *, cells=None, most=5, seed=0):
    return draw_removals(vocabulary, ranked, regulators, cells, cells_per_regulator=most, seed=seed)


@pytest.mark.parametrize("most", [1, 5, 100])
def test_each_regulator_is_drawn_from_cells_that_hold_it(tiny_vocabulary, ranked, genes, most):
    regulators, _ = genes
    found = draw(tiny_vocabulary, ranked, regulators, most=most)
    inputs = [model_input(ranked.cell(cell), tiny_vocabulary) for cell in range(30)]
    for number, regulator in enumerate(regulators):
        cells = found.cell[found.regulator == number]
        assert len(set(cells)) == len(cells) == min(most, sum(regulator in ids for ids in inputs))
        assert all(regulator in inputs[cell] for cell in cells)
    assert np.all(np.diff(found.cell) >= 0)


def test_regulators_share_cells(tiny_vocabulary, ranked, genes):
    found = draw(tiny_vocabulary, ranked, genes[0], most=3)
    assert found.n_cells < 0.5 * len(found.cell)
    other = draw(tiny_vocabulary, ranked, genes[0], most=3, seed=1)
    assert set(other.cell) != set(found.cell)
    among = draw(tiny_vocabulary, ranked, genes[0], cells=np.array([7, 9]))
    assert set(among.cell) <= {7, 9}


def test_a_regulator_alone_in_its_cell_is_left_there(tiny_vocabulary):
    alone = RankedCells(
        tokens=np.array([5], dtype=np.uint16), offsets=np.array([0, 1, 1]), n_counts=np.ones(2)
    )
    assert len(draw(tiny_vocabulary, alone, np.array([5])).cell) == 0


@pytest.mark.parametrize("tokens", [1, 300, 10**9])
def test_pieces_are_whole_cells(tiny_vocabulary, ranked, genes, tokens, monkeypatch):
    monkeypatch.setattr(module, "_PIECE_TOKENS", tokens)
    found = draw(tiny_vocabulary, ranked, genes[0], most=100)
    parts = list(pieces(found, ranked, tiny_vocabulary))
    np.testing.assert_array_equal(np.concatenate([part.cell for part in parts]), found.cell)
    np.testing.assert_array_equal(np.concatenate([part.regulator for part in parts]), found.regulator)
    held = [set(part.cell) for part in parts]
    assert sum(map(len, held)) == found.n_cells
    assert len(parts) == {1: found.n_cells, 10**9: 1}.get(tokens, len(parts))
    for part in parts:
        size = sum(min(len(ranked.cell(cell)) + 2, 48) for cell in part.cell)
        assert size <= tokens or len(set(part.cell)) == 1


@pytest.mark.parametrize("kind", ["hide", "swap"])
def test_another_token_in_the_same_place(tiny_vocabulary, ranked, genes, kind):
    found = draw(tiny_vocabulary, ranked, genes[0], most=100)
    tasks = removal_tasks(tiny_vocabulary, ranked, genes[0], found, kind=kind, seed=3)
    assert len(tasks) == len(found.cell)
    put = []
    for task, cell in zip(tasks, found.cell, strict=True):
        ids = model_input(ranked.cell(cell), tiny_vocabulary)
        (place,) = np.flatnonzero(ids == genes[0][task.request])
        assert np.flatnonzero(task.edit.input_ids != ids).tolist() == [place]
        others = [position for position in range(1, len(ids) - 1) if position != place]
        assert task.edit.original_index.tolist() == task.edit.perturbed_index.tolist() == others
        put.append(task.edit.input_ids[place])
        if kind == "swap":
            assert put[-1] not in ids or len(set(ranked.tokens) - set(ids)) == 0
    if kind == "hide":
        assert set(put) == {tiny_vocabulary.token_of["<mask>"]}
    else:
        assert len(set(put)) > 10
        assert min(put) >= tiny_vocabulary.n_special
        again = removal_tasks(tiny_vocabulary, ranked, genes[0], found, kind=kind, seed=3)
        assert [task.edit.input_ids.tolist() for task in again] == [
            task.edit.input_ids.tolist() for task in tasks
        ]


def test_tables_keep_the_targets_only():
    import pandas as pd

    tables = PairTables(2, np.array([9, 4]), 12, ("a",))
    for _ in range(2):
        tables.add(
            pd.DataFrame(
                {"request": [0, 0, 1], "affected": [4, 5, 9], "n_cells": [2, 1, 1], "a": [3.0, 9, 5]}
            )
        )
    assert tables.support.tolist() == [[0, 4], [2, 0]]
    np.testing.assert_array_equal(tables.mean("a", 1), [[np.nan, 1.5], [5.0, np.nan]])
    np.testing.assert_array_equal(tables.mean("a", 3), [[np.nan, 1.5], [np.nan, np.nan]])
