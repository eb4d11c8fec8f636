"""``geneformer-grn tokenize``: the corpus, the summary, and one clear line for each wrong input."""

import json

import numpy as np
import pytest
import typer
from scipy import sparse
from typer.testing import CliRunner

from geneformer_grn import cli
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cli import tokenize


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the verb through ``main``, alone in its app; return (exit code, stdout, stderr)."""

    def build_app():
        app = typer.Typer(pretty_exceptions_enable=False)
        app.callback()(lambda: None)
        tokenize.add(app)
        return app

    monkeypatch.setattr(cli, "build_app", build_app)

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(["tokenize", *map(str, arguments)])
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def vocabulary_dir(tiny_vocabulary, tmp_path):
    tiny_vocabulary.save(tmp_path / "vocabulary")
    return tmp_path / "vocabulary"


def test_corpus_and_summary(run, tiny_h5ad, vocabulary_dir, tiny_vocabulary, tmp_path):
    out = tmp_path / "corpus"
    code, stdout, _ = run(
        tiny_h5ad, "--out", out, "--vocabulary", vocabulary_dir, "--columns", "cell_type", "--json", "--quiet"
    )
    assert code == 0
    summary = json.loads(stdout.splitlines()[-1])
    assert summary["n_cells"] == 80
    assert summary["fingerprint"] == tiny_vocabulary.fingerprint
    corpus = Corpus.open(out)
    assert len(corpus) == 80
    assert "cell_type" in corpus.columns


def test_vocabulary_of_a_model_and_files_of_a_folder(run, tiny_h5ad, tiny_checkpoint, tmp_path):
    code, *_ = run(tmp_path, "--out", tmp_path / "out" / "corpus", "--model", tiny_checkpoint, "--cells", 7)
    assert code == 0
    assert len(Corpus.open(tmp_path / "out" / "corpus")) == 7


def test_help_names_the_options():
    app = typer.Typer()
    tokenize.add(app)
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    for option in ("--model", "--vocabulary", "--columns", "--workers", "--allow-normalised", "--drop-empty"):
        assert option in output


def normalise(adata):
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / 7.0).astype(np.float32))


def negative(adata):
    adata.X.data[3] = -2


def strangers(adata):
    adata.var_names = [f"X{i}" for i in range(adata.n_vars)]


def duplicates(adata):
    adata.var_names = [adata.var_names[1], *adata.var_names[1:]]


def empty_cells(adata):
    X = adata.X.toarray()
    X[4] = 0
    adata.X = sparse.csr_matrix(X)


def not_a_number(adata):
    adata.X.data[0] = np.nan


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (normalise, "looks log-normalised; raw counts are needed"),
        (negative, "negative values"),
        (strangers, "0 of 60 genes match"),
        (not_a_number, "NaN or infinite"),
    ],
)
def test_cells_that_cannot_be_read(run, tiny_adata, vocabulary_dir, tmp_path, spoil, message):
    adata = tiny_adata.copy()
    spoil(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    refused(run, tmp_path, [tmp_path / "cells.h5ad", "--vocabulary", vocabulary_dir], message)


@pytest.mark.parametrize(
    ("spoil", "option", "message"),
    [
        (duplicates, "--refuse-duplicates", "ENSG00000000002 occurs 2 times"),
        (empty_cells, "--refuse-empty", "1 of 80 cells are empty"),
    ],
)
def test_cells_that_are_refused_on_request(run, tiny_adata, vocabulary_dir, tmp_path, spoil, option, message):
    adata = tiny_adata.copy()
    spoil(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    arguments = [tmp_path / "cells.h5ad", "--vocabulary", vocabulary_dir]
    refused(run, tmp_path, [*arguments, option], message)
    assert run(*arguments, "--out", tmp_path / "corpus", "--quiet")[0] == 0


def refused(run, folder, arguments, message):
    """Exit code 2, one line that says `message`, and nothing written."""
    before = sorted(folder.rglob("*"))
    code, stdout, stderr = run(*arguments, "--out", folder / "corpus", "--quiet")
    assert code == 2
    assert stdout == ""
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


def test_files_that_cannot_be_read(run, tiny_h5ad, vocabulary_dir, tmp_path):
    vocabulary = ["--vocabulary", vocabulary_dir]
    refused(run, tmp_path, [tmp_path / "other.h5ad", *vocabulary], "no such file")
    refused(run, tmp_path, [tmp_path / "vocabulary", *vocabulary], "holds no count files")
    refused(run, tmp_path, [tiny_h5ad, *vocabulary, "--columns", "donor"], "no column 'donor'")
    refused(run, tmp_path, [tiny_h5ad, *vocabulary, "--layer", "counts"], "no layer 'counts'")
    tiny_h5ad.write_bytes(tiny_h5ad.read_bytes()[:5000])
    refused(run, tmp_path, [tiny_h5ad, *vocabulary], "truncated or damaged")


def test_vocabularies_that_are_not_there(run, tiny_h5ad, vocabulary_dir, tmp_path):
    refused(run, tmp_path, [tiny_h5ad, "--vocabulary", tmp_path], "holds no gene vocabulary")
    refused(run, tmp_path, [tiny_h5ad, "--model", tmp_path], "holds no gene vocabulary")
    both = ["--model", tmp_path, "--vocabulary", vocabulary_dir]
    refused(run, tmp_path, [tiny_h5ad, *both], "give one of them")


def test_an_output_that_cannot_be_written(run, tiny_h5ad, vocabulary_dir):
    code, _, stderr = run(tiny_h5ad, "--vocabulary", vocabulary_dir, "--out", tiny_h5ad / "corpus", "--quiet")
    assert code == 2
    assert len(stderr.strip().splitlines()) == 1
