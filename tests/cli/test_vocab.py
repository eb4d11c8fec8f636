"""The verb ``vocab build``: what it writes, what it says, and how it refuses."""

import json

import numpy as np
import pandas as pd
import pytest

from geneformer_grn import cli
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import GeneVocabulary


@pytest.fixture
def cells(tmp_path):
    import anndata
    from scipy import sparse

    genes = list(load_gene_table().symbol_of)[:20]
    counts = np.random.default_rng(0).poisson(2.0, (30, 20)).astype(np.float32)
    path = tmp_path / "cells.h5ad"
    obs = pd.DataFrame(index=[f"c{i}" for i in range(30)])
    anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=pd.Index(genes))).write_h5ad(
        path
    )
    return path


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(cli, "VERBS", ("genes", "vocab"))
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_vocab_build_writes_a_vocabulary(cells, tmp_path, monkeypatch, capsys):
    out = tmp_path / "vocabulary"
    code = run(
        monkeypatch, "vocab", "build", cells, "--out", out, "--setting", "v2", "--min-cells", 5, "--quiet",
        "--json",
    )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    summary = json.loads(printed.out.splitlines()[-1])
    vocabulary = GeneVocabulary.load(out)
    assert summary["fingerprint"] == vocabulary.fingerprint
    assert (summary["n_genes"], summary["n_cells"]) == (20, 30)
    assert (vocabulary.setting, vocabulary.max_length, len(vocabulary)) == ("v2", 4096, 24)
    assert vocabulary.provenance["min_cells"] == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FILE": "nowhere.h5ad"}, "no such file"),
        ({"--setting": "v9"}, "setting 'v9' is unknown"),
        ({"--min-cells": "31"}, "lower --min-cells"),
        ({"--biotype": "gene"}, "unknown biotype"),
        ({"--part": "3"}, "--part '3' is not I/N"),
        ({"--part": "2/2"}, "share 2 of 2 does not exist; shares are numbered from 0 to 1"),
        ({"--species": "rat"}, "species 'rat' is unknown"),
        ({"--gene-column": "names"}, "no column 'names'"),
    ],
)
def test_wrong_calls_end_with_2_and_one_message(cells, tmp_path, monkeypatch, capsys, changes, message):
    out = tmp_path / "out"
    options = {key: value for key, value in changes.items() if key.startswith("--")}
    code = run(
        monkeypatch, "vocab", "build", changes.get("FILE", cells), "--out", out, "--quiet",
        *(part for option in options.items() for part in option),
    )  # fmt: skip
    printed = capsys.readouterr().err
    assert code == 2
    assert printed.count("error:") == 1
    assert message in printed
    assert "Traceback" not in printed
    assert not out.exists()
    assert not (tmp_path / "out.unfinished").exists()


def test_parts_are_done_one_by_one_and_finished_without(cells, tmp_path, monkeypatch, capsys):
    out = tmp_path / "vocabulary"
    other = tmp_path / "more" / "other.h5ad"
    other.parent.mkdir()
    import anndata

    second = anndata.read_h5ad(cells)
    second.X = second.X * 2
    second.write_h5ad(other)
    files = [cells, other.parent]  # a folder stands for its files
    for part, n_done in (("1/2", 1), ("1/2", 1), ("0/2", 2)):
        code = run(monkeypatch, "vocab", "build", *files, "--out", out, "--part", part, "--quiet", "--json")
        summary = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (code, summary["n_done"], summary["n_files"]) == (0, n_done, 2)
        assert summary["finished"] == (n_done == 2)
        assert not out.exists()
    assert (tmp_path / "vocabulary.unfinished").is_dir()
    assert run(monkeypatch, "vocab", "build", *files, "--out", out, "--quiet", "--json") == 0
    shared = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not (tmp_path / "vocabulary.unfinished").exists()
    assert run(monkeypatch, "vocab", "build", *files, "--out", tmp_path / "alone", "--quiet", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["fingerprint"] == shared["fingerprint"]


def test_a_file_that_changed_between_parts_is_refused(cells, tmp_path, monkeypatch, capsys):
    import os
    import shutil

    other = tmp_path / "other.h5ad"
    shutil.copy(cells, other)
    call = ("vocab", "build", cells, other, "--out", tmp_path / "vocabulary", "--quiet")
    assert run(monkeypatch, *call, "--part", "0/2") == 0
    state = cells.stat()
    content = bytearray(cells.read_bytes())
    content[-1] ^= 1
    cells.write_bytes(content)
    os.utime(cells, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert cells.stat().st_size == state.st_size
    capsys.readouterr()
    assert run(monkeypatch, *call) == 2
    told = capsys.readouterr().err
    assert "cells.h5ad changed since its work was planned; delete vocabulary.unfinished" in told
    assert not (tmp_path / "vocabulary").exists()


def test_a_file_in_the_way_is_refused_before_the_work(cells, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    out.write_text("mine")
    assert run(monkeypatch, "vocab", "build", cells, "--out", out, "--quiet") == 2
    assert "is a file" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_genes_build_needs_its_sources(tmp_path, monkeypatch, capsys):
    code = run(
        monkeypatch,
        "genes",
        "build",
        "--genes",
        tmp_path,
        "--regulators",
        tmp_path / "tf.tsv",
        "--out",
        tmp_path,
    )
    assert code == 2
    assert "human_gene_table.tsv.gz, which is not in" in capsys.readouterr().err
