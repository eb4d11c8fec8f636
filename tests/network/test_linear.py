"""Lasso and elastic net of all targets against scikit-learn, one target at a time."""

import logging

import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.network import descent_kernels, fista, linear
from geneformer_grn.network.linear import PATH, elastic_net_edges, lasso_edges

N_CELLS, N_GENES = 90, 14
GENES = np.array([f"G{i}" for i in range(N_GENES)], dtype=object)
REGULATORS = ["G0", "G3", "G5", "G7", "G11", "G12"]
TARGETS = ["G3", "G1", "G2", "G0", "G9", "G7", "G11"]


@pytest.fixture(scope="module")
def expression() -> np.ndarray:
    generator = np.random.default_rng(0)
    latent = generator.normal(size=(N_CELLS, 3))
    values = latent @ generator.normal(size=(3, N_GENES)) + 0.5 * generator.normal(size=(N_CELLS, N_GENES))
    values = np.maximum(values, 0.0)
    values[:, 2] = 0.0  # never expressed
    values[:, 7] = 1.3  # constant
    return values


def columns(names: list[str]) -> np.ndarray:
    return np.array([int(name[1:]) for name in names])


def by_scikit_learn(expression: np.ndarray, target: int, penalty: float, l1_ratio: float) -> np.ndarray:
    """Coefficients of all regulators, NaN for those that are not scored."""
    from sklearn.linear_model import ElasticNet

    sd = expression.std(axis=0)
    standard = (expression - expression.mean(axis=0)) / np.where(sd > 1e-9, sd, np.nan)
    regulators = columns(REGULATORS)
    weights = np.full(len(regulators), np.nan)
    scored = (regulators != target) & (sd[regulators] > 1e-9)
    if sd[target] > 1e-9:
        model = ElasticNet(
            alpha=penalty, l1_ratio=l1_ratio, fit_intercept=False, tol=1e-13, max_iter=1_000_000
        )
        weights[scored] = model.fit(standard[:, regulators[scored]], standard[:, target]).coef_
    return weights


@pytest.fixture(params=["descent", "steps"])
def solver(request, monkeypatch):
    """Both ways to the solution, with targets in several turns."""
    monkeypatch.setattr(linear, "STEPPED_ON", {"cpu"} if request.param == "steps" else set())
    monkeypatch.setattr(fista, "ENTRIES_AT_ONCE", 18)
    monkeypatch.setattr(descent_kernels, "_TARGETS_A_TURN", 3)


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("penalty", [0.003, 0.05, 0.4])
@pytest.mark.parametrize("l1_ratio", [0.1, 0.5, 1.0])
def test_equal_to_scikit_learn(expression, penalty, l1_ratio):
    pairs = elastic_net_edges(
        sparse.csr_matrix(expression), GENES, regulators=REGULATORS, targets=TARGETS,
        penalty=penalty, l1_ratio=l1_ratio, device="cpu",
    )  # fmt: skip
    expected = np.array([by_scikit_learn(expression, t, penalty, l1_ratio) for t in columns(TARGETS)]).T
    np.testing.assert_allclose(pairs.weights, expected, atol=1e-6)
    np.testing.assert_array_equal(pairs.weights == 0, expected == 0)
    assert pairs.method == "elastic_net"


def test_lasso_is_the_elastic_net_of_ratio_one(expression):
    pairs = lasso_edges(expression, GENES, regulators=REGULATORS, targets=TARGETS, penalty=0.1, device="cpu")
    expected = np.array([by_scikit_learn(expression, t, 0.1, 1.0) for t in columns(TARGETS)]).T
    np.testing.assert_allclose(pairs.weights, expected, atol=1e-6)
    assert pairs.method == "lasso"
    assert pairs.signed
    positive = expression > 0
    both = positive[:, columns(REGULATORS)].T.astype(int) @ positive[:, columns(TARGETS)].astype(int)
    np.testing.assert_array_equal(pairs.support, both)


@pytest.mark.usefixtures("solver")
def test_more_regulators_than_cells_equal_scikit_learn_too(expression):
    few = expression[:5]
    pairs = elastic_net_edges(few, GENES, regulators=REGULATORS, targets=["G9"], penalty=0.1, device="cpu")
    np.testing.assert_allclose(pairs.weights[:, 0], by_scikit_learn(few, 9, 0.1, 0.5), atol=1e-6)


def test_float32_is_close(expression, monkeypatch):
    monkeypatch.setattr(linear, "STEPPED_ON", {"cpu"})
    call = {"regulators": REGULATORS, "targets": TARGETS, "penalty": 0.02, "device": "cpu"}
    exact = elastic_net_edges(expression, GENES, **call)
    rounded = elastic_net_edges(expression, GENES, **call, precision="float32")
    np.testing.assert_allclose(rounded.weights, exact.weights, atol=1e-4)


def pooled_error(expression: np.ndarray, penalty: float, l1_ratio: float) -> float:
    """RSS / n / (1 - (non-zero weights + 1) / n)² summed over the targets, residuals written out."""
    total = 0.0
    sd = expression.std(axis=0)
    standard = (expression - expression.mean(axis=0)) / np.where(sd > 1e-9, sd, 1.0)
    for target in columns(TARGETS):
        weights = by_scikit_learn(expression, target, penalty, l1_ratio)
        if np.isnan(weights).all():
            continue
        weights = np.nan_to_num(weights)
        residual = standard[:, target] - standard[:, columns(REGULATORS)] @ weights
        total += np.mean(residual**2) / (1.0 - (np.count_nonzero(weights) + 1) / len(expression)) ** 2
    return total


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize(("l1_ratio", "noise"), [(0.5, 0.0), (1.0, 0.0), (1.0, 3.0)])
def test_penalty_is_the_first_minimum_of_the_pooled_error(expression, l1_ratio, noise):
    cells = expression + noise * np.random.default_rng(1).normal(size=expression.shape)
    cells[:, [2, 7]] = 1.0
    chosen = elastic_net_edges(
        cells, GENES, regulators=REGULATORS, targets=TARGETS, l1_ratio=l1_ratio, device="cpu"
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        among = np.abs(np.nan_to_num(np.corrcoef(cells, rowvar=False)))
    pairs = among[np.ix_(columns(REGULATORS), columns(TARGETS))]
    pairs[columns(REGULATORS)[:, None] == columns(TARGETS)] = 0.0
    grid = pairs.max() / l1_ratio * np.array(PATH)
    errors = [pooled_error(cells, penalty, l1_ratio) for penalty in grid]
    rises = np.flatnonzero(np.diff(errors) >= 0)
    best = grid[rises[0]] if len(rises) else grid[-1]
    expected = np.array([by_scikit_learn(cells, t, best, l1_ratio) for t in columns(TARGETS)]).T
    np.testing.assert_allclose(chosen.weights, expected, atol=1e-6)


def test_nothing_to_explain_gives_zeros_and_no_error():
    cells = np.tile(np.eye(2), (4, 1))[:, [0, 0, 1]] * np.array([1.0, 0.0, 1.0])
    pairs = lasso_edges(cells, np.array(["A", "B", "C"]), regulators=["A"], targets=["A"], device="cpu")
    assert np.isnan(pairs.weights).all()


@pytest.mark.usefixtures("solver")
def test_what_does_not_converge_is_said(expression, monkeypatch, caplog):
    monkeypatch.setattr(fista, "MAX_STEPS", 10)
    monkeypatch.setattr(descent_kernels, "MAX_SWEEPS", 2)
    call = {"regulators": REGULATORS, "targets": TARGETS, "penalty": 0.003, "device": "cpu"}
    with caplog.at_level(logging.WARNING):
        pairs = lasso_edges(expression, GENES, **call)
    assert "of 7 regressions at penalty 0.003 did not converge" in caplog.text
    assert np.isfinite(pairs.weights[pairs.scored]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": 0.0}, "must be positive, got 0.0"),
        ({"l1_ratio": 0.0}, "0 would be ridge"),
        ({"precision": "float16"}, "float64 or float32, not 'float16'"),
        ({"device": "tpu"}, "'tpu' is unknown"),
        ({"regulators": ["X"]}, "'X'"),
    ],
)
def test_bad_calls(expression, settings, message):
    with pytest.raises(ValueError, match=message):
        elastic_net_edges(expression, GENES, **{"regulators": REGULATORS, "targets": TARGETS, **settings})


@pytest.mark.gpu
def test_a_gpu_finds_the_same(expression):
    call = {"regulators": REGULATORS, "targets": TARGETS}
    here = elastic_net_edges(expression, GENES, **call, device="cpu")
    there = elastic_net_edges(expression, GENES, **call, device="cuda")
    np.testing.assert_allclose(there.weights, here.weights, atol=1e-6)
