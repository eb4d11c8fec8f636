"""Counts by token against dense sums."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geneformer_grn.cells import row_ranges
from geneformer_grn.cells.known_counts import known_counts


@given(
    tokens=st.lists(st.integers(-1, 9), min_size=1, max_size=80),
    n_cells=st.integers(0, 9),
    dtype=st.sampled_from([np.float32, np.float64, np.int32, np.uint16, np.int64, np.int8]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_sums_by_token(tokens, n_cells, dtype, threads, seed):
    generator = np.random.default_rng(seed)
    tokens = np.array(tokens, dtype=np.int32) * 150  # a bitmap of several words
    tokens[tokens < 0] = -1
    lengths = generator.integers(0, 2 * len(tokens), n_cells)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    indices = generator.integers(0, len(tokens), offsets[-1])
    data = generator.integers(0, 9, len(indices)).astype(dtype)
    block = sparse.csr_matrix((data, indices, offsets), shape=(n_cells, len(tokens)))
    dense = block.astype(np.float64).toarray()  # which sums what stands twice
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_ranges, "_RANGE_VALUES", 40)
        matrix, found, totals, _ = known_counts(block, tokens, threads=threads)
    assert found.tolist() == sorted(set(tokens[tokens >= 0].tolist()))
    expected = [dense[:, tokens == token].sum(axis=1) for token in found]
    np.testing.assert_array_equal(matrix.toarray(), np.array(expected).T.reshape(n_cells, len(found)))
    np.testing.assert_array_equal(totals, dense.sum(axis=1))
    assert matrix.dtype == np.float32
    assert (matrix.data != 0).all()
    for row in range(n_cells):
        assert (np.diff(matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]) > 0).all()


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([2**24, 1], np.float32), ([2**24 + 1, 1], np.float64), ([0.5, 1], np.float64)],
)
def test_float32_only_where_it_is_exact(values, dtype):
    block = sparse.csr_matrix(np.array([values], dtype=np.float64))
    matrix, *_ = known_counts(block, np.array([0, 1]))
    assert matrix.dtype == dtype
    np.testing.assert_array_equal(matrix.toarray(), [values])


def test_a_sum_that_float32_would_round():
    block = sparse.csr_matrix(np.array([[2**24, 1.0]], dtype=np.float32))
    assert known_counts(block, np.array([3, 3]))[0][0, 0] == 2**24 + 1


def test_logarithms_are_undone():
    block = sparse.csr_matrix(np.log1p(np.array([[3.0, 0.0, 2.0]])))
    matrix, _, totals, values = known_counts(block, np.array([0, 1, -1]), undo_log=True)
    np.testing.assert_array_equal(matrix.data, np.expm1(np.log1p([3.0])))
    np.testing.assert_allclose(totals, [5.0])
    assert values.first_fraction == np.log1p(3.0)
