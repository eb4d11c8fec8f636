from __future__ import annotations

import pandas as pd
import pytest

from geneformer_grn.report.drawing import to_svg
from geneformer_grn.report.learning_curve import learning_curve_figure


def test_means_are_joined_and_draws_shown():
    rows = pd.DataFrame({
        "method": ["a", "a", "a", "a", "b", "b"], "labels": [1, 1, 20, 20, 1, 20], "draw": [1, 2, 1, 2, 1, 1],
        "macro_f1": [0.2, 0.4, 0.8, 0.6, 0.5, 0.9],
    })  # fmt: skip
    figure = learning_curve_figure(rows, measure="macro_f1", titles={"a": "Method A"}, first="a")
    axes = figure.axes[0]
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert drawn["Method A"] == pytest.approx([0.3, 0.7])
    assert drawn["b"] == pytest.approx([0.5, 0.9])
    assert sum(len(points.get_offsets()) for points in axes.collections) == 6
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "20"]
    assert "Method A" in to_svg(figure)
    with pytest.raises(ValueError, match="needs the columns"):
        learning_curve_figure(rows.drop(columns="draw"), measure="macro_f1", titles={})
    with pytest.raises(ValueError, match="at least one row"):
        learning_curve_figure(rows[:0], measure="macro_f1", titles={})
