"""Ranking numbers against scipy and sets."""

import numpy as np
import pytest
from scipy import stats

from geneformer_grn.metrics import spearman, top_overlap


def test_spearman_equals_scipy_with_ties():
    generator = np.random.default_rng(0)
    a = generator.integers(0, 5, 200).astype(float)
    b = a + generator.normal(size=200)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_has_no_answer_for_a_constant_or_a_single_pair():
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))
    assert np.isnan(spearman(np.ones(1), np.ones(1)))
    with pytest.raises(ValueError, match="3 and 4"):
        spearman(np.ones(3), np.ones(4))


def test_top_overlap_counts_as_sets_do():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=50), generator.normal(size=50)
    left, right = set(np.argsort(a)[-10:]), set(np.argsort(b)[-10:])
    result = top_overlap(a, b, 10)
    assert result["overlap"] == len(left & right) / 10
    assert result["jaccard"] == len(left & right) / len(left | right)
    assert result["expected"] == 0.2
    assert top_overlap(a, a, 10)["fold"] == 5.0


def test_top_overlap_refuses_impossible_sizes():
    with pytest.raises(ValueError, match="top 6 of 5"):
        top_overlap(np.ones(5), np.ones(5), 6)
    with pytest.raises(ValueError, match="same items"):
        top_overlap(np.ones(5), np.ones(4), 2)
