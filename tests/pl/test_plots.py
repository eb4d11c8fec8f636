"""The plotting verbs choose rows, draw them, and say what there is when there are none."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

import geneformer_grn as gg

EDGES = pd.DataFrame(
    {
        "source": ["S", "S", "R"],
        "target": ["A", "B", "C"],
        "weight": [0.1, 0.2, 0.3],
        "group": ["T", "T", "B"],
        "method": ["attention", "attention", "attention"],
    }
)
EFFECTS = pd.DataFrame({"gene": ["A", "B"], "shift": [0.1, 0.3], "group": ["T", "B"]})
PROPAGATED = pd.DataFrame({"source": ["S", "R"], "gene": ["A", "B"], "hop": [1, 1], "effect": [0.5, -0.5]})


def test_network_draws_the_group_asked_for() -> None:
    figure = gg.pl.network(EDGES, group="T")
    assert {text.get_text() for text in figure.axes[0].texts} == {"S", "A", "B"}


def test_effects_and_propagation_draw_the_rows_asked_for() -> None:
    axes = gg.pl.effects(EFFECTS, group="B").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["B"]
    axes = gg.pl.propagation(PROPAGATED, source="R").axes[0]
    assert [text.get_text() for text in axes.texts] == ["−0.5"]


def test_messages_name_what_the_table_holds() -> None:
    with pytest.raises(ValueError, match=r"several values of 'group' \(T, B\); pass group="):
        gg.pl.network(EDGES)
    with pytest.raises(ValueError, match="no row has group='NK'; the table has: T, B"):
        gg.pl.effects(EFFECTS, group="NK")
    with pytest.raises(ValueError, match="no column 'group'"):
        gg.pl.propagation(PROPAGATED, source="S", group="T")


def test_importing_the_verbs_loads_no_matplotlib() -> None:
    code = "import sys, geneformer_grn.pl, geneformer_grn.report.page; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
