"""Responses against covariances, a regression in both directions, and the published loop cell by cell."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.network.propagation import PropagationSettings, propagate
from geneformer_grn.network.responses import clamped_response, marginal_response

GENES = np.array(["A", "B", "C", "D"], dtype=object)


@pytest.fixture(scope="module")
def expression() -> np.ndarray:
    rng = np.random.default_rng(0)
    a, b = rng.gamma(4, 1, 500), rng.gamma(2, 1, 500)
    c = 0.7 * a - 0.3 * b + rng.gamma(3, 1, 500)
    return np.column_stack([a, b, np.maximum(c, 0), 0.4 * c + rng.gamma(3, 0.5, 500)]).clip(min=0)


def as_edges(weights: np.ndarray) -> pd.DataFrame:
    pairs = [(GENES[i], GENES[j], weights[i, j]) for i, j in np.argwhere(weights)]
    table = pd.DataFrame(pairs, columns=["source", "target", "weight"])
    return table.assign(sign=np.sign(table["weight"]).astype(int), method="refit")


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_marginal_response_is_covariance_over_variance(expression, convert):
    found = marginal_response(convert(expression), GENES, {"A": -2.0, "C": 1.0}, group="x")
    covariance = np.cov(expression, rowvar=False)
    for source, change in (("A", -2.0), ("C", 1.0)):
        i = GENES.tolist().index(source)
        mine = found[found["source"] == source].set_index("gene")["effect"].reindex(GENES)
        np.testing.assert_allclose(mine, covariance[i] / covariance[i, i] * change, rtol=1e-9)
    assert list(found.columns) == ["source", "gene", "group", "hop", "effect"]
    assert set(found["group"]) == {"x"}
    assert (found.loc[found["gene"] == found["source"], "hop"] == 0).all()
    only = marginal_response(expression, GENES, {"A": 1.0}, targets=["D"])
    assert only["gene"].tolist() == ["A", "D"]


def test_regression_in_both_directions_says_no_more_than_the_covariance(expression):
    covariance = np.cov(expression, rowvar=False)
    weights = np.zeros((4, 4))
    for j in range(4):
        others = [i for i in range(4) if i != j]
        weights[others, j] = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, j])
    cut = weights.copy()
    cut[:, 1] = 0
    assert np.abs(np.linalg.eigvals(cut)).max() < 1
    settings = PropagationSettings(method="linear")
    linear = propagate(as_edges(weights), {"B": -1.0}, settings=settings).set_index("gene")["effect"]
    marginal = marginal_response(expression, GENES, {"B": -1.0}).set_index("gene")["effect"]
    np.testing.assert_allclose(linear.reindex(GENES), marginal.reindex(GENES), atol=1e-5)


def test_marginal_response_of_constant_genes_and_bad_calls(expression):
    constant = expression.copy()
    constant[:, 1] = 1.0
    found = marginal_response(constant, GENES, {"B": -1.0, "A": 1.0})
    assert found.loc[found["source"] == "B", "gene"].tolist() == ["B"]
    assert "B" not in found.loc[found["source"] == "A", "gene"].tolist()
    assert marginal_response(expression, GENES, {}).empty
    with pytest.raises(ValueError, match=r"1 of 5 genes .*'X'"):
        marginal_response(expression, GENES, {"X": 1.0})
    with pytest.raises(ValueError, match="at least 3 cells"):
        marginal_response(expression[:2], GENES, {"A": 1.0})


def celloracle(weights: np.ndarray, cell: np.ndarray, source: int, level: float, n_steps: int) -> np.ndarray:
    """The published loop, one cell at a time."""
    wanted = cell.copy()
    wanted[source] = level
    delta_input = wanted - cell
    delta = delta_input.copy()
    for _ in range(n_steps):
        delta = np.array([sum(delta[i] * weights[i, j] for i in range(len(cell))) for j in range(len(cell))])
        delta[source] = delta_input[source]
        simulated = cell + delta
        simulated[simulated < 0] = 0
        delta = simulated - cell
    return delta


@pytest.mark.parametrize("level", [0.0, 9.0])
@pytest.mark.parametrize("n_steps", [1, 2, 3, 6])
def test_clamped_response_is_the_published_loop(expression, level, n_steps):
    weights = np.array([[0, 1.5, 0.8, 0], [0.3, 0, -1.2, 0.4], [0, 0.5, 0, 0.9], [0, 0, 0.2, 0]])
    cells = expression[:20]
    edges = as_edges(weights)
    found = clamped_response(edges, sparse.csr_matrix(cells), GENES, source="A", level=level, n_steps=n_steps)
    exact = as_edges(weights)["weight"].astype(np.float32).astype(float).to_numpy()
    rounded = weights.copy()
    rounded[tuple(np.argwhere(weights).T)] = exact
    expected = np.array([celloracle(rounded, cell, 0, level, n_steps) for cell in cells])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (cells + found >= 0).all()
    if level == 0.0:
        assert (cells + found == 0)[:, 1:].any()  # the floor is reached


def test_hops_of_one_cell_sum_to_the_published_loop(expression):
    weights = np.array([[0, 1.5, 0.8, 0], [0.3, 0, -1.2, 0.4], [0, 0.5, 0, 0.9], [0, 0, 0.2, 0]])
    for cell in expression[:20]:
        floor = dict(zip(GENES, -cell, strict=True))
        settings = PropagationSettings(n_hops=4)
        hops = propagate(as_edges(weights), {"A": -cell[0]}, settings=settings, lowest=floor)
        summed = hops.groupby("gene")["effect"].sum().reindex(GENES).fillna(0.0)
        expected = clamped_response(as_edges(weights), cell[None], GENES, source="A", n_steps=4)[0]
        np.testing.assert_allclose(summed, expected, atol=1e-9)


def test_clamped_response_refuses_what_it_cannot_do(expression):
    edges = as_edges(np.array([[0, 1.0, -1.0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="'X' is not in"):
        clamped_response(edges, expression, GENES, source="X")
    with pytest.raises(ValueError, match="at least 1 step"):
        clamped_response(edges, expression, GENES, source="A", n_steps=0)
    with pytest.raises(ValueError, match="weights of attention"):
        clamped_response(edges.assign(method="attention"), expression, GENES, source="A")
