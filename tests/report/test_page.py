"""The page: complete, self-contained, safe with labels of others, the same each time."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.report.page import CellsSection, InputSection, ReportContent, render_report, write_report

VOID = {"meta", "link", "input", "br", "img", "hr"}
SECTIONS = ["headline", "inputs", "cells", "network", "perturbation", "downstream", "methods", "provenance"]


class PageParser(HTMLParser):
    """Collects what a browser would see: elements, ids, addresses, scripts; checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(html: str) -> PageParser:
    parser = PageParser()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def page(content: ReportContent) -> str:
    return render_report(content)


def test_all_sections_with_their_content(page: str) -> None:
    parser = parse(page)
    ids = [attributes["id"] for _, attributes in parser.elements if "id" in attributes]
    assert len(ids) == len(set(ids)), "ids of the figures must not clash"
    assert [name for name in ids if name in SECTIONS] == SECTIONS
    text = " ".join(" ".join(parser.text).split())
    for wanted in (
        "295 of 300 cells were read.",
        "of 2,000 genes matched",
        "2.0 % of all counts",
        "5 left out: filter_pass is 0",
        "One group has few cells.",
        "Named by marker genes.",
        "agree in part (median rank correlation 0.40)",
        "8 of 80 perturbations move cells further",
        "40 matched genes each.",
        "SPI1 in CD4+ T",
        "Cells are not replicates.",
        "edges.tsv",
    ):
        assert wanted in text, wanted


def test_figures_have_alternative_text(page: str) -> None:
    figures = [attributes for tag, attributes in parse(page).elements if tag == "svg"]
    labelled = [attributes for attributes in figures if attributes.get("role") == "img"]
    assert len(labelled) == 1 + 8 + 8 + 1
    assert all(attributes["aria-label"] for attributes in labelled)
    assert all(attributes.get("aria-hidden") for attributes in figures if attributes not in labelled)


def test_nothing_is_loaded(page: str) -> None:
    assert not re.search(r"https?:|//cdn|@import|@font-face", page)
    for _, attributes in parse(page).elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (name, value)
    assert all(match.startswith(("#", "data:")) for match in re.findall(r"url\(['\"]?([^)]*)", page))
    policies = [
        a["content"] for _, a in parse(page).elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-inline'"
    ]


def test_references_inside_figures_resolve(page: str) -> None:
    ids = {attributes.get("id") for _, attributes in parse(page).elements}
    used = set(re.findall(r'(?:xlink:href="#|href="#|url\(#)([\w.-]+)', page))
    assert used <= ids


def test_same_content_same_page(content: ReportContent, page: str) -> None:
    assert render_report(content) == page


@pytest.mark.parametrize(
    "label", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b $x^$", "{{ 7*7 }}", "'"]
)
def test_labels_are_escaped(content_factory, label: str) -> None:
    content = content_factory(
        [label, "other"],
        title=label,
        facts={label: label},
        warnings=[label],
        notes={"cells": label},
        caveats=[label],
        provenance={label: {label: label}},
        outputs=[(label, label)],
    )
    edges = content.edges.assign(target_symbol=label)
    page = render_report(content_factory([label, "other"], title=label, edges=edges))
    for html in (page, render_report(content)):
        parser = parse(html)
        assert parser.scripts == 1
        assert not any(tag == "img" or "onerror" in attributes for tag, attributes in parser.elements)
        assert label in "".join(parser.text)


def test_empty_content_is_said_in_words() -> None:
    text = " ".join(parse(render_report(ReportContent(title="Nothing"))).text)
    for wanted in ("There are no cells", "No edges", "No gene was perturbed", "Nothing was propagated"):
        assert wanted in text


def test_empty_tables_with_columns() -> None:
    empty = pd.DataFrame(columns=["source", "target", "weight", "group", "method"])
    cells = CellsSection(umap=np.zeros((0, 2)), groups=np.array([], dtype=str))
    page = render_report(ReportContent(title="Nothing", edges=empty, cells=cells))
    assert "No edges" in page
    assert "There are no cells" in page


def test_minimal_columns_are_enough() -> None:
    content = ReportContent(
        title="Bare",
        inputs=InputSection(n_genes=0, n_genes_matched=0, n_cells=0, n_cells_kept=0),
        edges=pd.DataFrame({"source": ["ENSG1"], "target": ["ENSG2"], "weight": [0.5]}),
        effects=pd.DataFrame({"gene": ["ENSG1"], "shift": [0.1]}),
        propagated=pd.DataFrame({"source": ["ENSG1"], "gene": ["ENSG2"], "hop": [1], "effect": [0.0]}),
    )
    page = render_report(content)
    assert "all cells" in page
    assert "No test against matched genes was made" in page


def test_tables_as_pandas_users_leave_them(content: ReportContent, page: str) -> None:
    """Repeated index, categories, missing values: the same page, and nothing warns."""
    groups = list(dict.fromkeys(content.edges["group"]))
    parts = [content.edges[content.edges["group"] == group].reset_index(drop=True) for group in groups]
    edges = pd.concat(parts).astype({"group": "category", "method": "category"})
    edges["sign"] = edges["sign"].astype("Int8")
    assert render_report(replace(content, edges=edges)) == page
    gaps = content.effects.copy()
    gaps.loc[gaps.index[::3], ["shift", "ci_low", "ci_high", "p_value", "q_value"]] = np.nan
    weights = content.edges.assign(weight=content.edges["weight"].where(content.edges.index % 4 != 0))
    render_report(replace(content, effects=gaps, edges=weights))
    nothing = render_report(replace(content, effects=gaps.assign(shift=np.nan)))
    assert "No gene was perturbed" in nothing


def test_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="table of edges needs the columns target, weight"):
        render_report(ReportContent(title="x", edges=pd.DataFrame({"source": ["A"]})))
    cells = CellsSection(umap=np.zeros((3, 2)), groups=np.array(["a"]))
    with pytest.raises(ValueError, match="one group per cell"):
        render_report(ReportContent(title="x", cells=cells))


def test_thirty_groups_and_many_edges(content_factory) -> None:
    groups = [f"cluster {number}" for number in range(30)]
    page = render_report(content_factory(groups, n_edges=100))
    assert len(page) < 5e6
    text = " ".join(parse(page).text)
    assert "The 12 largest of 30 groups are drawn" in text
    assert "cluster 29" in text


def test_many_cells_become_pixels(content_factory) -> None:
    page = render_report(content_factory(["A", "B"], n_cells=100_000))
    assert "data:image/png;base64," in page
    assert len(page) < 5e6


def test_write_replaces_only_when_complete(content_factory, tmp_path) -> None:
    path = tmp_path / "out" / "report.html"
    write_report(content_factory(["A"]), path)
    before = path.read_text(encoding="utf-8")
    assert before.startswith("<!DOCTYPE html>")
    with pytest.raises(ValueError, match="needs the columns"):
        write_report(ReportContent(title="x", effects=pd.DataFrame({"gene": ["A"]})), path)
    assert path.read_text(encoding="utf-8") == before
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]
