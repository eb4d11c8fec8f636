"""Correlation against numpy and scipy, ridge against scikit-learn one target at a time."""

import numpy as np
import pytest
from scipy import sparse, stats

from geneformer_grn.network import cross_products
from geneformer_grn.network.inference import (
    PENALTIES,
    correlation_edges,
    cross_correlation,
    gcv_ridge,
    mean_and_sd,
    ridge_edges,
    ridge_errors,
)

N_CELLS, N_GENES = 70, 12
GENES = np.array([f"G{i}" for i in range(N_GENES)], dtype=object)
REGULATORS = ["G0", "G3", "G5", "G7", "G11"]
TARGETS = ["G3", "G1", "G2", "G0", "G9", "G11"]


@pytest.fixture(scope="module")
def expression() -> np.ndarray:
    generator = np.random.default_rng(0)
    latent = generator.normal(size=(N_CELLS, 3))
    values = latent @ generator.normal(size=(3, N_GENES)) + generator.normal(size=(N_CELLS, N_GENES))
    values = np.maximum(values, 0.0)
    values[:, 2] = 0.0  # never expressed
    values[:, 7] = 1.3  # constant
    return values


def columns(names: list[str]) -> np.ndarray:
    return np.array([int(name[1:]) for name in names])


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_moments(expression, convert):
    mean, sd = mean_and_sd(convert(expression))
    np.testing.assert_allclose(mean, expression.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(sd, expression.std(axis=0), atol=1e-12)
    assert sd[2] == 0
    assert sd[7] == 0


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("block", [16, 2048])
def test_correlation_equals_numpy_and_its_p_values_scipy(expression, convert, block, monkeypatch):
    monkeypatch.setattr(cross_products, "CELLS_PER_BLOCK", block)
    pairs = correlation_edges(convert(expression), GENES, regulators=REGULATORS, targets=TARGETS)
    for i, regulator in enumerate(columns(REGULATORS)):
        for j, target in enumerate(columns(TARGETS)):
            if regulator == target or 7 in (regulator, target) or 2 in (regulator, target):
                assert np.isnan(pairs.weights[i, j])
                assert np.isnan(pairs.p_values[i, j])
                continue
            expected = stats.pearsonr(expression[:, regulator], expression[:, target])
            assert pairs.weights[i, j] == pytest.approx(expected.statistic, abs=1e-6)
            assert pairs.p_values[i, j] == pytest.approx(expected.pvalue, rel=1e-8)
            both = (expression[:, regulator] > 0) & (expression[:, target] > 0)
            assert pairs.support[i, j] == both.sum()


def test_perfect_correlation_has_p_zero_not_nan():
    values = np.arange(1.0, 11.0)[:, None] * np.array([1.0, 2.0])
    pairs = correlation_edges(values, GENES[:2], regulators=["G0"], targets=["G1"])
    assert pairs.weights[0, 0] == 1.0
    assert pairs.p_values[0, 0] < 1e-50


def sklearn_ridge(expression: np.ndarray, predictors: np.ndarray, target: int, penalty: float) -> np.ndarray:
    from sklearn.linear_model import Ridge

    standard = (expression - expression.mean(axis=0)) / np.where(
        expression.std(axis=0) > 1e-9, expression.std(axis=0), 1.0
    )
    model = Ridge(alpha=penalty * len(expression), solver="cholesky")
    return model.fit(standard[:, predictors], standard[:, target]).coef_


@pytest.mark.parametrize("penalty", [0.01, 0.3, 10.0])
def test_ridge_equals_scikit_learn_without_the_target_itself(expression, penalty):
    pairs = ridge_edges(
        sparse.csr_matrix(expression), GENES, regulators=REGULATORS, targets=TARGETS, penalty=penalty
    )
    regulators = columns(REGULATORS)
    for j, target in enumerate(columns(TARGETS)):
        others = np.flatnonzero(regulators != target)
        expected = sklearn_ridge(expression, regulators[others], target, penalty)
        for i, value in zip(others, expected, strict=True):
            if 7 in (regulators[i], target) or target == 2:
                assert np.isnan(pairs.weights[i, j])
            else:
                assert pairs.weights[i, j] == pytest.approx(value, abs=1e-6)
        assert np.isnan(pairs.weights[regulators == target, j]).all()


def brute_force_gcv(expression: np.ndarray, predictors: np.ndarray, target: int, penalty: float) -> float:
    """RSS / n / (1 - trace(hat) / n)² with the hat matrix written out, intercept included."""
    n = len(expression)
    sd = expression.std(axis=0)
    x = (expression[:, predictors] - expression[:, predictors].mean(axis=0)) / np.where(
        sd[predictors] > 1e-9, sd[predictors], 1.0
    )
    y = (expression[:, target] - expression[:, target].mean()) / sd[target]
    hat = x @ np.linalg.inv(x.T @ x + n * penalty * np.eye(len(predictors))) @ x.T + 1.0 / n
    return np.sum((y - hat @ y) ** 2) / n / (1.0 - np.trace(hat) / n) ** 2


def test_pooled_penalty_equals_brute_force(expression):
    regulators, targets = columns(REGULATORS), columns(TARGETS)
    errors = [
        sum(
            brute_force_gcv(expression, regulators[regulators != target], target, penalty)
            for target in targets
            if target != 2
        )
        for penalty in PENALTIES
    ]
    best = PENALTIES[int(np.argmin(errors))]
    chosen = ridge_edges(expression, GENES, regulators=REGULATORS, targets=TARGETS)
    fixed = ridge_edges(expression, GENES, regulators=REGULATORS, targets=TARGETS, penalty=best)
    np.testing.assert_array_equal(chosen.weights, fixed.weights)
    among, _ = cross_correlation(expression, regulators, regulators)
    cross, _ = cross_correlation(expression, regulators, targets)
    own = np.array([next((i for i, r in enumerate(regulators) if r == t), -1) for t in targets])
    varying = targets != 2
    np.testing.assert_allclose(
        ridge_errors(among, cross[:, varying], own[varying], N_CELLS), errors, rtol=1e-10
    )


def test_single_ridge_chooses_the_brute_force_penalty(expression):
    predictors, target = np.array([0, 3, 5]), 9
    among, _ = cross_correlation(expression, predictors, predictors)
    cross, _ = cross_correlation(expression, predictors, np.array([target]))
    coefficients, penalty = gcv_ridge(among, cross[:, 0], N_CELLS)
    errors = [brute_force_gcv(expression, predictors, target, value) for value in PENALTIES]
    assert penalty == PENALTIES[int(np.argmin(errors))]
    np.testing.assert_allclose(
        coefficients, sklearn_ridge(expression, predictors, target, penalty), atol=1e-10
    )


def test_more_regulators_than_cells(expression):
    pairs = ridge_edges(expression[:6], GENES, regulators=REGULATORS, targets=TARGETS)
    assert np.isfinite(pairs.weights[pairs.scored]).all()
    assert pairs.scored.any()


def test_bad_calls(expression):
    with pytest.raises(ValueError, match=r"1 of 2 genes are not in the expression matrix.*'X'"):
        correlation_edges(expression, GENES, regulators=["G0", "X"], targets=TARGETS)
    with pytest.raises(ValueError, match="at least one regulator"):
        ridge_edges(expression, GENES, regulators=[], targets=TARGETS)
    with pytest.raises(ValueError, match="at least 3 cells, got 2"):
        correlation_edges(expression[:2], GENES, regulators=REGULATORS, targets=TARGETS)
    with pytest.raises(ValueError, match="positive"):
        ridge_edges(expression, GENES, regulators=REGULATORS, targets=TARGETS, penalty=0.0)
