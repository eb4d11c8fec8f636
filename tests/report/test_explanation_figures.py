"""Figures of explanations: they draw what the table says, and refuse a table that lacks it."""

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.report.drawing import to_png
from geneformer_grn.report.explanation_figures import deletion_figure, driver_figure


@pytest.fixture
def deletion() -> pd.DataFrame:
    rows = [
        {
            "method": method, "ranking": "class", "class": name, "share": share,
            "drop_named": 10 * share, "drop_named_low": 9 * share, "drop_named_high": 11 * share,
            "drop_random": share, "drop_random_low": 0.0, "drop_random_high": 2 * share,
        }
        for method in ("integrated_gradients", "attention")
        for name in ("", "B cells")
        for share in (0.0, 0.1, 0.3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def drivers() -> pd.DataFrame:
    n = 14
    score = np.linspace(2.0, -0.5, n)
    part = {"gene": [f"ENSG{i:011d}" for i in range(n)], "gene_symbol": [f"G{i}" for i in range(n)]}
    table = pd.DataFrame({**part, "score": score, "ci_low": score - 0.1, "ci_high": score + 0.1})
    return pd.concat([table.assign(**{"class": name}) for name in "ABCDE"])


def test_a_panel_a_method_with_both_curves(deletion):
    figure = deletion_figure(deletion)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["integrated gradients", "attention"]
    named, random = figure.axes[1].lines[:2]
    np.testing.assert_allclose(named.get_xydata(), [[0, 0], [10, 1], [30, 3]])  # of all cells, in %
    np.testing.assert_allclose(random.get_ydata(), [0, 0.1, 0.3])
    assert named.get_linestyle() != random.get_linestyle()
    assert to_png(figure).startswith(b"\x89PNG")


def test_no_such_ranking(deletion):
    with pytest.raises(ValueError, match="no row of all cells with the ranking 'cell'"):
        deletion_figure(deletion, ranking="cell")
    with pytest.raises(ValueError, match="drop_random_high"):
        deletion_figure(deletion.drop(columns="drop_random_high"))


def test_the_leading_drivers_of_each_class(drivers):
    figure = driver_figure(drivers, n_genes=3)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list("ABCDE")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["G0", "G1", "G2"]
    np.testing.assert_allclose(
        [bar.get_width() for bar in figure.axes[4].patches], np.linspace(2, -0.5, 14)[:3]
    )
    assert to_png(figure).startswith(b"\x89PNG")


def test_one_cell_has_bars_without_intervals(drivers):
    figure = driver_figure(drivers.assign(ci_low=np.nan, ci_high=np.nan)[:5])
    assert len(figure.axes[0].patches) == 5
