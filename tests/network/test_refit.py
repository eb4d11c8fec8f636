"""Refitted coefficients against scikit-learn and a network whose coefficients are known."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from geneformer_grn.network.inference import cross_correlation, gcv_ridge
from geneformer_grn.network.refit import expression_change, refit_signed

GENES = np.array(["A", "B", "C", "D", "E"], dtype=object)


@pytest.fixture(scope="module")
def expression() -> np.ndarray:
    """C = 2 A - 1 B + noise, D = 0.5 C; E is constant."""
    generator = np.random.default_rng(0)
    values = generator.uniform(1.0, 3.0, (4000, 5))
    values[:, 2] = 2.0 * values[:, 0] - values[:, 1] + 4.0 + generator.normal(0, 0.1, 4000)
    values[:, 3] = 0.5 * values[:, 2] + generator.normal(0, 0.1, 4000)
    values[:, 4] = 1.0
    return values


@pytest.fixture
def edges() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "source": ["A", "B", "C", "A", "E"],
            "target": ["C", "C", "D", "C", "D"],
            "weight": [0.9, 0.8, 0.7, 0.3, 0.1],
            "group": "all",
            "method": ["attention", "attention", "attention", "correlation", "attention"],
        }
    )


def test_known_coefficients_come_back_with_their_signs(expression, edges):
    refitted = refit_signed(edges, sparse.csr_matrix(expression), GENES).set_index(["source", "target"])
    assert refitted.loc[("A", "C"), "weight"] == pytest.approx(2.0, rel=0.05)
    assert refitted.loc[("B", "C"), "weight"] == pytest.approx(-1.0, rel=0.05)
    assert refitted.loc[("C", "D"), "weight"] == pytest.approx(0.5, rel=0.05)
    assert refitted.loc[("E", "D"), "weight"] == 0.0
    assert refitted["sign"].tolist() == np.sign(refitted["weight"]).tolist()
    assert len(refitted) == 4  # A -> C of two methods counts once
    assert set(refitted["method"]) == {"refit"}
    assert set(refitted["support"]) == {4000}


def test_one_target_equals_scikit_learn(expression, edges):
    few = expression[:40]
    refitted = refit_signed(edges, few, GENES)
    among, _ = cross_correlation(few, np.array([0, 1]), np.array([0, 1]))
    cross, _ = cross_correlation(few, np.array([0, 1]), np.array([2]))
    _, penalty = gcv_ridge(among, cross[:, 0], len(few))
    scale = few[:, :2].std(axis=0)
    model = Ridge(alpha=penalty * len(few)).fit((few[:, :2] - few[:, :2].mean(axis=0)) / scale, few[:, 2])
    np.testing.assert_allclose(
        refitted.loc[refitted["target"] == "C", "weight"], model.coef_ / scale, rtol=1e-5
    )


def test_unknown_genes(expression, edges, caplog):
    some = refit_signed(edges.assign(source=["A", "B", "X", "A", "E"]), expression, GENES)
    assert len(some) == 3
    assert "1 of 4 edges left out" in caplog.text
    with pytest.raises(ValueError, match=r"none of 4 edges.*same kind of gene ID"):
        refit_signed(edges, expression, np.array([f"ENSG{i}" for i in range(5)], dtype=object))
    with pytest.raises(ValueError, match="the table is empty"):
        refit_signed(edges[:0], expression, GENES)


def test_one_group_and_enough_cells(expression, edges):
    with pytest.raises(ValueError, match="one group; the table holds 2"):
        refit_signed(edges.assign(group=["x", "x", "y", "y", "y"]), expression, GENES)
    with pytest.raises(ValueError, match="at least 3 cells"):
        refit_signed(edges, expression[:2], GENES)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_changes_of_expression(convert):
    values = convert(np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]))
    names = np.array(["A", "B"], dtype=object)
    assert expression_change(values, names, genes=["A", "B"], kind="delete") == {
        "A": pytest.approx(-4 / 3),
        "B": 0.0,
    }
    up = expression_change(values, names, genes=["A", "B"], kind="overexpress")
    assert up["A"] == pytest.approx(np.percentile([1.0, 3.0], 95) - 4 / 3)
    assert up["B"] == 0.0
    with pytest.raises(ValueError, match="'X' is not in"):
        expression_change(values, names, genes=["X"], kind="delete")
    with pytest.raises(ValueError, match="use delete or overexpress"):
        expression_change(values, names, genes=["A"], kind="inhibit")


def test_states_have_their_own_means(expression, edges):
    labels = np.resize(["x", "y"], len(expression)).astype(object)
    shifted = expression + np.where(labels == "x", 3.0, 0.0)[:, None]
    centred = shifted.copy()
    for label in "xy":
        centred[labels == label] -= centred[labels == label].mean(axis=0)
    found = refit_signed(edges, sparse.csr_matrix(shifted), GENES, labels=labels)
    expected = refit_signed(edges, centred, GENES)
    np.testing.assert_allclose(found["weight"], expected["weight"], rtol=1e-5)
    pooled = refit_signed(edges, shifted, GENES).set_index(["source", "target"])["weight"]
    assert abs(pooled["B", "C"] - found.set_index(["source", "target"]).loc[("B", "C"), "weight"]) > 0.05
    assert found["support"].max() == len(expression)  # cells that express both, not those above a mean
