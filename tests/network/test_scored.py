"""Selection of edges from scores, and agreement between methods, against sorting by hand."""

import numpy as np
import pytest
from scipy import stats

from geneformer_grn.network.scored import ScoredPairs, agreement, to_edges


def make_pairs(weights, *, method="ridge", signed=True, p_values=None, regulators=None):
    weights = np.asarray(weights, dtype=np.float32)
    n_regulators, n_targets = weights.shape
    return ScoredPairs(
        regulators=np.array(regulators or [f"R{i}" for i in range(n_regulators)], dtype=object),
        targets=np.array([f"T{i}" for i in range(n_targets)], dtype=object),
        weights=weights,
        support=np.arange(weights.size, dtype=np.int32).reshape(weights.shape),
        method=method,
        signed=signed,
        p_values=p_values,
    )


def test_strongest_first_without_unscored_pairs():
    pairs = make_pairs([[0.5, -2.0, np.nan], [1.0, -1.0, 0.1]])
    edges = to_edges(pairs, top=3, group="g")
    assert list(zip(edges["source"], edges["target"], strict=True)) == [
        ("R0", "T1"),
        ("R1", "T0"),
        ("R1", "T1"),
    ]
    assert edges["weight"].tolist() == [-2.0, 1.0, -1.0]
    assert edges["sign"].tolist() == [-1, 1, -1]
    assert edges["support"].tolist() == [1, 3, 4]
    assert set(edges["group"]) == {"g"}
    assert len(to_edges(pairs)) == 5


def test_selection_equals_a_full_sort():
    generator = np.random.default_rng(0)
    weights = generator.integers(-6, 7, (30, 40)).astype(np.float32)  # many ties at the cut
    edges = to_edges(make_pairs(weights), top=100)
    order = np.argsort(-np.abs(weights).ravel(), kind="stable")[:100]
    assert edges["support"].tolist() == order.tolist()


def test_unsigned_methods_have_no_sign_and_no_p():
    edges = to_edges(make_pairs([[0.5, 2.0]], method="attention", signed=False))
    assert edges["sign"].tolist() == [0, 0]
    assert edges["p_value"].isna().all()


def test_q_values_count_all_scored_pairs():
    p_values = np.array([[0.01, 0.04, np.nan], [0.5, 0.02, 0.9]])
    weights = np.where(np.isnan(p_values), np.nan, 1.0 - p_values)
    edges = to_edges(make_pairs(weights, p_values=p_values), top=2)
    expected = stats.false_discovery_control(p_values[np.isfinite(p_values)])
    assert edges["q_value"].tolist() == pytest.approx([expected[0], expected[3]])


def test_agreement_column_is_the_percentile_in_the_other_method():
    first = make_pairs([[3.0, 2.0, 1.0, np.nan]])
    other = make_pairs([[-4.0, 1.0, 1.0, 8.0]], method="correlation")
    assert to_edges(first, other=other)["agreement"].tolist() == [75.0, 37.5, 37.5]


def test_agreement_of_a_method_with_itself_is_full_and_of_noise_is_chance():
    generator = np.random.default_rng(0)
    a, b = (make_pairs(generator.normal(size=(50, 80))) for _ in range(2))
    full = agreement(a, a, top=100)
    assert full["spearman"] == pytest.approx(1.0)
    assert full["overlap"] == 1.0
    assert full["n_pairs"] == 4000
    noise = agreement(a, b, top=100)
    assert abs(noise["spearman"]) < 0.05
    assert noise["overlap"] < 0.1
    assert agreement(a, make_pairs(np.full((50, 80), np.nan))) == {"n_pairs": 0}


def test_what_does_not_fit_is_refused():
    pairs = make_pairs([[1.0, 2.0]])
    with pytest.raises(ValueError, match="at least 1"):
        to_edges(pairs, top=0)
    with pytest.raises(ValueError, match="same pairs"):
        agreement(pairs, make_pairs([[1.0, 2.0]], regulators=["X"]))
    with pytest.raises(ValueError, match="shape"):
        make_pairs([[1.0, 2.0]], p_values=np.ones((2, 2)))


def test_a_weight_of_exactly_zero_is_no_edge():
    weights = np.array([[0.0, 2.0, np.nan], [-1.0, 0.0, 0.0]], dtype=np.float32)
    pairs = ScoredPairs(
        regulators=np.array(["a", "b"], dtype=object), targets=np.array(["x", "y", "z"], dtype=object),
        weights=weights, support=np.ones((2, 3), dtype=np.int32), method="lasso", signed=True,
    )  # fmt: skip
    for top in (None, 4):
        assert to_edges(pairs, top=top)[["source", "target"]].values.tolist() == [["a", "y"], ["b", "x"]]
