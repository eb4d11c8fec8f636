"""Propagation against networks small enough to follow by hand, dense algebra, and simulated walks."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.network.propagation import PropagationSettings, propagate, spectral_radius

LINEAR = PropagationSettings(method="linear")
WALK = PropagationSettings(method="walk", restart=0.3)


def make_edges(*triples: tuple[str, str, float]) -> pd.DataFrame:
    table = pd.DataFrame(list(triples), columns=["source", "target", "weight"])
    return table.assign(sign=np.sign(table["weight"]).astype(int), method="refit")


def effects(table: pd.DataFrame) -> dict[tuple[str, int], float]:
    return {(row.gene, row.hop): pytest.approx(row.effect) for row in table.itertuples()}


def random_network(n_genes: int, *, seed: int, radius: float) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    dense = np.where(
        generator.random((n_genes, n_genes)) < 0.15, generator.normal(size=(n_genes, n_genes)), 0
    )
    np.fill_diagonal(dense, 0.0)
    dense *= radius / np.abs(np.linalg.eigvals(dense)).max()
    dense = dense.astype(np.float32).astype(np.float64)
    genes = [f"G{i}" for i in range(n_genes)]
    return make_edges(*((genes[i], genes[j], dense[i, j]) for i, j in np.argwhere(dense))), dense, genes


def test_chain_with_a_repressor_by_hand():
    edges = make_edges(("A", "B", 0.5), ("B", "C", -2.0), ("A", "C", 0.25), ("C", "D", 1.0), ("X", "A", 9.0))
    result = propagate(edges, {"A": -2.0})
    assert {(row.gene, row.hop): row.effect for row in result.itertuples()} == {
        ("A", 0): -2.0,
        ("B", 1): -1.0,
        ("C", 1): -0.5,
        ("C", 2): 2.0,
        ("D", 2): -0.5,
        ("D", 3): 2.0,
    }
    assert list(result.columns) == ["source", "gene", "group", "hop", "effect"]


def test_inputs_of_the_source_are_cut():
    loop = make_edges(("A", "B", 0.5), ("B", "A", 0.5), ("B", "C", 1.0))
    by_hop = propagate(loop, {"A": 1.0})
    assert by_hop.loc[by_hop["gene"] == "A", "hop"].tolist() == [0]
    total = propagate(loop, {"A": 1.0}, settings=LINEAR).set_index("gene")["effect"]
    assert total.to_dict() == {"A": 1.0, "B": 0.5, "C": 0.5}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_linear_is_the_sum_over_all_hops_and_the_dense_inverse(seed):
    edges, dense, genes = random_network(20, seed=seed, radius=0.6)
    source = edges["source"].iloc[0]
    linear = propagate(edges, {source: -1.5}, settings=LINEAR).set_index("gene")["effect"]
    hops = propagate(edges, {source: -1.5}, settings=PropagationSettings(n_hops=200))
    summed = hops.groupby("gene")["effect"].sum()
    np.testing.assert_allclose(summed.loc[linear.index], linear, atol=1e-9)
    cut = dense.copy()
    cut[:, genes.index(source)] = 0.0
    start = np.zeros(20)
    start[genes.index(source)] = -1.5
    expected = np.linalg.inv(np.eye(20) - cut.T) @ start
    np.testing.assert_allclose(linear.reindex(genes).fillna(0.0), expected, atol=1e-12)


@pytest.mark.parametrize("settings", [None, LINEAR, WALK])
def test_a_knock_out_moves_descendants_only(settings):
    edges = make_edges(
        ("A", "B", 0.5), ("B", "C", -0.5), ("P", "A", 1.0), ("P", "Q", 1.0), ("Q", "C", 1.0), ("C", "B", 0.2)
    )
    assert set(propagate(edges, {"A": -1.0}, settings=settings)["gene"]) == {"A", "B", "C"}


def test_amplifying_loops_have_no_linear_answer():
    edges = make_edges(("S", "A", 1.0), ("A", "B", 2.0), ("B", "A", 0.5), ("B", "C", -1.0))
    with pytest.raises(ValueError, match=r"spectral radius 1, .*--method iterated"):
        propagate(edges, {"S": -1.0}, settings=LINEAR)
    # cutting the inputs of A opens the loop
    assert len(propagate(edges, {"A": -1.0}, settings=LINEAR)) == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_spectral_radius_equals_dense_eigenvalues(seed):
    _, dense, _ = random_network(25, seed=seed, radius=0.9)
    assert spectral_radius(sparse.csr_matrix(dense)) == pytest.approx(0.9, rel=1e-5)
    assert spectral_radius(sparse.csr_matrix(np.triu(dense, 1))) == 0.0


def test_walk_equals_power_iteration():
    edges, dense, genes = random_network(15, seed=3, radius=0.8)
    source = edges["source"].iloc[0]
    walk = (
        propagate(edges, {source: 1.0}, settings=WALK).set_index("gene")["effect"].reindex(genes).fillna(0.0)
    )
    step = np.abs(dense)
    out = step.sum(axis=1)
    start = np.zeros(15)
    start[genes.index(source)] = 1.0
    position = start.copy()
    for _ in range(500):
        moved = np.divide(position, out, out=np.zeros(15), where=out > 0) @ step
        stuck = position[out == 0].sum()
        position = 0.7 * (moved + stuck * start) + 0.3 * start
    np.testing.assert_allclose(walk, position, atol=1e-10)
    assert walk.sum() == pytest.approx(1.0)


def test_hop_of_total_effects_is_the_shortest_path():
    edges = make_edges(("A", "B", 0.5), ("B", "C", 0.5), ("A", "C", -0.2), ("C", "D", 0.3))
    hops = propagate(edges, {"A": 1.0}, settings=LINEAR).set_index("gene")["hop"].to_dict()
    assert hops == {"A": 0, "B": 1, "C": 1, "D": 2}


def test_expression_does_not_fall_below_zero():
    edges = make_edges(("A", "B", 1.0), ("B", "C", 1.0))
    result = propagate(edges, {"A": -5.0}, lowest={"A": -5.0, "B": -2.0})
    assert effects(result) == {("A", 0): -5.0, ("B", 1): -2.0, ("C", 2): -2.0}


def test_groups_travel_apart_and_a_gene_without_targets_stays_alone():
    edges = pd.concat(
        [make_edges(("A", "B", 1.0)).assign(group="x"), make_edges(("A", "B", -1.0)).assign(group="y")]
    )
    result = propagate(edges, {"A": 1.0, "B": 1.0})
    moved = result[(result["source"] == "A") & (result["hop"] == 1)].set_index("group")["effect"]
    assert moved.to_dict() == {"x": 1.0, "y": -1.0}
    assert result.loc[result["source"] == "B", "gene"].tolist() == ["B", "B"]
    assert propagate(edges[:0], {"A": 1.0}).empty


def test_weights_without_sign_are_refused_but_may_be_walked():
    unsigned = make_edges(("A", "B", 0.5), ("B", "C", 0.1)).drop(columns="sign")
    with pytest.raises(ValueError, match=r"weights of attention edges .*refit"):
        propagate(unsigned.assign(method="attention"), {"A": 1.0})
    with pytest.raises(ValueError, match="weights of attention and correlation edges"):
        propagate(
            make_edges(("A", "B", -1.0), ("B", "C", 1.0)).assign(method=["attention", "correlation"]),
            {"A": 1.0},
        )
    with pytest.raises(ValueError, match="none of 2 weights is negative"):
        propagate(unsigned, {"A": 1.0})
    with pytest.raises(ValueError, match="1 of 2 edges have a weight but no sign"):
        propagate(unsigned.assign(sign=[1, 0]), {"A": 1.0})
    assert len(propagate(unsigned.assign(method="attention"), {"A": 1.0}, settings=WALK)) == 3
    assert len(propagate(unsigned.assign(sign=[-1, 1]), {"A": 1.0})) == 3


def test_bad_settings():
    with pytest.raises(ValueError, match="one of iterated, linear, walk, clamped, covariance"):
        PropagationSettings(method="magic")
    with pytest.raises(ValueError, match="at least one hop"):
        PropagationSettings(n_hops=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        PropagationSettings(restart=1.0)
    for method in ("covariance", "clamped"):
        with pytest.raises(ValueError, match=rf"{method} response is one of cells, .* \(--expression"):
            propagate(make_edges(("A", "B", 1.0)), {"A": 1.0}, settings=PropagationSettings(method=method))
