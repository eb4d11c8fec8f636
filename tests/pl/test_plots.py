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
    genes = {"S", "A", "B"}
    assert {text.get_text() for text in figure.axes[0].texts} == genes | {"effect unknown", "regulator"}
    plain = gg.pl.network(EDGES, group="T", legend=False)
    assert {text.get_text() for text in plain.axes[0].texts} == genes


def test_network_draws_several_groups_side_by_side() -> None:
    figure = gg.pl.network(EDGES, group=["B", "T"], legend=False)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("C") == 2
    assert {"B", "T"} <= set(texts)
    with pytest.raises(ValueError, match="no row has group='NK'"):
        gg.pl.network(EDGES, group=["B", "NK"])
    with pytest.raises(ValueError, match="no group was asked for"):
        gg.pl.network(EDGES, group=[])


def test_network_differences_read_edges_and_tested_tables() -> None:
    figure = gg.pl.network_differences(EDGES, between=("T", "B"))
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"S", "A", "B", "R", "C", "stronger in T", "stronger in B"} <= texts
    with pytest.raises(ValueError, match="pass between="):
        gg.pl.network_differences(EDGES)
    tested = pd.DataFrame(
        {
            "source": ["S", "R"], "target": ["A", "C"], "weight_a": [0.5, 0.1], "weight_b": [0.1, 0.6],
            "difference": [0.4, -0.5], "q_value": [0.01, 0.5], "group_a": "T", "group_b": "B",
        }
    )  # fmt: skip
    texts = {text.get_text() for text in gg.pl.network_differences(tested, max_q=0.05).axes[0].texts}
    assert {"S", "A"} <= texts
    assert "C" not in texts
    with pytest.raises(ValueError, match="no row has group_a='B'"):
        gg.pl.network_differences(tested, between=("B", "T"))


def test_network_page_is_written(tmp_path) -> None:
    gg.pl.network_page(EDGES, tmp_path / "network.html", title="Mine")
    assert "<title>Mine</title>" in (tmp_path / "network.html").read_text()


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
