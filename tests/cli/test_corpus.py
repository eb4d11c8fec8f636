"""``geneformer-grn corpus``: the screen, the summary, and one clear line for each wrong input."""

import json

import pytest
import typer

from geneformer_grn import cli
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.cli import corpus as verb


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Only this verb in the app."""

    def build_app():
        app = typer.Typer(pretty_exceptions_enable=False)
        app.callback()(lambda: None)
        verb.add(app)
        return app

    monkeypatch.setattr(cli, "build_app", build_app)


@pytest.fixture(scope="module")
def folders(tiny_adata, tiny_vocabulary, tmp_path_factory):
    """Two corpora of 40 cells each, and one of them without its column."""
    folder = tmp_path_factory.mktemp("corpora")
    for name, rows in (("one", slice(0, 80, 2)), ("two", slice(1, 80, 2))):
        tiny_adata[rows].copy().write_h5ad(folder / f"{name}.h5ad")
        asked = CorpusSettings(columns=("cell_type",))
        write_corpus([folder / f"{name}.h5ad"], folder / name, tiny_vocabulary, asked)
    write_corpus([folder / "two.h5ad"], folder / "bare", tiny_vocabulary)
    return folder


def test_info(invoke, folders):
    answer = invoke("corpus", "info", folders / "one", "--json")
    assert answer.code == 0
    *screen, last = answer.out.splitlines()
    assert "cells         40" in screen
    assert any("cell_type (string): 2 values: A 20, B 20" in line for line in screen)
    assert any(f'datasets.load_from_disk("{folders / "one"}")' in line for line in screen)
    assert json.loads(last)["files"][0]["n_cells"] == 40
    assert invoke("corpus", "info", folders / "one", "--json", "--quiet").out == last + "\n"


def test_merge_and_split(invoke, folders, tmp_path):
    answer = invoke("corpus", "merge", folders / "one", folders / "two", "--out", tmp_path / "both", "--json")
    assert answer.code == 0
    assert json.loads(answer.out.splitlines()[-1])["n_cells"] == 80
    answer = invoke(
        "corpus", "split", tmp_path / "both", "--by", "cell_type", "--out", tmp_path / "parts",
        "--fractions", "train=0.5,valid=0.5", "--json",
    )  # fmt: skip
    assert answer.code == 0
    assert "40 cells of 1 cell_type (50 %, asked for 50 %)" in answer.out
    assert json.loads(answer.out.splitlines()[-1])["parts"]["valid"]["n_cells"] == 40
    assert len(Corpus.open(tmp_path / "parts" / "valid")) == 40


def refused(invoke, folder, arguments, message):
    """Exit code 2, one line that says `message`, and nothing written."""
    before = sorted(folder.rglob("*"))
    answer = invoke("corpus", *arguments, "--quiet")
    assert answer.code == 2
    assert answer.out == ""
    assert message in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


def test_what_is_refused(invoke, folders, tmp_path):
    one, two, bare = (folders / name for name in ("one", "two", "bare"))
    out = ["--out", tmp_path / "out"]
    refused(invoke, tmp_path, ["info", tmp_path], "is not a corpus")
    refused(invoke, tmp_path, ["merge", one, *out], "two corpora or more")
    refused(invoke, tmp_path, ["merge", one, one, *out], "is given twice")
    refused(invoke, tmp_path, ["merge", one, bare, *out], "pass --columns common")
    refused(
        invoke, tmp_path, ["merge", two, bare, *out, "--columns", "common"], "40 cells are in two corpora"
    )
    refused(invoke, tmp_path, ["merge", one, two, "--out", folders], "exists and is left as it is")
    split = ["split", one, *out, "--by"]
    refused(invoke, tmp_path, [*split, "cell_type"], "give either fractions")
    refused(invoke, tmp_path, [*split, "donor", "--assign", "test=D1"], "no column 'donor'")
    refused(invoke, tmp_path, [*split, "cell_type", "--assign", "test"], "use PART=GROUP")
    refused(invoke, tmp_path, [*split, "cell_type", "--assign", "test=C"], "has no 'C'")
    refused(invoke, tmp_path, [*split, "cell_type", "--fractions", "a=0.5"], "add up to 0.5")
    refused(invoke, tmp_path, [*split, "source", "--fractions", "a=0.5,b=0.5"], "cannot fill 2 parts")
    refused(
        invoke, tmp_path, [*split, "cell_type", "--assign", "test=B", "--apart", "file"],
        "1 source with 40 cells are in more than one part",
    )  # fmt: skip
