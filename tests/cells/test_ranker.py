"""Blocks of raw rows against a brute-force order, on every shape that takes another way through."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geneformer_grn.cells import ranker as ranker_module
from geneformer_grn.cells import row_ranges
from geneformer_grn.cells.rank_table import build_table
from geneformer_grn.cells.ranker import Ranker
from geneformer_grn.cells.row_ranges import describe_columns

DTYPES = (
    np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64,
)  # fmt: skip


def expected_cell(block, row, column_tokens, medians):
    """Sum by token in plain Python, order by (ratio, token); return tokens and sums."""
    sums = {}
    for place in range(block.indptr[row], block.indptr[row + 1]):
        token = int(column_tokens[block.indices[place]])
        if token >= 0 and block.data[place] > 0:
            sums[token] = sums.get(token, 0.0) + float(block.data[place])
    tokens = np.array(sorted(sums), dtype=np.int64)
    values = np.array([sums[token] for token in tokens])
    order = np.lexsort((tokens, -(values / medians[tokens]))) if len(tokens) else []
    return tokens[order], values[order] if len(tokens) else values


def check(block, column_tokens, medians, **options):
    ranked = Ranker(column_tokens, medians, with_counts=True, **options).rank(block)
    longest = options.get("longest") or len(medians)
    for row in range(block.shape[0]):
        tokens, values = expected_cell(block, row, column_tokens, medians)
        cell = slice(ranked.offsets[row], ranked.offsets[row + 1])
        tokens, values, n_genes = tokens[:longest], values[:longest], len(tokens)
        if wrap := options.get("wrap"):
            tokens, values = [wrap[0], *tokens, wrap[1]], [0.0, *values, 0.0]
        np.testing.assert_array_equal(ranked.tokens[cell], tokens)
        np.testing.assert_array_equal(ranked.counts[cell], values)
        assert ranked.lengths[row] == n_genes
    stored = [block.data[block.indptr[row] : block.indptr[row + 1]] for row in range(block.shape[0])]
    np.testing.assert_allclose(
        ranked.totals, [values.astype(np.float64).sum() for values in stored], rtol=1e-12
    )
    known = [ranked.counts[a:b].sum() for a, b in pairwise(ranked.offsets)]
    if longest >= len(medians):
        np.testing.assert_allclose(ranked.known, known, rtol=1e-12)
    assert ranked.tokens.dtype == np.uint16
    assert ranked.offsets[-1] == len(ranked.tokens) == len(ranked.counts)
    return ranked


def random_block(generator, *, n_columns, n_cells, largest, dtype, ordered):
    lengths = generator.integers(0, n_columns + 1, n_cells)
    rows = [
        np.sort(generator.choice(n_columns, length, replace=False))
        if ordered
        else generator.integers(0, n_columns, length)
        for length in lengths
    ]
    indices = np.concatenate([np.empty(0, dtype=np.int32), *rows]).astype(np.int32)
    if np.dtype(dtype).kind in "iu":
        largest = min(largest, np.iinfo(dtype).max)
    data = generator.integers(0, largest, len(indices), endpoint=True).astype(dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_matrix((data, indices, offsets), shape=(n_cells, n_columns))


@given(
    n_columns=st.integers(1, 150),
    n_tokens=st.integers(1, 200),
    n_cells=st.integers(0, 6),
    largest=st.sampled_from([1, 3, 100, 127, 10**5, 2**53]),
    dtype=st.sampled_from(DTYPES),
    ordered=st.booleans(),
    distinct=st.booleans(),
    ties=st.booleans(),
    tabled=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=200, deadline=None)
def test_order_is_brute_force(
    n_columns, n_tokens, n_cells, largest, dtype, ordered, distinct, ties, tabled, seed
):
    generator = np.random.default_rng(seed)
    if dtype == np.float32:
        largest = min(largest, 2**24)
    block = random_block(
        generator, n_columns=n_columns, n_cells=n_cells, largest=largest, dtype=dtype, ordered=ordered
    )
    if distinct:
        tokens = generator.permutation(max(n_columns, n_tokens))[:n_columns]
        tokens[tokens >= n_tokens] = -1
    else:
        tokens = generator.integers(-1, n_tokens, n_columns)
    medians = (
        generator.choice([1.0, 1.5, 3.0, 1 / 3], n_tokens) if ties else generator.uniform(0.5, 3, n_tokens)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranker_module, "_TABLE_VALUES", 1 if tabled else 1 << 40)
        check(block, tokens, medians)
        check(block, tokens, medians, longest=1 + seed % 20)
        check(block, tokens, medians, longest=1 + seed % 20, wrap=(60_001, 60_002))


@given(seed=st.integers(0, 10_000), tabled=st.booleans(), ordered=st.booleans())
@settings(max_examples=40, deadline=None)
def test_threads_and_cuts_change_nothing(seed, tabled, ordered):
    generator = np.random.default_rng(seed)
    block = random_block(generator, n_columns=90, n_cells=30, largest=40, dtype=np.float64, ordered=ordered)
    block.data *= generator.choice([1.0, 0.1], block.nnz)  # sums of fractions depend on their order
    tokens, medians = generator.integers(-1, 70, 90), generator.uniform(0.5, 3, 70)
    options = {
        "with_counts": True,
        "longest": None if seed % 2 else 12,
        "wrap": (71, 72) if seed % 3 else None,
    }
    whole = Ranker(tokens, medians, **options).rank(block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_ranges, "_RANGE_VALUES", 50)
        patch.setattr(ranker_module, "_TABLE_VALUES", 300 if tabled else 1 << 40)
        ranker = Ranker(tokens, medians, threads=3, **options)
        cuts = [0, 1, 1, 9, 30]
        parts = [ranker.rank(block[a:b]) for a, b in pairwise(cuts)]
    for name in ("tokens", "lengths", "totals", "known", "counts"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert joined.tobytes() == getattr(whole, name).tobytes(), name
    np.testing.assert_array_equal(
        np.concatenate([np.diff(part.offsets) for part in parts]), np.diff(whole.offsets)
    )


@pytest.mark.parametrize("tabled", [False, True])
def test_many_columns_and_the_largest_vocabulary(monkeypatch, tabled):
    monkeypatch.setattr(ranker_module, "_TABLE_VALUES", 1000 if tabled else 1 << 40)
    generator = np.random.default_rng(0)
    tokens = generator.permutation(70_000)
    tokens[tokens >= 65_536] = -1
    medians = generator.choice([0.7, 1.0, 2.5], 65_536)
    dense = generator.poisson(0.6, (3, 70_000)).astype(np.uint16)
    dense[0, :300] = generator.integers(1, 60_000, 300)
    ranked = check(sparse.csr_matrix(dense), tokens, medians)
    assert ranked.lengths.min() > 20_000


def test_counts_above_the_table_are_merged_where_they_belong():
    """The table is built from small counts only; later rows hold larger ones, between and beside them."""
    medians = np.array([1.0, 2.0, 4.0, 8.0, 1.0])
    ranker = Ranker(np.arange(5), medians)
    columns = describe_columns(np.arange(5), medians)
    ranker._table, ranker._n_seen = build_table(np.array([2, 2, 0, 3, 1]), columns), 1 << 40
    block = sparse.csr_matrix(np.array([[1, 4, 4, 8, 2], [3, 2, 9, 24, 1], [2, 4, 8, 16, 2.0]]))
    ranked = ranker.rank(block)
    expected = [expected_cell(block, row, np.arange(5), medians)[0] for row in range(3)]
    np.testing.assert_array_equal(ranked.tokens, np.concatenate(expected))


def test_logarithms_are_undone():
    counts = np.array([[3.0, 1.0, 7.0], [1.0, 0.0, 2.0]])
    medians = np.array([2.0, 1.0, 5.0])
    block = sparse.csr_matrix(np.log1p(counts))
    ranked = Ranker(np.arange(3), medians, undo_log=True, with_counts=True).rank(block)
    np.testing.assert_allclose(ranked.totals, [11, 3])
    np.testing.assert_array_equal(ranked.tokens, [0, 2, 1, 0, 2])
    np.testing.assert_array_equal(ranked.counts, np.expm1(np.log1p([3.0, 7, 1, 1, 2])))
    assert ranked.values.maximum == np.log1p(7.0)  # of what is stored


@pytest.mark.parametrize("tabled", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("values", "minimum", "maximum", "n_not_finite", "fraction"),
    [
        ([1, 2, 3], 1, 3, 0, None),
        ([1, 2.5, 0.25], 0.25, 2.5, 0, 2.5),
        ([4, -1, -2], -2, 4, 0, None),
        ([4, np.nan, 2], 2, 4, 1, None),
        ([np.inf, 1.5, -np.inf], -np.inf, np.inf, 2, 1.5),
        ([np.nan, np.nan, np.nan], np.nan, np.nan, 3, None),
        ([0, -0.0, 1e30], 0, 1e30, 0, None),
    ],
)
def test_values_are_described_and_bad_ones_break_nothing(
    monkeypatch, tabled, dtype, values, minimum, maximum, n_not_finite, fraction
):
    monkeypatch.setattr(ranker_module, "_TABLE_VALUES", 1 if tabled else 1 << 40)
    monkeypatch.setattr(row_ranges, "_RANGE_VALUES", 10)
    matrix = sparse.csr_matrix((np.array(values, dtype=dtype), [0, 1, 3], [0, 3, 3]), shape=(2, 4))
    found = Ranker(np.array([1, 0, -1, 2]), np.ones(3)).rank(matrix).values
    np.testing.assert_array_equal([found.minimum, found.maximum], [minimum, np.array(maximum, dtype=dtype)])
    assert (found.n_not_finite, found.first_fraction) == (n_not_finite, fraction)


def test_the_first_fraction_is_the_file_s_first(monkeypatch):
    monkeypatch.setattr(row_ranges, "_RANGE_VALUES", 2)
    block = sparse.csr_matrix(np.array([[1.0, 2.0], [0.5, 2.0], [0.75, 3.5]]))
    assert Ranker(np.arange(2), np.ones(2), threads=2).rank(block).values.first_fraction == 0.5


@pytest.mark.parametrize("column", [-1, 3, 2_000_000])
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_columns_outside_of_the_matrix_are_refused(monkeypatch, column, order):
    monkeypatch.setattr(ranker_module, "_TABLE_VALUES", 1)
    block = sparse.csr_matrix(np.ones((2, 3)))
    block.indices[[0, 1, 2]] = [1, *np.array([2, column])[order]]
    with pytest.raises(ValueError, match="outside of the matrix"):
        Ranker(np.arange(3), np.ones(3)).rank(block)


def test_damaged_offsets_are_refused():
    block = sparse.csr_matrix(np.ones((3, 3)))
    block.indptr[1] = 8
    with pytest.raises(ValueError, match="damaged"):
        Ranker(np.arange(3), np.ones(3)).rank(block)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="a block of 4 columns"):
        Ranker(np.arange(3), np.ones(3)).rank(sparse.csr_matrix((1, 4)))
    with pytest.raises(ValueError, match="token 1 has the median nan"):
        Ranker(np.array([0, 1]), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="vocabulary of 2"):
        Ranker(np.array([0, 2]), np.ones(2))
    with pytest.raises(ValueError, match="at least 1"):
        Ranker(np.array([0]), np.ones(1), threads=0)


def test_the_block_is_left_unchanged():
    block = sparse.csr_matrix((np.array([2, 0, 5], dtype=np.int16), [2, 2, 0], [0, 3]), shape=(1, 3))
    before = block.data.copy(), block.indices.copy(), block.indptr.copy()
    Ranker(np.array([1, 0, 1]), np.ones(2)).rank(block)
    for kept, now in zip(before, (block.data, block.indices, block.indptr), strict=True):
        np.testing.assert_array_equal(kept, now)
