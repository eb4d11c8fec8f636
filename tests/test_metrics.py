"""Ranking numbers against scipy and sets."""

import numpy as np
import pytest
from scipy import stats

from geneformer_grn.metrics import (
    auroc,
    average_precision,
    early_precision_ratio,
    precision_at,
    shares_beaten,
    spearman,
    top_overlap,
)


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
    counted = np.array([[True, True], [False, True], [False, False]])
    some = shares_beaten(np.array([1.0, 2.0, 3.0]), rivals, where=counted)
    np.testing.assert_array_equal(some, [0.5, 0.0, np.nan])
    assert np.isnan(shares_beaten(np.ones(2), np.empty(0))).all()
    with pytest.raises(ValueError, match="NaN"):
        shares_beaten(np.array([np.nan]), np.ones(2))


def test_areas_are_scikit_learns_also_with_ties():
    from sklearn.metrics import average_precision_score, roc_auc_score

    generator = np.random.default_rng(3)
    for _ in range(50):
        labels = generator.random(40) < 0.3
        labels[:2] = True, False
        scores = generator.integers(0, generator.integers(2, 40), 40).astype(float)
        assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
        assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_precision_at_a_cut_through_a_tie_is_that_of_a_random_order():
    labels = np.array([True, False, True, False, False, True])
    scores = np.array([5.0, 4.0, 1.0, 1.0, 1.0, 1.0])
    generator = np.random.default_rng(4)
    for k in range(1, 7):
        shuffled = []
        for _ in range(4000):
            order = np.lexsort((generator.random(6), -scores))
            shuffled.append(labels[order[:k]].mean())
        assert precision_at(labels, scores, k) == pytest.approx(np.mean(shuffled), abs=0.02)
    # three are true: of the top three one is, and of the last place a half on average
    assert early_precision_ratio(labels, scores) == pytest.approx((1.5 / 3) / (3 / 6))


def test_rankings_without_an_answer():
    nothing, everything = np.zeros(3, dtype=bool), np.ones(3, dtype=bool)
    scores = np.arange(3.0)
    assert np.isnan(average_precision(nothing, scores))
    assert np.isnan(early_precision_ratio(nothing, scores))
    assert np.isnan(auroc(everything, scores))
    with pytest.raises(ValueError, match="top 4 of 3"):
        precision_at(everything, scores, 4)
    with pytest.raises(ValueError, match="2 and 3"):
        auroc(nothing[:2], scores)
    with pytest.raises(ValueError, match="NaN"):
        auroc(nothing, np.array([0.0, np.nan, 1.0]))
