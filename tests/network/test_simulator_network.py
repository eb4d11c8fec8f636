"""The steady state without noise, against the published equations written out and integrated."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from geneformer_grn.network.simulator_network import Conditions, RegulatoryNetwork, steady_state
from geneformer_grn.network.topologies import TopologySettings, draw_edges


def production(network, x, basal):
    """SERGIO's equation, one regulator at a time: activators add K·hill, repressors |K|·(1 - hill)."""
    rate = basal.copy()
    for source, target, weight in zip(network.source, network.target, network.weight, strict=True):
        hill = x[source] ** network.hill / (
            network.half_response[source] ** network.hill + x[source] ** network.hill
        )
        rate[target] += weight * hill if weight > 0 else -weight * (1.0 - hill)
    return rate


def integrate(network, basal, factor):
    def change(_, x):
        x = np.maximum(x, 0.0)
        return production(network, x, basal) * factor - network.decay * x

    return solve_ivp(change, (0, 80), np.ones(network.n_genes), rtol=1e-9, atol=1e-11, method="LSODA").y[
        :, -1
    ]


def drawn_network(seed=0, *, n_types=2, hill=2.0, **settings):
    chosen = TopologySettings(**{"n_genes": 20, "n_regulators": 8} | settings)
    generator = np.random.default_rng(seed)
    edges = draw_edges(chosen, generator)
    basal = np.zeros((n_types, chosen.n_genes))
    basal[:, : chosen.n_masters] = generator.uniform(1.0, 5.0, (n_types, chosen.n_masters))
    return RegulatoryNetwork(
        genes=np.array([f"g{i}" for i in range(chosen.n_genes)], dtype=object),
        source=edges.source, target=edges.target, weight=edges.sign * edges.strength, basal=basal, hill=hill,
    )  # fmt: skip


def untouched(network):
    return Conditions(basal=network.basal, factor=np.ones_like(network.basal))


@pytest.mark.parametrize("hill", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_steady_state_is_where_the_equations_come_to_rest(seed, hill):
    network = drawn_network(seed, hill=hill)
    found = steady_state(network, untouched(network))
    for row in range(2):
        expected = integrate(network, network.basal[row], np.ones(20))
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


def test_a_half_response_is_the_mean_level_over_cell_types():
    network = drawn_network()
    found = steady_state(network, untouched(network))
    regulators = network.regulators
    np.testing.assert_allclose(network.half[regulators], found[:, regulators].mean(axis=0), rtol=1e-12)


def test_a_chain_in_closed_form():
    network = RegulatoryNetwork(
        genes=np.array(["A", "B", "C"]), source=np.array([0, 1]), target=np.array([1, 2]),
        weight=np.array([3.0, -4.0]), basal=np.array([[2.0, 0.0, 0.5]]), decay=np.array([0.5, 1.0, 2.0]),
    )  # fmt: skip
    # One cell type: each regulator is at its half response, and every Hill function at one half.
    np.testing.assert_allclose(steady_state(network, untouched(network)), [[4.0, 1.5, (0.5 + 2.0) / 2.0]])
    lost = Conditions(basal=network.basal, factor=np.array([[0.0, 1.0, 1.0]]))
    np.testing.assert_allclose(steady_state(network, lost), [[0.0, 0.0, 4.5 / 2.0]])
    twice = Conditions(basal=network.basal, factor=np.array([[2.0, 1.0, 1.0]]))
    b = 3.0 * 64 / (16 + 64)
    c = (0.5 + 4.0 * (1 - b**2 / (1.5**2 + b**2))) / 2.0
    np.testing.assert_allclose(steady_state(network, twice), [[8.0, b, c]])


def test_with_feedback_the_equations_are_at_rest_too():
    network = drawn_network(3, n_feedback=2)
    found = steady_state(network, untouched(network))
    assert len(network.levels[-1])
    for row in range(2):
        change = production(network, found[row], network.basal[row]) - network.decay * found[row]
        np.testing.assert_allclose(change, 0.0, atol=1e-6)


def test_genes_below_are_those_that_a_path_reaches():
    import networkx

    network = drawn_network(1)
    graph = networkx.DiGraph(list(zip(network.source.tolist(), network.target.tolist(), strict=True)))
    for gene in network.regulators:
        expected = networkx.single_source_shortest_path_length(graph, int(gene))
        distance = network.distances(gene)
        assert {place: distance[place] for place in np.flatnonzero(np.isfinite(distance))} == expected


CHAIN = {
    "genes": np.array(["A", "B"]), "source": np.array([0]), "target": np.array([1]),
    "weight": np.array([1.0]), "basal": np.array([[1.0, 0.0]]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genes": np.array([]), "basal": np.zeros((1, 0))}, "needs genes, got 0"),
        ({"weight": np.array([1.0, 2.0])}, "differ in length"),
        ({"basal": np.ones((1, 3))}, "basal rates are of 3 genes, the network has 2"),
        ({"target": np.array([2])}, "edges name gene 2"),
        ({"target": np.array([0])}, "regulates itself"),
        ({k: np.repeat(CHAIN[k], 2) for k in ("source", "target", "weight")}, "an edge occurs twice"),
        ({"basal": np.array([[-1.0, 0.0]])}, "basal rates are 0 or more"),
        ({"basal": np.zeros((1, 2))}, "1 regulators have no level at which they could act"),
    ],
)
def test_networks_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RegulatoryNetwork(**CHAIN | changes)


def test_conditions_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="factors of production are 0"):
        Conditions(basal=np.ones((1, 2)), factor=np.array([[1.0, -1.0]]))
    with pytest.raises(ValueError, match="basal rates"):
        Conditions(basal=np.ones((1, 2)), factor=np.ones((2, 2)))
