"""The interactive page as text: complete, safe whatever genes and groups are called, cut where it must be."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.report import network_page as module
from geneformer_grn.report.network_page import network_page, write_network_page

EDGES = pd.DataFrame(
    {
        "source": ["E1", "E1", "E2"],
        "target": ["E2", "E3", "E3"],
        "source_symbol": ["SPI1", "SPI1", None],
        "target_symbol": ["EBF1", "LYZ", "LYZ"],
        "weight": [0.1, -0.987654321, 0.5],
        "sign": [1, -1, np.nan],
        "group": ["T", "T", "B"],
        "support": [10, 20, 30],
        "q_value": [0.01, np.nan, 0.2],
    }
)


def embedded(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_holds_every_edge_strongest_first() -> None:
    data = embedded(network_page(EDGES, shown=7))
    names = dict(zip(data["ids"], data["genes"], strict=True))
    assert names == {"E1": "SPI1", "E2": "EBF1", "E3": "LYZ"}  # E2 has its symbol as a target only
    rows = [
        (data["ids"][s], data["ids"][t], w, sign, data["groups"][g])
        for s, t, w, sign, g in zip(
            data["source"], data["target"], data["weight"], data["sign"], data["group"], strict=True
        )
    ]
    assert rows == [("E1", "E3", -0.9877, -1, "T"), ("E2", "E3", 0.5, 0, "B"), ("E1", "E2", 0.1, 1, "T")]
    assert data["methods"] == ["all"]
    assert data["support"] == [20, 30, 10]
    assert data["q"] == [None, 0.2, 0.01]
    assert data["shown"] == 7
    assert network_page(EDGES, shown=7) == network_page(EDGES, shown=7)


def test_names_cannot_leave_their_place() -> None:
    wicked = "</script><script>alert(1)</script><!--"
    edges = EDGES.assign(target_symbol=wicked, group=f"{wicked}\u2028", method='"><img src=x>')
    page = network_page(edges, title=wicked)
    assert "alert(1)</script>" not in page
    assert "<!--" not in page
    assert "<img" not in page
    assert "\u2028" not in page
    assert page.count("<script") == page.count("</script>") == 2
    data = embedded(page)
    assert data["groups"] == [f"{wicked}\u2028"]
    assert f"{wicked} (E2)" in data["genes"]  # two genes of one symbol are told apart


def test_pages_ask_for_nothing() -> None:
    page = network_page(EDGES)
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|(?<!data:)(?:src|href)=\"(?!data:)", page)


def test_only_the_strongest_of_each_group_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_EDGES", 1)
    page = network_page(EDGES)
    assert sorted(embedded(page)["weight"]) == [-0.9877, 0.5]
    assert "It holds the 1 strongest" in page
    monkeypatch.setattr(module, "MOST_EDGES", 2)
    assert "It holds" not in network_page(EDGES)


def test_bad_tables_and_paths_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="network page needs the columns weight"):
        network_page(EDGES.drop(columns="weight"))
    with pytest.raises(ValueError, match="no edge with a weight"):
        network_page(EDGES.assign(weight=np.nan))
    with pytest.raises(ValueError, match="at least 1 edge, got 0"):
        network_page(EDGES, shown=0)
    with pytest.raises(ValueError, match=r"'page\.tsv' is not"):
        write_network_page(EDGES, tmp_path / "page.tsv")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match="it is a folder"):
        write_network_page(EDGES, tmp_path / "folder.html")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]
