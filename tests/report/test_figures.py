"""Figures draw what the table says, whatever the session's matplotlib settings."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.report.drawing import POSITIVE, group_colours, label_genes, to_png, to_svg
from geneformer_grn.report.figures import effects_figure, propagation_figure, umap_figure


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_groups_are_coloured_by_size() -> None:
    colours = group_colours(np.array(["b"] * 2 + ["a"] * 3 + ["c"] * 2))
    assert list(colours) == ["a", "b", "c"]
    assert len(set(group_colours(np.arange(30).astype(str)).values())) == 30


def test_umap_names_few_groups_and_numbers_many() -> None:
    points = np.random.default_rng(0).normal(size=(60, 2))
    assert {"A", "B"} <= set(texts(umap_figure(points, np.array(["A", "B"] * 30))))
    groups = np.array([f"g{number:02d}" for number in range(20)] * 3)
    assert {str(number) for number in range(1, 21)} <= set(texts(umap_figure(points, groups)))


def test_umap_survives_degenerate_input() -> None:
    to_svg(umap_figure(np.zeros((5, 2)), np.array(["A"] * 5)))
    to_svg(umap_figure(np.zeros((0, 2)), np.array([], dtype=str)))
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        umap_figure(np.zeros((5, 3)), np.array(["A"] * 5))


def test_effects_are_ranked_and_filled_by_significance() -> None:
    table = pd.DataFrame(
        {"gene": ["ENSG1", "ENSG2", "ENSG3"], "gene_symbol": ["LOW", "HIGH", None], "shift": [1.0, 3.0, 2.0],
         "q_value": [0.5, 0.01, np.nan]}
    )  # fmt: skip
    axes = effects_figure(table).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["HIGH", "ENSG3", "LOW"]
    filled, open_ = (c for c in axes.collections if type(c).__name__ == "PathCollection")
    assert filled.get_offsets().tolist() == [[3.0, 0.0]]
    assert open_.get_offsets().tolist() == [[2.0, 1.0], [1.0, 2.0]]
    assert len(effects_figure(table, n_genes=2).axes[0].get_yticklabels()) == 2


def test_effects_draw_interval_and_null() -> None:
    table = pd.DataFrame(
        {
            "gene": ["A"],
            "shift": [0.5],
            "ci_low": [0.4],
            "ci_high": [0.7],
            "null_low": [0.1],
            "null_high": [0.2],
        }
    )
    axes = effects_figure(table, limits=(0.0, 1.0)).axes[0]
    spans = [
        tuple(segment[:, 0])
        for c in axes.collections
        if hasattr(c, "get_segments")
        for segment in c.get_segments()
        if len(segment)
    ]
    assert (0.4, 0.7) in spans
    assert (0.1, 0.2) in spans
    assert axes.get_xlim() == (0.0, 1.0)


def test_propagation_grid_holds_effects_of_each_hop() -> None:
    table = pd.DataFrame(
        {"source": "S", "gene": ["A", "B", "A"], "hop": [1, 1, 2], "effect": [-0.5, 0.25, 0.125]}
    )
    axes = propagation_figure(table).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "B"]
    assert [text.get_text() for text in axes.texts] == ["−0.5", "+0.12", "+0.25", "·"]
    blue = [patch for patch in axes.patches if patch.get_facecolor()[2] > patch.get_facecolor()[0]]
    assert len(axes.patches) == 3
    assert len(blue) == 2


def test_symbols_fall_back_to_identifiers() -> None:
    table = pd.DataFrame({"gene": ["E1", "E2", "E3"], "gene_symbol": ["ONE", None, ""]})
    assert label_genes(table, "gene").tolist() == ["ONE", "E2", "E3"]


def test_output_is_the_same_each_time_and_under_any_session_style() -> None:
    import matplotlib as mpl

    table = pd.DataFrame({"gene": ["A", "B"], "shift": [0.1, 0.2]})
    svg, png = to_svg(effects_figure(table)), to_png(effects_figure(table))
    before = dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 20, "axes.grid": True, "axes.facecolor": "red", "text.usetex": False}):
        changed = dict(mpl.rcParams)
        assert to_svg(effects_figure(table)) == svg
        assert to_png(effects_figure(table)) == png
        assert dict(mpl.rcParams) == changed
    assert dict(mpl.rcParams) == before
    assert POSITIVE in svg
    assert png.startswith(b"\x89PNG")


def test_pyplot_holds_no_figure() -> None:
    effects_figure(pd.DataFrame({"gene": ["A"], "shift": [0.1]}))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
