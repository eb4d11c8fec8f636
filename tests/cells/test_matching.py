"""Columns of tokens: summed where several mean one gene, refused where an identifier is repeated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geneformer_grn.cells.matching import check_duplicates, known_genes, row_sums

DTYPES = (np.float32, np.float64, np.int32, np.uint16, np.int64)


@given(
    tokens=st.lists(st.integers(-1, 6), min_size=1, max_size=12).filter(lambda values: max(values) >= 0),
    n_cells=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_known_genes_equal_dense_sums(tokens, n_cells, dtype, seed):
    tokens = np.array(tokens, dtype=np.int32)
    dense = np.random.default_rng(seed).poisson(0.8, (n_cells, len(tokens))).astype(dtype)
    known, column_tokens = known_genes(sparse.csr_matrix(dense), tokens, integral=True)
    assert column_tokens.tolist() == sorted(set(tokens[tokens >= 0].tolist()))
    expected = np.stack([dense[:, tokens == token].sum(axis=1) for token in column_tokens], axis=1)
    np.testing.assert_array_equal(known.toarray(), expected)
    assert known.has_sorted_indices
    assert known.dtype == np.float32
    assert (known.data != 0).all()


def test_blocks_of_rows_change_nothing(monkeypatch):
    dense = np.random.default_rng(0).poisson(0.5, (50, 8)).astype(np.float32)
    dense[10:14] = 0
    tokens = np.array([3, -1, 3, 0, 5, 1, -1, 2], dtype=np.int32)
    whole, _ = known_genes(sparse.csr_matrix(dense), tokens, integral=True)
    monkeypatch.setattr("geneformer_grn.cells.matching._ROWS_VALUES", 7)
    parts, _ = known_genes(sparse.csr_matrix(dense), tokens, integral=True)
    np.testing.assert_array_equal(whole.toarray(), parts.toarray())


def test_counts_that_float32_would_round_stay_exact():
    big = sparse.csr_matrix(np.array([[2**24 + 1, 1]], dtype=np.int64))
    known, _ = known_genes(big, np.array([0, 1], dtype=np.int32), integral=True)
    assert known.dtype == np.float64
    assert known[0, 0] == 2**24 + 1


def test_row_sums_with_empty_rows():
    dense = np.zeros((5, 3), dtype=np.float32)
    dense[1], dense[3, 2] = 2.0, 1.0
    np.testing.assert_array_equal(row_sums(sparse.csr_matrix(dense)), [0, 6, 0, 1, 0])
    np.testing.assert_array_equal(row_sums(sparse.csr_matrix((2, 3))), [0, 0])


def test_repeated_ensembl_ids_are_named():
    repeated = np.array(["ENSG00000000001", "ensg00000000001", "ENSG00000000002"], dtype=object)
    with pytest.raises(ValueError, match=r"ENSG00000000001 occurs 2 times in var_names.*--sum-duplicates"):
        check_duplicates(repeated, "var_names", "cells")


@pytest.mark.parametrize("names", [["A", "A"], ["", ""], ["ENSG00000000001.1", "ENSG00000000001.2"]])
def test_other_repeats_are_not_refused(names):
    check_duplicates(np.array(names, dtype=object), "var_names", "cells")
