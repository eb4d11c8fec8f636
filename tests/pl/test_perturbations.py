"""The verbs that draw many perturbations choose rows and say what there is when there are none."""

from __future__ import annotations

import pandas as pd
import pytest

import geneformer_grn as gg


@pytest.fixture
def effects() -> pd.DataFrame:
    rows = [
        (gene, group, readout, state, 0.1 * number, 0.01 * number)
        for number, gene in enumerate("ABC", start=1)
        for group in ("T", "B")
        for readout, state in (("cell", ""), ("state", "ill"), ("state", "well"))
    ]
    return pd.DataFrame(rows, columns=["gene", "group", "readout", "state", "shift", "q_value"])


def n_points(figure) -> int:
    axes = figure.axes[0]
    return sum(len(c.get_offsets()) for c in axes.collections if type(c).__name__ == "PathCollection")


def test_rows_are_chosen(effects) -> None:
    assert n_points(gg.pl.volcano(effects, group="T", readout="cell")) == 3
    assert gg.pl.volcano(effects, group="T", state="well").axes[0].get_xlabel() == "shift towards well"
    heat = gg.pl.effect_heatmap(effects, state="ill", n_genes=2).axes[0]
    assert [label.get_text() for label in heat.get_yticklabels()] == ["C", "B"]
    assert n_points(gg.pl.state_plane(effects, "ill", "well", group="B")) == 3


def test_messages_name_what_the_table_holds(effects) -> None:
    with pytest.raises(ValueError, match=r"several values of 'readout' \(cell, state\); pass readout="):
        gg.pl.volcano(effects, group="T")
    with pytest.raises(ValueError, match=r"several values of 'state' \(ill, well\)"):
        gg.pl.effect_heatmap(effects, readout="state")
    with pytest.raises(ValueError, match=r"several values of 'group' \(T, B\)"):
        gg.pl.state_plane(effects, "ill", "well")
    with pytest.raises(ValueError, match="no row has readout='state'"):
        gg.pl.state_plane(effects[effects["readout"] == "cell"], "ill", "well", group="T")
