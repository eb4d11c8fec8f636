"""Resampling statistics against scipy and closed forms."""

import itertools

import numpy as np
import pytest
from scipy import stats

from geneformer_grn.statistics import (
    benjamini_hochberg,
    bootstrap_interval,
    bootstrap_ratio,
    hierarchical_bootstrap,
    matched_null_p,
    traits_in_reach,
    without_trend,
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


def exact_two_level_distribution(donors):
    """Every resample of donors, then of cells within them: sorted means and their cumulative probability."""
    replicates = []
    for cells in donors:
        sums = [sum(drawn) for drawn in itertools.product(cells, repeat=len(cells))]
        replicates.append([(total, len(cells), 1 / len(sums)) for total in sums])
    slots = [(total, size, p / len(donors)) for donor in replicates for total, size, p in donor]
    means, weights = [], []
    for chosen in itertools.product(slots, repeat=len(donors)):
        means.append(sum(total for total, _, _ in chosen) / sum(size for _, size, _ in chosen))
        weights.append(np.prod([p for _, _, p in chosen]))
    order = np.argsort(means)
    return np.array(means)[order], np.cumsum(np.array(weights)[order])


@pytest.mark.parametrize("level", [0.5, 0.8])
def test_hierarchical_bootstrap_is_the_enumeration_of_all_resamples(level):
    donors = [[0.11, 0.73], [1.9, 2.35, 2.81], [4.07]]
    means, cumulative = exact_two_level_distribution(donors)
    assert cumulative[-1] == pytest.approx(1)
    tail = stats.norm.cdf(-np.sqrt(3 / 2) * stats.t.ppf((1 + level) / 2, 2))
    expected = means[np.searchsorted(cumulative, [tail, 1 - tail])]
    labels = np.repeat(["x", "y", "z"], [len(cells) for cells in donors])
    values = np.concatenate(donors)
    order = np.random.default_rng(1).permutation(len(values))  # a donor's cells need not lie together
    found = hierarchical_bootstrap(
        values[order], labels[order], rng=np.random.default_rng(0), n=100_000, level=level
    )
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_hierarchical_bootstrap_agrees_with_a_loop():
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(9), rng.integers(2, 9, 9))
    values = rng.normal(size=9)[labels] + rng.normal(size=len(labels))
    means = []
    for _ in range(2000):
        drawn = [
            rng.choice(values[labels == donor], (labels == donor).sum()) for donor in rng.integers(0, 9, 9)
        ]
        means.append(np.concatenate(drawn).mean())
    tail = stats.norm.cdf(-np.sqrt(9 / 8) * stats.t.ppf(0.9, 8))
    found = hierarchical_bootstrap(values, labels, rng=rng, n=4000, level=0.8)
    np.testing.assert_allclose(found, np.quantile(means, [tail, 1 - tail]), atol=0.05)


@pytest.mark.parametrize("n_donors", [5, 12])
def test_hierarchical_bootstrap_covers_the_mean_where_cells_alone_do_not(n_donors):
    """Two-level normal data: covered as often as asked, within the binomial error of 200 runs."""
    rng = np.random.default_rng(n_donors)
    labels = np.repeat(np.arange(n_donors), 8)
    covered = np.zeros(2)
    for _ in range(200):
        values = rng.normal(size=n_donors)[labels] + rng.normal(size=len(labels))
        for i, groups in enumerate((labels, None)):
            low, high = hierarchical_bootstrap(values, groups, rng=rng, n=1000)
            covered[i] += low <= 0 <= high
    assert stats.binomtest(int(covered[0]), 200, 0.95).pvalue > 0.001
    assert covered[1] < 0.75 * 200


def test_hierarchical_bootstrap_edges(monkeypatch):
    values, labels = np.array([1.0, 2.0, np.nan, 5.0]), ["a", "a", None, "b"]

    def interval(values, labels):
        return hierarchical_bootstrap(values, labels, rng=np.random.default_rng(2), n=200)

    whole = interval(values, labels)  # the one that is NaN needs no label
    assert 1 <= whole[0] < whole[1] <= 5
    assert interval(values, None) == bootstrap_interval(values, rng=np.random.default_rng(2), n=200)
    assert interval(values, ["a"] * 4) == interval(values, None)
    assert np.isnan(interval(np.array([1.0, np.nan]), ["a", "b"])).all()
    monkeypatch.setattr("geneformer_grn.statistics._BLOCK", 7)
    assert interval(values, labels) == pytest.approx(whole)
    with pytest.raises(ValueError, match="1 of 3 values have no group label"):
        interval(values, ["a", None, "a", "b"])
    with pytest.raises(ValueError, match="3 group labels were given for 4 values"):
        interval(values, ["a", "a", "b"])
    with pytest.raises(ValueError, match="level"):
        hierarchical_bootstrap(values, labels, rng=np.random.default_rng(0), level=95)


def test_without_trend_is_the_residual_of_a_fit_without_redundant_traits():
    rng = np.random.default_rng(0)
    traits = rng.normal(size=(30, 2))
    values = 3 + traits @ [2.0, -1.0] + rng.normal(0, 0.1, 30)
    design = np.column_stack([np.ones(30), traits])
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    expected = (values - hat @ values) / np.sqrt(1 - np.diag(hat))
    np.testing.assert_allclose(without_trend(values, traits), expected, atol=1e-10)
    redundant = np.column_stack([traits, traits.sum(axis=1), np.full(30, 7.0)])
    np.testing.assert_allclose(without_trend(values, redundant), expected, atol=1e-10)
    assert not without_trend(np.full(30, 0.1), traits).any()  # equal values stay equal
    constant = without_trend(values, np.zeros((30, 1)))
    np.testing.assert_allclose(constant, (values - values.mean()) / np.sqrt(29 / 30))


def p_without_trend(values, traits):
    rest = without_trend(values, traits[:, traits_in_reach(traits)])
    return matched_null_p(rest[0], rest[1:])


def test_an_outlier_is_extreme_also_where_it_alone_differs_in_a_trait():
    rng = np.random.default_rng(0)
    for n_null, others in ((200, 1.0), (200, np.append(0.98, np.ones(199))), (20, 1.0)):
        rank = rng.random(n_null + 1)
        traits = np.column_stack([rank, np.append(0.6, np.broadcast_to(others, n_null))])
        values = rng.normal(0.01, 0.002, n_null + 1) + 0.05 * rank
        assert traits_in_reach(traits).tolist() == [True, False]
        assert traits_in_reach(traits[:, ::-1]).tolist() == [False, True]
        assert p_without_trend(np.append(1.0, values[1:]), traits) == pytest.approx(1 / (1 + n_null))
        assert p_without_trend(np.append(-1.0, values[1:]), traits) == 1
        rest = without_trend(values, traits[:, :1])
        assert p_without_trend(values, traits) == matched_null_p(rest[0], rest[1:])
    along = np.column_stack([rank, 2 * rank])  # neither is constant, but the others lie on a line
    along[0] = 0.5, 3.0
    assert traits_in_reach(along).sum() == 1
    assert traits_in_reach(rng.random((50, 3))).all()
    assert traits_in_reach(np.ones((50, 2))).all()
    assert traits_in_reach(np.ones((50, 0))).tolist() == []


@pytest.mark.parametrize("edge", ["front", "constant"])
def test_without_a_trend_p_is_uniform_for_a_gene_at_the_edge(edge):
    rng = np.random.default_rng(1)
    p, raw = [], []
    for _ in range(400):
        traits = rng.random((201, 2))
        traits[0] = traits[:, 0].max() + 0.1, 0.5
        if edge == "constant":
            traits[:, 1] = np.append(0.6, np.ones(200))
        values = 2 * traits[:, 0] + rng.normal(0, 0.5, 201)
        p.append(p_without_trend(values, traits))
        raw.append(matched_null_p(values[0], values[1:]))
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert stats.kstest(raw, "uniform").statistic > 0.4
