"""Which genes are run exactly, and recall against a whole truth."""

import numpy as np
import pytest
from scipy.stats import binomtest

from geneformer_grn.perturbation.shortlist import Recall, audit_sample, measured_recall, strongest


def test_strongest_takes_the_largest_known():
    values = np.array([3.0, np.nan, 5.0, 1.0, 4.0, np.nan])
    assert np.flatnonzero(strongest(values, 0.5)).tolist() == [2, 4]
    assert strongest(np.arange(10.0), 0.3).sum() == 3  # 0.3 * 10 is 3.0000000000000004 in binary
    assert not strongest(np.full(4, np.nan), 0.5).any()


def test_the_audit_is_a_random_sample_of_known_genes():
    known = np.arange(1000) < 800
    counts = np.zeros(1000)
    for seed in range(200):
        sample = audit_sample(known, 0.1, rng=np.random.default_rng(seed))
        assert sample.sum() == 80
        counts += sample
    assert not counts[800:].any()
    assert 2 < counts[:800].min() <= counts[:800].max() < 45  # 20 each on average
    assert not audit_sample(known, 0.0, rng=np.random.default_rng(0)).any()
    assert audit_sample(known, 1.0, rng=np.random.default_rng(0)).sum() == 800


def test_recall_of_samples_is_that_of_the_whole():
    rng = np.random.default_rng(3)
    truth = rng.gamma(1.0, size=4000)
    listed = strongest(truth * np.exp(rng.normal(0, 0.5, 4000)), 0.15)
    whole = measured_recall(truth, listed).value
    total = Recall(n_found=0, n_true=0, n_sample=0)
    for seed in range(100):
        rows = np.random.default_rng(seed).choice(4000, 400, replace=False)
        total = total + measured_recall(truth[rows], listed[rows])
    assert total.n_sample == 40_000
    assert total.value == pytest.approx(whole, abs=0.02)
    assert 0.5 < whole < 0.95


def test_the_interval_is_scipys():
    for found, true in ((0, 7), (7, 7), (18, 20)):
        expected = binomtest(found, true).proportion_ci(method="exact")
        recall = Recall(n_found=found, n_true=true, n_sample=100)
        np.testing.assert_allclose(recall.interval(), (expected.low, expected.high))
    assert np.isnan(Recall(n_found=0, n_true=0, n_sample=0).value)
