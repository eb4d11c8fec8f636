"""Resampling statistics against scipy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from geneformer_grn.statistics import (
    benjamini_hochberg,
    bootstrap_interval,
    bootstrap_ratio,
    matched_null_p,
)


@pytest.mark.parametrize("size", [1, 2, 17, 400])
def test_benjamini_hochberg_is_scipys(size):
    p = np.random.default_rng(size).beta(0.5, 2.0, size)
    p[: size // 3] = p[0]  # ties
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-12)


def test_benjamini_hochberg_leaves_nan_out_of_the_count():
    p = np.array([0.01, np.nan, 0.04, np.nan, 0.03])
    expected = stats.false_discovery_control(p[[0, 2, 4]])
    q = benjamini_hochberg(p)
    np.testing.assert_allclose(q[[0, 2, 4]], expected)
    assert np.isnan(q[[1, 3]]).all()
    assert benjamini_hochberg(np.array([])).shape == (0,)


def test_benjamini_hochberg_refuses_what_is_not_a_p_value():
    with pytest.raises(ValueError, match="between 0 and 1"):
        benjamini_hochberg(np.array([0.5, 1.5]))


def test_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(3).gamma(2.0, size=60)
    low, high = bootstrap_interval(values, rng=np.random.default_rng(0), n=8000)
    oracle = stats.bootstrap(
        (values,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    np.testing.assert_allclose([low, high], [oracle.low, oracle.high], rtol=0.02)


def test_bootstrap_interval_covers_the_mean():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(size=50), rng=rng, n=300)
        covered += low <= 0 <= high
    assert 0.90 < covered / 300 < 0.985


def test_bootstrap_interval_edges():
    rng = np.random.default_rng(0)
    assert np.isnan(bootstrap_interval(np.array([1.0, np.nan]), rng=rng)).all()
    assert bootstrap_interval(np.array([2.0, 2.0, np.nan]), rng=rng) == (2.0, 2.0)
    first = bootstrap_interval(np.arange(9.0), rng=np.random.default_rng(7))
    assert first == bootstrap_interval(np.arange(9.0), rng=np.random.default_rng(7))
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(np.arange(3.0), rng=rng, level=95)
    with pytest.raises(ValueError, match="resample"):
        bootstrap_interval(np.arange(3.0), rng=rng, n=0)


def test_bootstrap_ratio_is_a_loop_over_resamples():
    rng = np.random.default_rng(2)
    numerator, denominator = rng.normal(3.0, 1.0, 15), rng.uniform(1.0, 9.0, 15)
    drawn = np.random.default_rng(9).integers(0, 15, size=(400, 15))
    ratios = [
        sum(numerator[unit] for unit in units) / sum(denominator[unit] for unit in units) for units in drawn
    ]
    found = bootstrap_ratio(numerator, denominator, rng=np.random.default_rng(9), n=400, level=0.9)
    np.testing.assert_allclose(found, np.quantile(ratios, [0.05, 0.95]), rtol=1e-12)


def test_bootstrap_ratio_agrees_with_scipy():
    rng = np.random.default_rng(6)
    denominator = rng.uniform(1.0, 5.0, 80)
    numerator = denominator * rng.gamma(2.0, size=80)
    found = bootstrap_ratio(numerator, denominator, rng=np.random.default_rng(0), n=8000)
    oracle = stats.bootstrap(
        (numerator, denominator), lambda x, y, axis: x.sum(axis) / y.sum(axis), paired=True,
        n_resamples=8000, method="percentile", vectorized=True, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose(found, [oracle.low, oracle.high], rtol=0.02)


def test_bootstrap_ratio_draws_units_with_both_entries_and_in_blocks(monkeypatch):
    """Units of one ratio give that ratio whatever is drawn, also when drawn a few resamples at a time."""
    denominator = np.random.default_rng(3).uniform(1, 100, 50)
    rng = np.random.default_rng(0)
    whole = bootstrap_ratio(denominator**2, denominator, rng=np.random.default_rng(5))
    assert bootstrap_ratio(0.25 * denominator, denominator, rng=rng) == pytest.approx((0.25, 0.25))
    monkeypatch.setattr("geneformer_grn.statistics._BLOCK", 170)
    in_blocks = bootstrap_ratio(denominator**2, denominator, rng=np.random.default_rng(5))
    assert in_blocks == pytest.approx(whole, rel=1e-12)
    assert np.isnan(bootstrap_ratio(np.ones(1), np.ones(1), rng=rng)).all()


def test_matched_null_p_by_hand():
    null = np.array([0.1, 0.2, 0.3, np.nan])
    assert matched_null_p(0.2, null) == 3 / 4
    assert matched_null_p(0.9, null) == 1 / 4
    assert matched_null_p(0.05, null, alternative="less") == 1 / 4
    assert matched_null_p(0.9, null, alternative="two-sided") == 0.5
    assert matched_null_p(0.2, null, alternative="two-sided") == 1.0
    assert np.isnan(matched_null_p(np.nan, null))
    assert np.isnan(matched_null_p(0.1, np.array([np.nan])))
    with pytest.raises(ValueError, match="two-sided"):
        matched_null_p(0.1, null, alternative="both")


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_matched_null_p_is_uniform_under_the_null(alternative):
    rng = np.random.default_rng(11)
    p = [matched_null_p(draw[0], draw[1:], alternative=alternative) for draw in rng.normal(size=(2000, 40))]
    for level in (0.05, 0.1, 0.25, 0.5):
        assert np.mean(np.array(p) <= level) <= level + 0.03
    assert np.mean(np.array(p) <= 0.5) > 0.4
