"""Orders against chains that are known, the lasso against scikit-learn."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Lasso

from geneformer_grn.network.ordering import (
    adaptive_lasso,
    centred_within,
    noise_order,
    ordered_edges,
    scaled_levels,
    weighted_lasso,
)

GENES = np.array(["A", "B", "C", "D"], dtype=object)


@pytest.fixture(scope="module")
def chain() -> np.ndarray:
    """C -> A -> B and C -> D; each gene's own noise has the variance of its mean."""
    rng = np.random.default_rng(0)
    n = 6_000
    c = rng.normal(20, np.sqrt(20), n)
    a = 10 + 0.8 * (c - 20) + rng.normal(0, np.sqrt(10), n)
    b = 12 - 0.9 * (a - 10) + rng.normal(0, np.sqrt(12), n)
    d = 8 + 0.5 * (c - 20) + rng.normal(0, np.sqrt(8), n)
    return np.column_stack([a, b, c, d])


def correlations(values: np.ndarray) -> np.ndarray:
    return np.corrcoef(values, rowvar=False)


def test_causes_come_first(chain):
    order = noise_order(np.cov(chain, rowvar=False), chain.mean(axis=0)).tolist()
    assert order[0] == 2  # C
    assert order.index(0) < order.index(1)  # A before B


def test_order_of_constant_and_absent_genes():
    covariance = np.diag([0.0, 2.0, 0.0])
    assert noise_order(covariance, np.array([0.0, 1.0, 1.0])).tolist() == [2, 1, 0]


def test_weights_lead_downwards_and_equal_the_chain(chain):
    found = ordered_edges(chain, GENES, regulators=["A", "B", "C"], targets=list(GENES))
    weights = found.weights * (chain.std(axis=0) / chain.std(axis=0)[:3, None])
    expected = np.zeros((3, 4))
    expected[0, 1], expected[2, 0], expected[2, 3] = -0.9, 0.8, 0.5
    np.testing.assert_allclose(np.nan_to_num(weights), expected, atol=0.06)
    assert weights[1, 0] == weights[0, 2] == weights[1, 2] == 0  # upwards
    assert np.isnan(found.weights[[0, 1, 2], [0, 1, 2]]).all()
    assert found.signed
    assert found.support[0, 1] == ((chain[:, 0] > 0) & (chain[:, 1] > 0)).sum()


def test_an_order_given_is_kept_and_sparse_levels_are_the_same(chain):
    levels = np.maximum(chain, 0.0)
    turned = ordered_edges(
        sparse.csr_matrix(levels),
        GENES,
        regulators=["A", "B", "C"],
        targets=list(GENES),
        order=["B", "A", "C"],
    )
    dense = ordered_edges(
        levels, GENES, regulators=["A", "B", "C"], targets=list(GENES), order=["B", "A", "C"]
    )
    np.testing.assert_allclose(turned.weights, dense.weights, atol=1e-6)
    kept = turned.weights[[1, 0, 2], [0, 1, 1]]
    assert kept[0] != 0  # B -> A now leads downwards
    assert kept[1:].tolist() == [0, 0]
    with pytest.raises(ValueError, match="each of the 3 regulators once"):
        ordered_edges(levels, GENES, regulators=["A", "B", "C"], targets=["D"], order=["A", "B", "B"])


def test_cell_states_have_their_own_means(chain):
    labels = np.resize(["x", "y"], len(chain))
    shifted = chain + np.where(labels == "x", 50.0, 0.0)[:, None]
    centred = centred_within(shifted, labels)
    for label in "xy":
        rows = labels == label
        np.testing.assert_allclose(centred[rows], chain[rows] - chain[rows].mean(axis=0), atol=1e-9)
    pairs = {"regulators": ["A", "B", "C"], "targets": list(GENES)}
    found = ordered_edges(shifted, GENES, **pairs, labels=labels)
    alone = ordered_edges(chain, GENES, **pairs)
    np.testing.assert_allclose(found.weights, alone.weights, atol=0.05)
    with pytest.raises(ValueError, match="2 labels were given for 6,000 cells"):
        centred_within(chain, np.array(["x", "y"]))


def test_weighted_lasso_equals_scikit_learn():
    rng = np.random.default_rng(1)
    predictors = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    predictors = (predictors - predictors.mean(axis=0)) / predictors.std(axis=0)
    responses = predictors @ rng.normal(size=(6, 3)) + rng.normal(size=(300, 3))
    responses = (responses - responses.mean(axis=0)) / responses.std(axis=0)
    thresholds = rng.uniform(0.01, 0.2, (6, 3))
    thresholds[2, 1] = np.inf
    gram, cross = predictors.T @ predictors / 300, predictors.T @ responses / 300
    found = weighted_lasso(gram, cross, thresholds, np.zeros((6, 3)))
    for column in range(3):
        usable = np.isfinite(thresholds[:, column])
        scale = thresholds[usable, column]
        model = Lasso(alpha=1.0, fit_intercept=False, tol=1e-12, max_iter=100_000)
        model.fit(predictors[:, usable] / scale, responses[:, column])
        np.testing.assert_allclose(found[usable, column], model.coef_ / scale, atol=1e-6)
    assert found[2, 1] == 0


def test_noise_has_no_weights_and_strong_weights_shrink_little():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(2_000, 6))
    values[:, 5] = 2 * values[:, 0] + rng.normal(size=2_000)
    gram = correlations(values)
    weights = adaptive_lasso(gram[:4, :4], gram[:4, 4:], np.ones((4, 2), dtype=bool), 2_000)
    assert weights[:, 0].tolist() == [0, 0, 0, 0]
    assert np.flatnonzero(weights[:, 1]).tolist() == [0]
    assert weights[0, 1] == pytest.approx(2 / np.sqrt(5), rel=0.03)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_depth_without_dominant_genes(convert):
    rng = np.random.default_rng(3)
    counts = rng.poisson(5.0, (40, 60)).astype(float)
    counts[:, 7] = rng.poisson(400, 40)
    counts[3] = 0
    found = scaled_levels(convert(counts))
    found = found.toarray() if sparse.issparse(found) else found
    depth = np.delete(counts, 7, axis=1).sum(axis=1)
    expected = counts * np.divide(depth.mean(), depth, out=np.zeros(40), where=depth > 0)[:, None]
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(scaled_levels(np.full((2, 3), 4.0)), 4.0)  # nothing else to go by
