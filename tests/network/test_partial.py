"""Partial correlations against the written-out formula, regressions, and scikit-learn."""

import logging

import numpy as np
import pytest
from scipy import sparse

from geneformer_grn.network import partial
from geneformer_grn.network.partial import (
    analytic_shrinkage,
    ebic,
    graphical_lasso_edges,
    partial_correlation_edges,
    sparse_inverse,
)

N_CELLS, N_GENES = 80, 9
GENES = np.array([f"G{i}" for i in range(N_GENES)], dtype=object)
REGULATORS, TARGETS = ["G6", "G0", "G3"], ["G1", "G0", "G5", "G2", "G8", "G4"]
SET = [0, 1, 2, 4, 6, 8]  # without 3, which is constant, 5, which is silent, and 7, which is not asked for


@pytest.fixture(scope="module")
def expression() -> np.ndarray:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(N_CELLS, 3)) @ generator.normal(size=(3, N_GENES))
    values = np.maximum(values + generator.normal(size=values.shape), 0.0)
    values[:, 3], values[:, 5] = 1.1, 0.0
    return values


def written_out(values: np.ndarray) -> float:
    """The shrinkage intensity, one pair and one cell at a time (Schäfer & Strimmer 2005, section 2.4)."""
    n, g = values.shape
    z = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    above = below = 0.0
    for i in range(g):
        for j in range(g):
            if i == j:
                continue
            w = [z[k, i] * z[k, j] for k in range(n)]
            mean = sum(w) / n
            above += n / (n - 1) ** 3 * sum((value - mean) ** 2 for value in w)
            below += (n / (n - 1) * mean) ** 2
    return min(1.0, above / below)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("n_cells", [6, N_CELLS])
def test_shrinkage_equals_the_formula(expression, convert, n_cells, monkeypatch):
    monkeypatch.setattr(partial, "CELLS_PER_BLOCK", 7)
    values = expression[:n_cells, SET]
    found = analytic_shrinkage(convert(values), np.corrcoef(values, rowvar=False))
    assert found == pytest.approx(written_out(values), rel=1e-10)
    assert 0 < found < 1


def test_shrinkage_is_near_that_of_ledoit_and_wolf():
    """Another estimator of the same thing; they agree where cells are Gaussian and many."""
    from sklearn.covariance import LedoitWolf

    generator = np.random.default_rng(1)
    values = generator.normal(size=(400, 3)) @ generator.normal(size=(3, 30)) + generator.normal(
        size=(400, 30)
    )
    standard = (values - values.mean(axis=0)) / values.std(axis=0)
    found = analytic_shrinkage(values, np.corrcoef(values, rowvar=False))
    assert found == pytest.approx(LedoitWolf().fit(standard).shrinkage_, rel=0.2)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_partial_correlations_equal_the_inverse_of_the_shrunken_matrix(expression, convert):
    pairs = partial_correlation_edges(convert(expression), GENES, regulators=REGULATORS, targets=TARGETS)
    values = expression[:, SET]
    share = written_out(values)
    inverse = np.linalg.inv((1 - share) * np.corrcoef(values, rowvar=False) + share * np.eye(len(SET)))
    check(pairs, -inverse / np.sqrt(np.outer(inverse.diagonal(), inverse.diagonal())), expression)
    assert pairs.method == "partial_correlation"


def check(pairs, expected: np.ndarray, expression: np.ndarray) -> None:
    assert pairs.regulators.tolist() == REGULATORS
    assert pairs.targets.tolist() == TARGETS
    for i, regulator in enumerate(int(gene[1:]) for gene in REGULATORS):
        for j, target in enumerate(int(gene[1:]) for gene in TARGETS):
            both = (expression[:, regulator] > 0) & (expression[:, target] > 0)
            assert pairs.support[i, j] == both.sum()
            if regulator == target or not {regulator, target} <= set(SET):
                assert np.isnan(pairs.weights[i, j])
            else:
                value = expected[SET.index(regulator), SET.index(target)]
                assert pairs.weights[i, j] == pytest.approx(value, abs=1e-6)


def test_almost_no_shrinkage_correlates_residuals_of_regressions(expression):
    pairs = partial_correlation_edges(
        expression, GENES, regulators=["G0"], targets=["G1", "G2", "G4"], shrinkage=1e-9
    )
    for j, (target, rest) in enumerate([(1, [2, 4]), (2, [1, 4]), (4, [1, 2])]):
        others = np.column_stack([np.ones(N_CELLS), expression[:, rest]])
        residuals = [
            expression[:, gene] - others @ np.linalg.lstsq(others, expression[:, gene])[0]
            for gene in (0, target)
        ]
        assert pairs.weights[0, j] == pytest.approx(np.corrcoef(*residuals)[0, 1], abs=1e-6)


def test_fewer_cells_than_genes_can_be_inverted(expression):
    pairs = partial_correlation_edges(expression[:5], GENES, regulators=REGULATORS, targets=TARGETS)
    assert pairs.scored.any()
    assert (np.abs(pairs.weights[pairs.scored]) <= 1).all()


def shrunken(expression: np.ndarray) -> np.ndarray:
    share = written_out(expression[:, SET])
    return (1 - share) * np.corrcoef(expression[:, SET], rowvar=False) + share * np.eye(len(SET))


def test_graphical_lasso_solves_its_optimality_conditions(expression):
    """P⁻¹ - C = penalty × sign(P) off the diagonal, and within ± penalty where P is 0."""
    penalty, matrix = 0.1, shrunken(expression)
    pairs = graphical_lasso_edges(expression, GENES, regulators=REGULATORS, targets=TARGETS, penalty=penalty)
    inverse = sparse_inverse(matrix, penalty)
    gap = np.linalg.inv(inverse) - matrix
    off = ~np.eye(len(SET), dtype=bool)
    zero = (inverse == 0) & off
    assert zero.any()
    assert (np.abs(gap[zero]) <= penalty + 1e-3).all()
    np.testing.assert_allclose(gap[off & ~zero], (penalty * np.sign(inverse))[off & ~zero], atol=1e-3)
    check(pairs, -inverse / np.sqrt(np.outer(inverse.diagonal(), inverse.diagonal())), expression)
    assert (pairs.weights == 0).any()
    assert pairs.method == "graphical_lasso"


def test_graphical_lasso_keeps_the_first_minimum_of_the_criterion(expression):
    from scipy.stats import multivariate_normal

    matrix = shrunken(expression)
    strongest = np.abs(matrix - np.eye(len(SET))).max()
    criteria, inverses = [], []
    for share in partial.PENALTIES:
        inverse = sparse_inverse(matrix, strongest * share)
        # n cells with exactly the second moments of `matrix` have this likelihood, up to a constant
        root = np.linalg.cholesky(matrix).T * np.sqrt(len(SET))
        normal = multivariate_normal(np.zeros(len(SET)), np.linalg.inv(inverse))
        mean_density = normal.logpdf(root).mean() + len(SET) / 2 * np.log(2 * np.pi)
        edges = np.count_nonzero(inverse[np.triu_indices(len(SET), 1)])
        expected = -2 * N_CELLS * mean_density + edges * (np.log(N_CELLS) + 2 * np.log(len(SET)))
        assert ebic(inverse, matrix, N_CELLS) == pytest.approx(expected, rel=1e-8)
        criteria.append(expected)
        inverses.append(inverse)
    rises = np.flatnonzero(np.diff(criteria) >= 0)
    assert len(rises) > 0
    inverse = inverses[rises[0]]
    pairs = graphical_lasso_edges(expression, GENES, regulators=REGULATORS, targets=TARGETS)
    check(pairs, -inverse / np.sqrt(np.outer(inverse.diagonal(), inverse.diagonal())), expression)


def test_a_fit_that_breaks_down_or_stops_early_is_said(expression, monkeypatch, caplog):
    import sklearn.covariance
    from sklearn.exceptions import ConvergenceWarning

    def slow(matrix, **_):
        import warnings

        warnings.warn("not converged", ConvergenceWarning, stacklevel=1)
        return matrix, np.linalg.inv(matrix)

    def broken(matrix, **_):
        raise FloatingPointError("Non SPD result")

    monkeypatch.setattr(sklearn.covariance, "graphical_lasso", slow)
    with caplog.at_level(logging.WARNING):
        sparse_inverse(shrunken(expression), 0.2)
    assert "did not converge at penalty 0.2" in caplog.text
    monkeypatch.setattr(sklearn.covariance, "graphical_lasso", broken)
    with pytest.raises(ValueError, match=r"6 genes breaks down at penalty 0\.2: use a larger one"):
        sparse_inverse(shrunken(expression), 0.2)


@pytest.mark.parametrize("method", [partial_correlation_edges, graphical_lasso_edges])
def test_one_gene_and_none_that_varies(expression, method):
    pairs = method(expression, GENES, regulators=["G0"], targets=["G3"])
    assert np.isnan(pairs.weights).all()
    pairs = method(expression, GENES, regulators=["G5"], targets=["G3"])
    assert np.isnan(pairs.weights).all()


def test_bad_calls(expression, monkeypatch):
    call = {"regulators": REGULATORS, "targets": TARGETS}
    with pytest.raises(ValueError, match="must be positive, got 0"):
        graphical_lasso_edges(expression, GENES, **call, penalty=0)
    with pytest.raises(ValueError, match="above 0 and up to 1, got 2"):
        partial_correlation_edges(expression, GENES, **call, shrinkage=2)
    monkeypatch.setitem(partial.MAX_GENES, "graphical_lasso", 7)
    with pytest.raises(ValueError, match=r"at most 7 genes; got 8\. Use fewer targets"):
        graphical_lasso_edges(expression, GENES, **call)
    partial_correlation_edges(expression, GENES, **call)
    monkeypatch.setitem(partial.MAX_GENES, "partial_correlation", 7)
    with pytest.raises(ValueError, match="at most 7 genes; got 8"):
        partial_correlation_edges(expression, GENES, **call)
