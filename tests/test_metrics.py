"""Ranking numbers against scipy and sets."""

import numpy as np
import pytest
from scipy import stats

from geneformer_grn.metrics import shares_beaten, spearman, top_overlap


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


def test_shares_beaten_average_to_scikit_learns_auroc():
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(2)
    scores = generator.integers(0, 6, 80).astype(float)  # ties
    labels = generator.random(80) < 0.3
    shares = shares_beaten(scores[labels], scores[~labels])
    assert shares.mean() == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    own = np.tile(scores[~labels], (labels.sum(), 1))
    np.testing.assert_allclose(shares_beaten(scores[labels], own), shares, atol=1e-12)
    rivals = np.array([[0.0, 2.0], [2.0, 3.0], [5.0, 5.0]])
    assert shares_beaten(np.array([1.0, 2.0, 3.0]), rivals).tolist() == [0.5, 0.25, 0.0]
    assert np.isnan(shares_beaten(np.ones(2), np.empty(0))).all()
    with pytest.raises(ValueError, match="NaN"):
        shares_beaten(np.array([np.nan]), np.ones(2))
