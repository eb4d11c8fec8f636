"""The deletion curve draws what the table says, and refuses a table that lacks it."""

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.report.drawing import to_png
from geneformer_grn.report.explanation_figures import deletion_figure


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
