"""The drawn network: every gene named once, signs by colour, labels apart, layout against a plain oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch

from geneformer_grn.report.drawing import NEGATIVE, POSITIVE, UNSIGNED, to_svg
from geneformer_grn.report.network_differences_figure import (
    FIRST,
    SECOND,
    differences_figure,
    strongest_differences,
    weights_of_groups,
)
from geneformer_grn.report.network_figure import hubs, network_figure, network_panels_figure, top_edges
from geneformer_grn.report.network_layout import GAP, path_lengths, place_labels, separate, stress_layout

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


def many_edges(n_edges: int) -> pd.DataFrame:
    """Edges of twelve regulators, few of which have most targets."""
    generator = np.random.default_rng(0)
    sources = np.minimum(generator.geometric(0.2, 4 * n_edges) - 1, 11)
    table = pd.DataFrame({"source": sources, "target": generator.integers(0, n_edges, len(sources))})
    table = table.drop_duplicates().head(n_edges)
    return pd.DataFrame(
        {
            "source": [f"REG{number}" for number in table["source"]],
            "target": [f"TARGET{number}" for number in table["target"]],
            "weight": generator.gamma(2.0, 1.0, n_edges),
            "sign": generator.choice([1, -1], n_edges),
        }
    )


def written_boxes(figure) -> list:
    """The room that each text takes once drawn, by matplotlib's own measure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]


@pytest.mark.parametrize("n_edges", [30, 100, pytest.param(300, marks=pytest.mark.slow)])
def test_every_gene_is_named_and_no_names_overlap(n_edges: int) -> None:
    edges = many_edges(n_edges)
    figure = network_figure(edges, n_edges=n_edges, legend=True)
    words = ["activates", "represses", "regulator"]
    expected = sorted({*edges["source"], *edges["target"], *words})
    assert sorted(text.get_text() for text in figure.axes[0].texts) == expected
    boxes = written_boxes(figure)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    width, height = figure.get_size_inches() * figure.dpi
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


def test_the_legend_names_what_is_drawn_only() -> None:
    texts = {text.get_text() for text in network_figure(EDGES.head(1), legend=True).axes[0].texts}
    assert texts == {"S", "A", "activates", "regulator"}
    assert {text.get_text() for text in network_figure(EDGES.head(1)).axes[0].texts} == {"S", "A"}


def test_repression_ends_in_a_bar() -> None:
    styles = [type(arrow.get_arrowstyle()).__name__ for arrow in arrows(network_figure(EDGES))]
    assert styles == ["CurveFilledB", "CurveFilledB", "CurveFilledB", "BarAB"]


def test_names_of_an_edge_leave_room_for_its_line() -> None:
    pairs = np.column_stack([np.zeros(8, dtype=int), np.arange(1, 9)])
    sizes = np.column_stack([np.full(9, 0.5), np.full(9, 0.2)])
    centres = place_labels(pairs, sizes, (4.0, 3.5))
    for a, b in pairs:
        between = np.abs(centres[a] - centres[b]) - (sizes[a] + sizes[b]) / 2
        assert between.max() > 3 * GAP


def test_panels_hold_every_gene_at_the_same_place() -> None:
    edges = pd.concat([EDGES.head(2).assign(group="x"), EDGES.tail(2).assign(group="y", source="A")])
    figure = network_panels_figure(edges, ["y", "x"], size=(3.0, 2.0), legend=False)
    axes = figure.axes[0]
    assert figure.get_size_inches()[0] == 6.0
    names = {}
    for text in axes.texts:
        names.setdefault(text.get_text(), []).append(text)
    assert set(names) == {"S", "A", "B", "T", "x", "y"}
    for gene in "SABT":
        left, right = (np.array(text.get_position()) for text in names[gene])
        np.testing.assert_allclose(right - left, [3.0, 0.0])
    faint = {gene: [text.get_color() == UNSIGNED for text in names[gene]] for gene in "SABT"}
    assert faint == {"S": [False, False], "A": [False, False], "B": [True, False], "T": [False, True]}
    assert len(arrows(figure)) == 4


def test_differences_say_in_which_group_an_edge_is_stronger() -> None:
    edges = pd.DataFrame(
        {
            "source": ["S", "S", "S", "S", "S"],
            "target": ["A", "B", "A", "C", "B"],
            "weight": [0.9, 0.2, 0.1, 0.5, 0.2],
            "sign": [1, 1, 1, -1, 1],
            "group": ["x", "x", "y", "y", "y"],
        }
    )
    table = weights_of_groups(edges, "x", "y").set_index("target")
    assert table["weight_a"].to_dict() == {"A": 0.9, "B": 0.2, "C": 0.0}
    assert table["weight_b"].to_dict() == {"A": 0.1, "B": 0.2, "C": -0.5}
    figure = differences_figure(table.reset_index())
    drawn = {(to_hex(a.get_edgecolor()), type(a.get_arrowstyle()).__name__) for a in arrows(figure)[:2]}
    assert drawn == {(FIRST, "CurveFilledB"), (SECOND, "BarAB")}
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"S", "A", "C", "stronger in x", "stronger in y", "negative weight", "regulator"}
    tested = table.reset_index().assign(q_value=[0.5, 0.9, 0.01])
    assert strongest_differences(tested, 10, 0.05)["target"].tolist() == ["C"]
    assert strongest_differences(tested, 1, None)["target"].tolist() == ["A"]
    with pytest.raises(ValueError, match="no edge has group 'z'; the table has: x, y"):
        weights_of_groups(edges, "x", "z")
    with pytest.raises(ValueError, match="twice in group 'x'"):
        weights_of_groups(pd.concat([edges, edges]), "x", "y")
