"""Volcano, heat map and plane of states show what the table says, and name genes where there is room."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.report.drawing import to_png, to_svg
from geneformer_grn.report.effect_figures import effect_heatmap_figure, state_plane_figure, volcano_figure


def points(axes) -> list[np.ndarray]:
    """Offsets of the rings and of the filled points, in this order."""
    return [c.get_offsets().data for c in axes.collections if type(c).__name__ == "PathCollection"]


def texts(axes) -> set[str]:
    return {text.get_text() for text in axes.texts}


@pytest.fixture
def effects() -> pd.DataFrame:
    return pd.DataFrame(
        {"gene": ["ENSG1", "ENSG2", "ENSG3", "ENSG4", "ENSG5"], "gene_symbol": ["A", "B", None, "D", "E"],
         "state": "", "shift": [0.1, 0.4, 0.2, np.nan, 0.3], "q_value": [0.5, 0.01, 0.05, 0.2, np.nan]}
    )  # fmt: skip


def test_the_volcano_has_a_point_for_each_tested_gene(effects) -> None:
    axes = volcano_figure(effects).axes[0]
    rings, filled = points(axes)
    np.testing.assert_allclose(rings, [[0.1, -np.log10(0.5)]])
    np.testing.assert_allclose(filled, [[0.4, 2.0], [0.2, -np.log10(0.05)]])
    assert {"A", "B", "ENSG3", "q = 0.05"} == texts(axes)
    assert axes.get_xlabel() == "shift of the cell embedding"
    assert texts(volcano_figure(effects, n_labels=1).axes[0]) == {"B", "q = 0.05"}
    assert volcano_figure(effects.assign(state="goal")).axes[0].get_xlabel() == "shift towards goal"


def test_names_lie_inside_and_apart_from_each_other_and_from_points() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"gene": [f"GENE{i}" for i in range(60)], "shift": rng.normal(0, 1, 60), "q_value": rng.random(60)}
    )
    figure = volcano_figure(table, n_labels=60)
    axes = figure.axes[0]
    figure.canvas.draw()
    frame = axes.get_window_extent()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text().startswith("GENE")]
    assert 10 < len(boxes) < 60
    at = axes.transData.transform(np.vstack(points(axes)))
    for i, box in enumerate(boxes):
        assert frame.x0 - 2 < box.x0
        assert box.x1 < frame.x1 + 2
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not ((at > [box.x0, box.y0]) & (at < [box.x1, box.y1])).all(axis=1).any()


def test_figures_of_nothing_and_of_one_gene_are_drawn(effects) -> None:
    for table in (effects.iloc[:0], effects.iloc[:1], effects.iloc[3:4]):
        to_svg(volcano_figure(table))
        to_svg(effect_heatmap_figure(table.assign(group="T")))
    assert to_png(volcano_figure(effects)) == to_png(volcano_figure(effects))


def test_the_heat_map_has_a_field_for_each_gene_and_group() -> None:
    table = pd.DataFrame(
        [("A", "T", 0.1, 0.3), ("A", "B", 0.5, 0.01), ("C", "T", 0.9, 0.04), ("D", "T", 0.2, 0.9)],
        columns=["gene", "group", "shift", "q_value"],
    )
    figure = effect_heatmap_figure(table)
    axes, scale = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["C", "A", "D"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["B", "T"]
    mesh = next(c for c in axes.collections if type(c).__name__ == "QuadMesh")
    np.testing.assert_allclose(
        mesh.get_array().filled(np.nan).reshape(3, 2), [[np.nan, 0.9], [0.5, 0.1], [np.nan, 0.2]]
    )
    assert mesh.get_clim() == (0.0, 0.9)
    (dots,) = points(axes)
    assert dots.tolist() == [[1.5, 0.5], [0.5, 1.5]]
    assert [text.get_text() for text in axes.texts] == ["–", "–"]
    assert "q ≤ 0.05" in scale.get_ylabel()
    signed = effect_heatmap_figure(table.assign(shift=[0.1, -0.5, 0.3, 0.2]), n_genes=1).axes[0]
    mesh = next(c for c in signed.collections if type(c).__name__ == "QuadMesh")
    assert mesh.get_clim() == (-0.5, 0.5)
    assert [label.get_text() for label in signed.get_yticklabels()] == ["A"]


def test_the_plane_turns_the_start_round() -> None:
    table = pd.DataFrame(
        [("A", "ill", -0.2, 0.9), ("A", "well", 0.3, 0.01), ("B", "ill", 0.1, 0.01), ("B", "well", 0.05, 0.5),
         ("C", "ill", np.nan, np.nan), ("C", "well", 0.05, 0.5)],
        columns=["gene", "state", "shift", "q_value"],
    )  # fmt: skip
    axes = state_plane_figure(table, "ill", "well").axes[0]
    rings, filled = points(axes)
    np.testing.assert_allclose(filled, [[0.2, 0.3]])
    np.testing.assert_allclose(rings, [[-0.1, 0.05]])
    assert texts(axes) == {"A", "B"}
    assert axes.get_xlabel().startswith("away from ill")
    assert axes.get_ylabel().startswith("towards well")


def test_genes_are_named_by_symbols_and_never_ambiguously() -> None:
    ids = [f"ENSG0000012345{i}" for i in range(5)]
    table = pd.DataFrame(
        {"gene": [*ids, f"{ids[0]}+{ids[1]}", f"{ids[0]}+{ids[2]}", "+".join(ids)],
         "gene_symbol": ["A", "SAME", "SAME", "", None, None, None, "A-LONG-NAME+B-LONG-NAME"],
         "group": "T", "shift": np.arange(8, 0, -1) / 10, "q_value": np.arange(1, 9) / 10}
    )  # fmt: skip
    names = ["A", *ids[1:], f"{ids[0]}+{ids[1]}", f"{ids[0]}+{ids[2]}", "A-LONG-NAME+B-…"]
    heat = effect_heatmap_figure(table).axes[0]
    assert [label.get_text() for label in heat.get_yticklabels()] == names
    heat.figure.canvas.draw()
    assert min(label.get_window_extent().x0 for label in heat.get_yticklabels()) >= 0
    alone = effect_heatmap_figure(table.iloc[[5]]).axes[0]
    assert [label.get_text() for label in alone.get_yticklabels()] == [names[5]]
    alike = table.iloc[:2].assign(gene_symbol=["CATENIN1+CATENIN3", "CATENIN1+CATENIN5"])
    alike = effect_heatmap_figure(alike).axes[0]
    assert [label.get_text() for label in alike.get_yticklabels()] == [
        "CATENIN1+CATENIN3",
        "CATENIN1+CATENIN5",
    ]
    volcano = volcano_figure(table, size=(9, 7)).axes[0]
    assert {"A", *ids[1:]} <= texts(volcano) <= {*names, "q = 0.05"}
    both = pd.concat([table.assign(state="ill"), table.assign(state="well")])
    plane = state_plane_figure(both, "ill", "well", size=(9, 7)).axes[0]
    assert {"A", ids[1]} <= texts(plane) <= set(names)


def test_what_cannot_be_drawn_is_said(effects) -> None:
    with pytest.raises(ValueError, match="volcano figure needs the columns q_value"):
        volcano_figure(effects.drop(columns="q_value"))
    twice = pd.concat([effects, effects]).assign(group="T", state="ill")
    with pytest.raises(ValueError, match="several rows in a group"):
        effect_heatmap_figure(twice)
    with pytest.raises(ValueError, match=r"no row has the state 'well'; the table has: 'ill'"):
        state_plane_figure(twice, "ill", "well")
    with pytest.raises(ValueError, match="several rows for a state"):
        state_plane_figure(twice, "ill", "ill")
