"""Numbers as text, and which rows the page shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.report.tables import (
    by_group,
    edge_columns,
    effect_columns,
    format_number,
    format_share,
    format_value,
)
from geneformer_grn.report.words import agreement_sentence, effects_sentence, listed


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (0.05, "0.0500"), (-0.25, "−0.250"), (2.0, "2"), (np.nan, "–"), (None, "–"),
     (3.2e-7, "3.20e-07"), (123.4, "123"), (float("inf"), "inf")],
)  # fmt: skip
def test_format_number(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_format_share_and_value() -> None:
    assert [format_share(x) for x in (0.0, 0.0002, 0.5, 1.0)] == ["0.0 %", "< 0.1 %", "50.0 %", "100.0 %"]
    assert format_value({"a": [1, 2.5], "b": True, "c": None}) == "a: 1, 2.5; b: yes; c: –"
    assert format_value(12345) == "12345"


def test_groups_come_in_the_order_asked_for() -> None:
    table = pd.DataFrame({"group": ["b", "a", "c", "a"], "x": range(4)})
    assert [(name, rows["x"].tolist()) for name, rows in by_group(table, ["a", "z"])] == [
        ("a", [1, 3]),
        ("b", [0]),
        ("c", [2]),
    ]
    assert [name for name, _ in by_group(table[["x"]])] == ["all cells"]


def test_edges_are_shared_out_over_groups_and_methods_and_say_who_lists_them() -> None:
    rows = [
        {"source": "S", "target": f"T{i}", "weight": i, "group": group, "method": method}
        for group in ("g", "h")
        for method in ("attention", "correlation")
        for i in range(20 if method == "attention" else 15)
    ]
    columns = {column.heading: column for column in edge_columns(pd.DataFrame(rows), 24, ["h"])}
    assert columns["Group"].texts == ["h"] * 12 + ["g"] * 12
    assert columns["Target"].texts[:6] == [f"T{i}" for i in range(19, 13, -1)]
    assert columns["Listed by"].texts[:6] == ["attention"] * 5 + ["both"]
    given = pd.DataFrame(rows).assign(agreement=97.4)
    assert edge_columns(given, 24, [])[-1].texts[0] == "97"


def test_effects_are_sorted_by_evidence_and_keep_sort_keys() -> None:
    table = pd.DataFrame(
        {"gene": ["A", "B", "C"], "kind": "delete", "shift": [0.3, 0.1, 0.2], "q_value": [0.5, 0.01, np.nan]}
    )
    columns = {column.heading: column for column in effect_columns(table, 10)}
    assert columns["Gene"].texts == ["B", "A", "C"]
    assert columns["q"].texts == ["0.010", "0.50", "–"]
    assert columns["q"].keys == [0.01, 0.5, "Infinity"]
    assert "Perturbation" not in columns


def test_sentences_claim_no_more_than_the_numbers() -> None:
    close, partial, apart = (agreement_sentence(pd.DataFrame({"spearman": [x]})) for x in (0.8, 0.4, 0.05))
    assert "adds little beyond" in close
    assert "agree in part" in partial
    assert "does not say which is right" in apart
    assert "could not be compared" in agreement_sentence(pd.DataFrame({"spearman": [np.nan]}))
    assert "None of the 2 perturbations" in effects_sentence(pd.DataFrame({"q_value": [0.06, 0.9]}))
    assert "1 of 2 perturbations moves" in effects_sentence(pd.DataFrame({"q_value": [0.05, 0.9]}))
    assert "No test" in effects_sentence(pd.DataFrame({"q_value": [np.nan]}))


def test_lists_as_phrases() -> None:
    assert [listed(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert listed(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"
