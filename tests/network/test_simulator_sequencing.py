"""Counts have the depth asked for, the law they should, and noise where it is asked for."""

import numpy as np
import pytest
from scipy import stats

from geneformer_grn.network.simulator_sequencing import SequencingSettings, outlier_factors, sequence

LEVELS = np.random.default_rng(0).gamma(2.0, 3.0, (1_000, 80)).astype(np.float32)


def count(seed=1, levels=LEVELS, factors=None, **settings):
    factors = np.ones(levels.shape[1]) if factors is None else factors
    return sequence(levels, factors, SequencingSettings(**settings), np.random.default_rng(seed))


@pytest.mark.parametrize("umi", [100, 1_000, 5_000])
def test_totals_are_as_asked(umi):
    counts = count(umi=umi, library_sd=0.6)
    assert counts.dtype == np.float32
    assert np.array_equal(counts.data, np.round(counts.data))
    totals = np.asarray(counts.sum(axis=1)).ravel()
    spread = np.sqrt(umi + umi**2 * np.expm1(0.6**2))  # Poisson, and log-normal of mean `umi`
    assert abs(totals.mean() - umi) < 4 * spread / np.sqrt(len(totals))
    assert totals.std() == pytest.approx(spread, rel=0.2)


def test_counts_are_poisson_of_the_levels():
    share = LEVELS[:1].astype(float) / LEVELS[:1].sum()
    counts = count(levels=np.tile(LEVELS[:1], (4_000, 1)), umi=300, library_sd=0.0).toarray()
    expected = 300 * share.ravel()
    z = (counts.mean(axis=0) - expected) / np.sqrt(expected / 4_000)
    assert np.abs(z).max() < 4
    dispersion = counts.var(axis=0, ddof=1) / expected
    assert np.abs(dispersion - 1).max() < 5 * np.sqrt((2 + 1 / expected.min()) / 4_000)
    zeros = (counts == 0).mean(axis=0)
    assert np.abs(zeros - np.exp(-expected)).max() < 5 * 0.5 / np.sqrt(4_000)


def test_dropouts_hit_what_is_low_and_leave_the_depth():
    without, some, more = (count(umi=2_000, library_sd=0.0, dropout=at) for at in (None, 20, 60))
    assert without.nnz > some.nnz > more.nnz
    assert np.asarray(more.sum(axis=1)).mean() == pytest.approx(2_000, rel=0.01)
    low, high = np.quantile(LEVELS, 0.3) > LEVELS, np.quantile(LEVELS, 0.9) < LEVELS
    lost = more.toarray() == 0
    assert lost[low].mean() > 0.8
    assert lost[high].mean() < 0.2


def test_outliers_are_log_normal_in_the_share_asked_for():
    settings = SequencingSettings(outliers=0.25, outlier_mean=2.0, outlier_sd=0.5)
    factors = outlier_factors(20_000, settings, np.random.default_rng(0))
    raised = factors[factors != 1]
    assert len(raised) / 20_000 == pytest.approx(0.25, abs=0.02)
    assert stats.kstest(np.log(raised), "norm", (2.0, 0.5)).pvalue > 1e-3
    counts = count(umi=5_000, factors=np.where(np.arange(80) == 3, 5.0, 1.0))
    plain = count(umi=5_000)
    assert counts[:, 3].sum() / plain[:, 3].sum() == pytest.approx(5 / (1 + 4 / 80), rel=0.1)


def test_a_cell_without_expression_has_no_molecules():
    levels = LEVELS[:3].copy()
    levels[1] = 0
    assert np.diff(count(levels=levels, umi=500, dropout=5).indptr)[1] == 0
    assert count(levels=levels[:0]).shape == (0, 80)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"umi": 0}, "more than 0 molecules"),
        ({"umi": float("inf")}, "more than 0 molecules"),
        ({"outliers": 2.0}, "outliers are a share"),
        ({"dropout": 101}, "percentile from 0 to 100"),
        ({"library_sd": -1.0}, "library_sd is 0 or more"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SequencingSettings(**settings)
