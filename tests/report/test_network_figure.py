"""The drawn network: every gene named once, signs by colour, labels apart, layout against a plain oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch

from geneformer_grn.report.drawing import NEGATIVE, POSITIVE, UNSIGNED, to_svg
from geneformer_grn.report.network_figure import hubs, network_figure, top_edges
from geneformer_grn.report.network_layout import path_lengths, place_labels, separate, stress_layout

EDGES = pd.DataFrame(
    {
        "source": ["S", "S", "S", "T"],
        "target": ["A", "B", "T", "S"],
        "weight": [0.1, -0.9, 0.5, 0.3],
        "sign": [1, -1, np.nan, 0],
    }
)


def arrows(figure) -> list[FancyArrowPatch]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]


def test_each_gene_once_and_each_edge_in_the_colour_of_its_sign() -> None:
    figure = network_figure(EDGES)
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["A", "B", "S", "T"]
    colours = [to_hex(arrow.get_edgecolor()) for arrow in arrows(figure)]
    assert colours == [POSITIVE, UNSIGNED, UNSIGNED, NEGATIVE]  # by strength, the strongest on top
    assert to_svg(figure) == to_svg(network_figure(EDGES))


def test_without_signs_no_edge_has_a_direction_of_effect() -> None:
    colours = {to_hex(arrow.get_edgecolor()) for arrow in arrows(network_figure(EDGES.drop(columns="sign")))}
    assert colours == {UNSIGNED}


def test_only_the_strongest_edges_are_drawn() -> None:
    assert top_edges(EDGES, 2)["weight"].tolist() == [-0.9, 0.5]
    assert len(arrows(network_figure(EDGES, n_edges=2))) == 2
    assert hubs(EDGES) == [("S", 3), ("T", 1)]
    assert hubs(EDGES, n_edges=2) == [("S", 2)]


def test_self_edges_and_single_edges_are_drawn() -> None:
    loop = pd.DataFrame({"source": ["A"], "target": ["A"], "weight": [1.0]})
    assert [text.get_text() for text in network_figure(loop).axes[0].texts] == ["A"]
    to_svg(network_figure(EDGES.head(1)))


def test_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="network figure needs the columns weight"):
        network_figure(EDGES.drop(columns="weight"))


def test_path_lengths_match_breadth_first_search() -> None:
    generator = np.random.default_rng(0)
    pairs = generator.integers(0, 12, size=(14, 2))
    neighbours = {node: set() for node in range(12)}
    for a, b in pairs:
        neighbours[a].add(b)
        neighbours[b].add(a)
    lengths = path_lengths(12, pairs)
    for start in range(12):
        found, front, step = {start: 0}, [start], 0
        while front:
            step += 1
            front = [
                n
                for node in front
                for n in neighbours[node]
                if n not in found and not found.update({n: step})
            ]
        for node, steps in found.items():
            assert lengths[start, node] == steps
        assert all(lengths[start, node] > 1 for node in range(12) if node not in found)


def stress(positions: np.ndarray, lengths: np.ndarray) -> float:
    total = 0.0
    for i in range(len(lengths)):
        for j in range(i):
            total += (np.linalg.norm(positions[i] - positions[j]) - lengths[i, j]) ** 2 / lengths[i, j] ** 2
    return total


def test_stress_layout_reaches_what_a_general_minimiser_reaches() -> None:
    from scipy.optimize import minimize

    pairs = np.array([(0, 1), (0, 2), (0, 3), (3, 4), (4, 5), (4, 6)])
    lengths = path_lengths(7, pairs)
    ours = stress_layout(lengths)
    start = np.random.default_rng(0).normal(size=(20, 14))
    best = min(minimize(lambda x: stress(x.reshape(7, 2), lengths), s, method="BFGS").fun for s in start)
    assert stress(ours, lengths) == pytest.approx(best, rel=0.05)
    gradient_step = minimize(lambda x: stress(x.reshape(7, 2), lengths), ours.ravel(), method="BFGS")
    assert stress(ours, lengths) == pytest.approx(gradient_step.fun, rel=0.01)  # it has converged


def overlapping(centres: np.ndarray, sizes: np.ndarray) -> int:
    count = 0
    for i in range(len(centres)):
        for j in range(i):
            count += bool((np.abs(centres[i] - centres[j]) < (sizes[i] + sizes[j]) / 2 - 1e-3).all())
    return count


@pytest.mark.parametrize("seed", range(5))
def test_labels_do_not_overlap_and_stay_inside(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pairs = np.column_stack([generator.integers(0, 4, 40), generator.integers(4, 34, 40)])
    sizes = np.column_stack([generator.uniform(0.3, 0.6, 34), np.full(34, 0.17)])
    area = (4.8, 4.1)
    centres = place_labels(pairs, sizes, area)
    assert overlapping(centres, sizes) == 0
    assert (centres - sizes / 2 >= -1e-9).all()
    assert (centres + sizes / 2 <= np.array(area) + 1e-9).all()


def test_labels_at_one_point_are_pushed_apart() -> None:
    sizes = np.full((3, 2), 0.2)
    assert overlapping(separate(np.full((3, 2), 1.0), sizes, (2.0, 2.0)), sizes) == 0
