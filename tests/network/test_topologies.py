"""Drawn networks have the properties asked for."""

import networkx
import numpy as np
import pytest

from geneformer_grn.network.topologies import TopologySettings, draw_edges, regulator_levels


def draw(seed=0, **settings):
    chosen = TopologySettings(**settings)
    return chosen, draw_edges(chosen, np.random.default_rng(seed))


def graph_of(edges):
    return networkx.DiGraph(list(zip(edges.source.tolist(), edges.target.tolist(), strict=True)))


@pytest.mark.parametrize("topology", ["scale-free", "hubs", "random"])
@pytest.mark.parametrize("n_genes", [10, 100, 400])
def test_edges_are_as_many_as_asked_acyclic_and_of_regulators(topology, n_genes):
    settings, edges = draw(n_genes=n_genes, topology=topology, n_hubs=min(3, n_genes // 5))
    graph = graph_of(edges)
    assert networkx.is_directed_acyclic_graph(graph)
    assert graph.number_of_edges() == len(edges.source) == settings.n_edges
    assert edges.source.max() < settings.regulators
    regulated = np.unique(edges.target)
    assert np.array_equal(regulated, np.arange(settings.n_masters, n_genes))
    levels = np.append(regulator_levels(settings), np.full(n_genes - settings.regulators, settings.n_levels))
    assert np.all(levels[edges.source] < levels[edges.target])


def test_density_is_of_the_pairs():
    settings, edges = draw(n_genes=200, n_regulators=50, density=0.08)
    assert len(edges.source) == round(0.08 * 50 * 199)
    assert settings.n_masters == 20


def test_out_degrees_have_a_heavier_tail_than_chance():
    largest = {
        topology: np.mean([
            np.sort(np.bincount(draw(seed, n_genes=400, topology=topology)[1].source))[-3:].mean()
            for seed in range(5)
        ])
        for topology in ("scale-free", "hubs", "random")
    }  # fmt: skip
    assert largest["scale-free"] > 2 * largest["random"]
    assert largest["hubs"] > 3 * largest["random"]


def count_triangles(edges):
    graph = graph_of(edges)
    return sum(len(set(graph.successors(a)) & set(graph.successors(b))) for a, b in graph.edges if b in graph)


def test_feed_forward_loops_are_closed_on_request():
    none, many = (draw(n_genes=400, topology="random", feed_forward=share)[1] for share in (0.0, 0.9))
    assert count_triangles(many) > 2 * count_triangles(none)


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (1.0, 1, 1), (0.3, 0.25, 0.35)])
def test_signs_and_strengths(share, low, high):
    _, edges = draw(n_genes=400, repressing=share, strength=(2.0, 3.0))
    assert low <= np.mean(edges.sign == -1) <= high
    assert set(np.unique(edges.sign)) <= {-1, 1}
    assert 2.0 <= edges.strength.min() < edges.strength.max() <= 3.0


def test_each_feedback_edge_closes_a_loop():
    _, without = draw(n_genes=100)
    _, edges = draw(n_genes=100, n_feedback=4)
    back = set(graph_of(edges).edges) - set(graph_of(without).edges)
    assert len(back) == 4
    for below, above in back:
        assert networkx.has_path(graph_of(without), above, below)


def test_a_dense_network_is_filled_to_the_last_pair():
    settings, edges = draw(n_genes=6, n_regulators=2, n_levels=1, density=0.8)
    assert settings.n_edges == len(edges.source) == 2 * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_genes": 0}, "2 genes at least, got 0"),
        ({"n_genes": 10, "n_regulators": 11}, "11 regulators of 10 genes"),
        ({"n_genes": 10, "n_regulators": 0}, "0 regulators of 10 genes"),
        ({"n_genes": 10, "topology": "ring"}, "topology 'ring' is unknown"),
        ({"n_genes": 10, "density": 1.5}, "density is a share"),
        ({"n_genes": 10, "feed_forward": -0.1}, "feed_forward is a share"),
        ({"n_genes": 10, "repressing": 1.1}, "repressing is a share"),
        ({"n_genes": 10, "masters": 0.0}, "masters are a share"),
        ({"n_genes": 10, "n_levels": 0}, "levels start at 1"),
        ({"n_genes": 10, "topology": "hubs", "n_hubs": 5}, "5 hubs among 2 regulators"),
        ({"n_genes": 10, "strength": (0.0, 1.0)}, "range of positive rates"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TopologySettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_genes": 20, "n_regulators": 10, "density": 1.0}, "leave room for"),
        ({"n_genes": 10, "n_regulators": 2, "n_levels": 1, "n_feedback": 1}, "0 pairs of regulators"),
    ],
)
def test_what_levels_leave_no_room_for_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        draw(**settings)
