"""Rankings equal brute force, and the reference's tokens."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geneformer_grn.cells.counts import CellCounts, read_counts
from geneformer_grn.cells.ranking import model_input, rank_cells
from geneformer_grn.genes.dictionaries import import_dictionaries


def as_counts(dense, column_tokens):
    matrix = sparse.csr_matrix(dense)
    return CellCounts(
        matrix=matrix,
        column_tokens=np.asarray(column_tokens, dtype=np.int32),
        n_counts=np.asarray(dense, dtype=np.float64).sum(axis=1),
        obs=pd.DataFrame(index=range(len(dense))),
        kept=np.arange(len(dense)),
    )


def brute_force(dense, column_tokens, vocabulary):
    for row in dense:
        present = [
            (-float(c) / vocabulary.medians[t], t) for c, t in zip(row, column_tokens, strict=True) if c
        ]
        yield [token for _, token in sorted(present)]


@given(
    n_cells=st.integers(1, 6),
    n_genes=st.integers(1, 60),
    largest=st.sampled_from([1, 3, 200, 10**7]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=100, deadline=None)
def test_ranks_equal_brute_force(tiny_vocabulary, n_cells, n_genes, largest, dtype, seed):
    generator = np.random.default_rng(seed)
    column_tokens = np.sort(generator.choice(np.arange(5, 65), n_genes, replace=False))
    medians = tiny_vocabulary.medians.copy()
    medians[5:] = generator.choice([1.0, 1.5, 3.0, 1 / 3], 60)  # many ties, some of them only nearly so
    vocabulary = replace(tiny_vocabulary, medians=medians)
    dense = (generator.integers(0, largest + 1, (n_cells, n_genes))).astype(dtype)
    ranked = rank_cells(as_counts(dense, column_tokens), vocabulary)
    for index, expected in enumerate(brute_force(dense, column_tokens, vocabulary)):
        assert ranked.cell(index).tolist() == expected
    assert ranked.tokens.dtype == np.uint16
    np.testing.assert_array_equal(ranked.lengths, (dense > 0).sum(axis=1))


def test_blocks_of_cells_change_nothing(tiny_adata, tiny_vocabulary, monkeypatch):
    counts = read_counts(tiny_adata, tiny_vocabulary)
    whole = rank_cells(counts, tiny_vocabulary)
    monkeypatch.setattr("geneformer_grn.cells.row_ranges._RANGE_VALUES", 100)
    np.testing.assert_array_equal(rank_cells(counts, tiny_vocabulary).tokens, whole.tokens)
    np.testing.assert_array_equal(whole.n_counts, counts.n_counts)


def test_double_precision_decides(tiny_vocabulary):
    """Two ratios that float32 cannot tell apart, the higher token having the larger one."""
    medians = tiny_vocabulary.medians.copy()
    medians[5], medians[6] = 1.0 + 1e-12, 1.0
    ranked = rank_cells(as_counts(np.ones((1, 2)), [5, 6]), replace(tiny_vocabulary, medians=medians))
    assert ranked.cell(0).tolist() == [6, 5]


def test_model_input_wraps_and_crops(tiny_vocabulary):
    tokens = np.arange(5, 65, dtype=np.uint16)
    assert model_input(tokens[:2], tiny_vocabulary).tolist() == [2, 5, 6, 3]
    cropped = model_input(tokens, tiny_vocabulary)
    assert (len(cropped), cropped[0], cropped[-1], cropped[-2]) == (48, 2, 3, 50)
    assert model_input(tokens, tiny_vocabulary, max_length=3).tolist() == [2, 5, 3]
    assert cropped.dtype == np.int64
    with pytest.raises(ValueError, match="holds no gene"):
        model_input(tokens, tiny_vocabulary, max_length=2)


@pytest.mark.shared
@pytest.mark.parametrize(("setting", "n_cells"), [("v1", 397), ("v2", 120)])
def test_tokens_equal_the_reference(golden_dir, setting, n_cells):
    vocabulary = import_dictionaries(golden_dir / "dictionaries", setting)
    name = "tokens.npz" if setting == "v1" else "tokens_first120.npz"
    with np.load(golden_dir / setting / name) as golden:
        expected = np.split(golden["ids"], np.cumsum(golden["lengths"])[:-1])
    ranked = rank_cells(read_counts(golden_dir / "pbmc400.h5ad", vocabulary), vocabulary)
    assert len(expected) == n_cells
    assert len(ranked) == 397
    for index, tokens in enumerate(expected):
        np.testing.assert_array_equal(model_input(ranked.cell(index), vocabulary), tokens)
