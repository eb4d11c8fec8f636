"""The verb network-page: a page from any table of edges, one clear message for what is none."""

import json

import pytest


@pytest.fixture
def edges(tmp_path):
    path = tmp_path / "edges.tsv"
    path.write_text("source\ttarget\tweight\nSPI1\tLYZ\t0.9\nSPI1\tCST3\t-0.4\n")
    return path


def test_a_page_is_written(invoke, edges, tmp_path):
    out = tmp_path / "page.html"
    answer = invoke("network-page", edges, "--out", out, "--json", "--quiet")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out.splitlines()[-1]) == {
        "out": "page.html",
        "n_edges": 2,
        "shown": 2,
        "seed": 0,
    }
    text = out.read_text()
    assert "<h1>Gene network of edges.tsv</h1>" in text
    assert '"genes":["SPI1","LYZ","CST3"]' in text
    assert str(tmp_path) not in text
    assert invoke("network-page", edges, "--out", out, "--title", "A & B").code == 0
    assert "<h1>A &amp; B</h1>" in out.read_text()


def test_bad_input_leaves_no_page(invoke, edges, tmp_path):
    for arguments, message in (
        ((edges, "--out", tmp_path / "page.tsv"), "pages are written as .html"),
        ((tmp_path / "none.tsv", "--out", tmp_path / "page.html"), "no edge table at"),
    ):
        answer = invoke("network-page", *arguments)
        assert answer.code == 2
        assert message in answer.err
    edges.write_text("source\ttarget\n")
    answer = invoke("network-page", edges, "--out", tmp_path / "page.html")
    assert answer.code == 2
    assert "edges.tsv has no column weight" in answer.err
    edges.write_text("source\ttarget\tweight\n")
    answer = invoke("network-page", edges, "--out", tmp_path / "page.html")
    assert answer.code == 2
    assert "no edge with a weight" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["edges.tsv"]
