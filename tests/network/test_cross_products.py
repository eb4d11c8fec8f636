"""Sparse, dense and blockwise correlations against numpy; the stated error of float32."""

import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.network import cross_products
from geneformer_grn.network.cross_products import correlation_blocks, cross_correlation

ROWS, COLUMNS = np.array([0, 4, 7, 7, 30]), np.arange(40)[::-1]


def drawn(density: float, n_cells: int = 600, dtype=np.float32) -> np.ndarray:
    """Correlated cells, of whose values a share is above 0; gene 30 is constant, gene 31 silent."""
    generator = np.random.default_rng(3)
    values = generator.normal(size=(n_cells, 4)) @ generator.normal(size=(4, 40))
    values += generator.normal(size=values.shape)
    values = np.maximum(values - np.quantile(values, 1 - density), 0.0)
    values[:, 30], values[:, 31] = 0.7, 0.0
    return values.astype(dtype)


def by_numpy(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore", divide="ignore"):
        full = np.corrcoef(values.astype(np.float64), rowvar=False)
    full[30] = full[:, 30] = 0.0
    present = values > 0
    support = (present[:, :, None] & present[:, None, :]).sum(axis=0)
    return np.nan_to_num(full)[np.ix_(ROWS, COLUMNS)], support[np.ix_(ROWS, COLUMNS)]


@pytest.fixture
def products(monkeypatch):
    """Count the calls of the sparse kernel."""
    from geneformer_grn.network import cross_kernels

    calls = []
    inside = cross_kernels.sparse_products
    monkeypatch.setattr(
        cross_kernels, "sparse_products", lambda left, right: calls.append(left.shape) or inside(left, right)
    )
    return calls


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows_per_block", [2, 100])
def test_sparse_products_equal_numpy(products, dtype, rows_per_block):
    values = drawn(0.08, dtype=dtype)
    values[:, 30] = 0.0  # a constant gene that is stored everywhere makes the matrix no less sparse
    blocks = list(correlation_blocks(sparse.csr_matrix(values), ROWS, COLUMNS, rows_per_block=rows_per_block))
    assert len(products) == len(blocks) == (3 if rows_per_block == 2 else 1)
    assert [place for place, _, _ in blocks][-1].stop == len(ROWS)
    correlation, support = by_numpy(values)
    np.testing.assert_allclose(np.vstack([block for _, block, _ in blocks]), correlation, atol=1e-12)
    np.testing.assert_array_equal(np.vstack([block for _, _, block in blocks]), support)


def test_stored_values_below_zero_give_no_support():
    values = drawn(0.08)
    values[:, 30] = 0.0
    values[::2] *= -1.0
    correlation, support = cross_correlation(sparse.csr_matrix(values), ROWS, COLUMNS)
    expected, counted = by_numpy(values)
    np.testing.assert_allclose(correlation, expected, atol=1e-12)
    np.testing.assert_array_equal(support, counted)


def test_stored_zeros_give_no_support():
    values = sparse.csr_matrix(drawn(0.08))
    values.data[::3] = 0.0
    before = values.copy()
    for columns in (COLUMNS, np.arange(40)):
        correlation, support = cross_correlation(values, ROWS, columns)
        dense, counted = cross_correlation(values.toarray(), ROWS, columns)
        np.testing.assert_allclose(correlation, dense, atol=1e-12)
        np.testing.assert_array_equal(support, counted)
    np.testing.assert_array_equal(values.data, before.data)


def test_integers_can_be_correlated():
    values = (10 * drawn(0.08)).astype(np.int64)
    correlation, _ = cross_correlation(sparse.csr_matrix(values), ROWS, COLUMNS)
    np.testing.assert_allclose(correlation, by_numpy(values)[0], atol=1e-12)


def test_a_level_far_above_the_spread_goes_through_centred_blocks(products):
    """Sums of raw values would lose eight of the sixteen digits here."""
    values = drawn(0.02, dtype=np.float64)
    values[:, 4] = 1e4 + np.random.default_rng(0).normal(size=len(values))
    values[:, 30] = 0.0
    correlation, _ = cross_correlation(sparse.csr_matrix(values), ROWS, COLUMNS)
    assert not products
    np.testing.assert_allclose(correlation, by_numpy(values)[0], atol=1e-11)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_float32_blocks_stay_within_the_stated_bound(products, convert, monkeypatch):
    values = drawn(0.6, n_cells=1500)
    exact, support = cross_correlation(convert(values), ROWS, COLUMNS)
    np.testing.assert_allclose(exact, by_numpy(values)[0], atol=1e-12)
    for block in (64, 1024):
        monkeypatch.setattr(cross_products, "CELLS_PER_BLOCK", block)
        rounded, counted = cross_correlation(convert(values), ROWS, COLUMNS, precision="float32")
        error = np.abs(rounded - exact).max()
        assert 0 < error <= (block + 3) * 2.0**-24
        assert error < 1e-5
        np.testing.assert_array_equal(counted, support)
    assert not products


def test_no_rows_and_bad_precision():
    correlation, support = cross_correlation(drawn(0.5), np.array([], dtype=int), COLUMNS)
    assert correlation.shape == support.shape == (0, 40)
    with pytest.raises(ValueError, match="float64 or float32, not 'float16'"):
        cross_correlation(drawn(0.5), ROWS, COLUMNS, precision="float16")
