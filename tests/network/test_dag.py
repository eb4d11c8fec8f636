"""Directed acyclic networks: the constraint by finite differences and paths, the fit by enumeration."""

from itertools import permutations

import networkx as nx
import numpy as np
import pytest
from scipy import sparse
from scipy.linalg import expm

from geneformer_grn.network import dag
from geneformer_grn.network.dag import acyclicity, causal_order, dag_edges, learn_dag, without_loops
from geneformer_grn.network.linear import lasso_edges

GENES = np.array([f"G{i}" for i in range(6)], dtype=object)
EDGES = {("G0", "G2"): 1.2, ("G1", "G2"): -1.0, ("G2", "G3"): 0.9, ("G1", "G4"): 1.5, ("G3", "G5"): -1.1}


@pytest.fixture(scope="module")
def expression() -> np.ndarray:
    """Cells of a small network whose genes all have noise of one variance; columns are shuffled."""
    cells = np.random.default_rng(0).normal(size=(3000, 6))
    for (source, target), weight in EDGES.items():
        cells[:, int(target[1:])] += weight * cells[:, int(source[1:])]
    return cells


def directed(weights: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> nx.DiGraph:
    found = np.argwhere(np.nan_to_num(weights) != 0)
    return nx.DiGraph((rows[i], columns[j]) for i, j in found)


def test_gradient_of_acyclicity_by_finite_differences():
    weights = np.random.default_rng(1).normal(scale=0.25, size=(5, 5))
    value, gradient = acyclicity(weights)
    assert value > 0
    for i in range(5):
        for j in range(5):
            step = np.zeros((5, 5))
            step[i, j] = 1e-6
            slope = (acyclicity(weights + step)[0] - acyclicity(weights - step)[0]) / 2e-6
            assert gradient[i, j] == pytest.approx(slope, abs=1e-7)


def test_acyclicity_counts_closed_walks():
    """-log det(I - A) is the sum of tr(Aᵏ) / k; 0 without a loop, as NOTEARS' tr exp(A) - d is."""
    generator = np.random.default_rng(2)
    acyclic = np.triu(generator.normal(size=(5, 5)), 1)
    assert acyclicity(acyclic)[0] == pytest.approx(0.0, abs=1e-12)
    assert np.trace(expm(acyclic**2)) == pytest.approx(5.0)
    looped = 0.4 * acyclic
    looped[4, 0] = 0.5
    walks = sum(np.trace(np.linalg.matrix_power(looped**2, k)) / k for k in range(1, 200))
    assert acyclicity(looped)[0] == pytest.approx(walks, rel=1e-9)
    assert walks > 1e-6
    assert acyclicity(np.array([[0.0, 2.0], [2.0, 0.0]]))[0] == np.inf


def test_a_known_network_is_recovered(expression):
    pairs = dag_edges(expression, GENES, regulators=GENES, targets=GENES, standardise=False, penalty=0.05)
    found = {
        (str(GENES[i]), str(GENES[j])) for i, j in np.argwhere(np.abs(np.nan_to_num(pairs.weights)) > 0.05)
    }
    assert found == set(EDGES)
    sd = expression.std(axis=0)
    for (source, target), weight in EDGES.items():
        i, j = int(source[1:]), int(target[1:])
        assert pairs.weights[i, j] == pytest.approx(weight * sd[i] / sd[j], abs=0.1)
    assert pairs.method == "dag"
    assert pairs.signed


def test_the_order_leaves_least_unexplained(expression):
    """Against all 24 orders of four standardised genes, by least squares one after the other."""
    cells = (expression - expression.mean(axis=0)) / expression.std(axis=0)
    correlation = np.corrcoef(cells[:, :4], rowvar=False)

    def left(order) -> float:
        total = 0.0
        for n, gene in enumerate(order):
            above = cells[:, list(order[:n])]
            fit = above @ np.linalg.lstsq(above, cells[:, gene])[0] if n else 0.0
            total += np.mean((cells[:, gene] - fit) ** 2)
        return total

    learned = learn_dag(correlation, np.full((4, 4), 1e-3))
    ours = left(causal_order(without_loops(learned)))
    every = sorted(left(order) for order in permutations(range(4)))
    assert ours <= every[0] + 0.02 * (every[-1] - every[0])


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_returned_has_no_loop_and_is_a_lasso_in_some_order(seed, standardise):
    from sklearn.linear_model import Lasso

    generator = np.random.default_rng(seed)
    cells = generator.normal(size=(60, 3)) @ generator.normal(size=(3, 12)) + generator.normal(size=(60, 12))
    genes = np.array([f"G{i}" for i in range(12)], dtype=object)
    pairs = dag_edges(cells, genes, regulators=genes[:9], targets=genes[2:], standardise=standardise)
    graph = directed(pairs.weights, genes[:9], genes[2:])
    assert nx.is_directed_acyclic_graph(graph)
    assert graph.number_of_edges() > 20
    plain = lasso_edges(cells, genes, regulators=genes[:9], targets=genes[9:], penalty=0.03, device="cpu")
    np.testing.assert_allclose(pairs.weights[:, 7:], plain.weights, atol=1e-5)
    assert np.isnan(pairs.weights[[2, 8], [0, 6]]).all()
    standard = (cells - cells.mean(axis=0)) / cells.std(axis=0)
    for target in range(2, 9):
        chosen = np.flatnonzero(np.nan_to_num(pairs.weights[:, target - 2]))
        if len(chosen):
            fit = Lasso(alpha=0.03, fit_intercept=False, tol=1e-10, max_iter=100_000)
            fit.fit(standard[:, chosen], standard[:, target])
            np.testing.assert_allclose(pairs.weights[chosen, target - 2], fit.coef_, atol=1e-5)


def test_loops_are_cut_at_their_weakest_edge():
    weights = np.zeros((4, 4))
    for edge, weight in {
        (0, 1): 0.9,
        (1, 2): -0.8,
        (2, 0): 0.1,
        (2, 3): 0.5,
        (3, 2): 0.4,
        (1, 3): 1e-3,
    }.items():
        weights[edge] = weight
    kept = without_loops(weights)
    assert np.argwhere(kept).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert causal_order(kept).tolist() == [0, 1, 2, 3]
    generator = np.random.default_rng(3)
    for _ in range(20):
        strengths = generator.normal(size=(8, 8)) * (generator.random((8, 8)) < 0.4)
        np.fill_diagonal(strengths, 0.0)
        kept = without_loops(strengths)
        graph = nx.from_numpy_array(kept, create_using=nx.DiGraph)
        place = np.argsort(causal_order(kept))
        assert all(place[source] < place[target] for source, target in graph.edges)
        for source, target in np.argwhere((np.abs(strengths) > 0.01) & ~kept):
            assert nx.has_path(graph, target, source)


def test_genes_that_do_not_vary_and_sparse_cells(expression):
    cells = np.maximum(expression[:200], 0.0)
    cells[:, 1] = 0.0
    call = {"regulators": GENES[:4], "targets": GENES}
    pairs = dag_edges(sparse.csr_matrix(cells), GENES, **call)
    assert np.isnan(pairs.weights[1]).all()
    assert np.isnan(pairs.weights[:, 1]).all()
    assert np.isfinite(pairs.weights[0, 2:]).all()
    assert pairs.support[0, 2] == ((cells[:, 0] > 0) & (cells[:, 2] > 0)).sum()
    np.testing.assert_allclose(dag_edges(cells, GENES, **call).weights, pairs.weights, atol=1e-6)
    none = dag_edges(cells, GENES, regulators=["G1"], targets=["G0"])
    assert np.isnan(none.weights).all()


def test_bad_calls(expression, monkeypatch):
    call = {"regulators": GENES[:3], "targets": GENES}
    with pytest.raises(ValueError, match="must be positive, got 0"):
        dag_edges(expression, GENES, **call, penalty=0)
    with pytest.raises(ValueError, match="at least 3 cells"):
        dag_edges(expression[:2], GENES, **call)
    monkeypatch.setattr(dag, "MAX_GENES", 5)
    with pytest.raises(ValueError, match=r"at most 5 regulators and targets; got 6\. Use fewer targets"):
        dag_edges(expression, GENES, **call)
