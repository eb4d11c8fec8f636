"""Merging: cells end to end, files told apart, nothing written again without need, no cell twice."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest

from geneformer_grn._runtime import sha256_file
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.dealing import SplitSettings
from geneformer_grn.cells.corpora.facts import corpus_facts, facts_text
from geneformer_grn.cells.corpora.merging import merge_corpora
from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.splitting import split_corpus
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.genes.vocabulary import VocabularyMismatchError


@pytest.fixture
def make(tiny_adata, tiny_vocabulary, tmp_path):
    """Return a function that tokenizes some tiny cells: name, rows, file names -> corpus."""

    def make(
        name, rows, *, files=("cells.h5ad",), columns=("cell_type",), vocabulary=tiny_vocabulary, **kept
    ):
        paths = []
        for number, file in enumerate(files):
            paths.append(tmp_path / f"{name}_files" / file)
            paths[-1].parent.mkdir(exist_ok=True)
            part = tiny_adata[rows[number :: len(files)]].copy()
            part.obs["batch"] = [f"{name}{row % 2}" for row in range(part.n_obs)]
            part.write_h5ad(paths[-1])
        asked = CorpusSettings(columns=columns, **kept)
        return write_corpus(paths, tmp_path / name, vocabulary, asked)

    return make


def tokens(corpus):
    return [corpus.cell(index).tolist() for index in range(len(corpus))]


def test_cells_end_to_end(make, tmp_path):
    one = make("one", np.arange(30), files=("a.h5ad", "b.h5ad"))
    two = make("two", np.arange(30, 80), files=("c.h5ad",), min_genes=20)
    merged = merge_corpora([one.path, two.path], tmp_path / "merged")
    assert tokens(merged) == tokens(one) + tokens(two)
    for column in ("cell_id", "source", "cell_type", "length"):
        assert merged.column(column).tolist() == [*one.column(column), *two.column(column)]
    loaded = datasets.load_from_disk(str(merged.path))
    assert [cell["input_ids"] for cell in loaded] == tokens(merged)
    manifest = merged.manifest
    for total in ("n_cells", "n_tokens", "n_cells_file", "n_dropped_min_genes", "counts_total"):
        assert manifest[total] == one.manifest[total] + two.manifest[total]
    assert [entry["name"] for entry in manifest["files"]] == ["a.h5ad", "b.h5ad", "c.h5ad"]
    assert [entry["shards"] for entry in manifest["files"]] == [
        [f"data-0000{number}-of-00003.arrow"] for number in range(3)
    ]
    assert manifest["settings"]["columns"] == ["cell_type"]
    assert "min_genes" not in manifest["settings"]  # they differ
    assert manifest["merged"][1]["settings"]["min_genes"] == 20
    assert manifest["merged"][0]["fingerprint"] == sha256_file(one.path / "manifest.json")
    assert str(tmp_path) not in json.dumps(manifest)
    assert merged.vocabulary.fingerprint == one.vocabulary.fingerprint


def test_unchanged_shards_are_links_and_copies_where_there_are_none(make, tmp_path, monkeypatch):
    one, two = make("one", np.arange(30), files=("a.h5ad",)), make("two", np.arange(30, 80))
    merged = merge_corpora([one.path, two.path], tmp_path / "merged")
    shards = [one.path / "data-00000-of-00001.arrow", merged.path / "data-00000-of-00002.arrow"]
    assert shards[0].stat().st_ino == shards[1].stat().st_ino

    def no_links(*_paths):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", no_links)
    copied = merge_corpora([one.path, two.path], tmp_path / "copied")
    shard = copied.path / "data-00000-of-00002.arrow"
    assert shard.stat().st_ino != shards[0].stat().st_ino
    assert shard.read_bytes() == shards[0].read_bytes()


def test_files_of_one_name_are_told_apart(make, tmp_path):
    one, two = make("one", np.arange(20)), make("two", np.arange(20, 50))
    taken = make("three", np.arange(50, 80), files=("cells~2.h5ad", "other.h5ad"))
    merged = merge_corpora([one.path, two.path, taken.path], tmp_path / "merged")
    names = [entry["name"] for entry in merged.manifest["files"]]
    assert names == ["cells.h5ad", "cells~2.h5ad", "cells~2~2.h5ad", "other.h5ad"]
    assert tokens(merged) == tokens(one) + tokens(two) + tokens(taken)
    ids = merged.column("cell_id")
    assert len(set(ids)) == 80
    assert ids[20:50].tolist() == [f"cells~2:{row}" for row in range(30)]
    assert ids[50:65].tolist() == [f"cells~2~2:{row}" for row in range(15)]
    assert ids[65:].tolist() == [f"other:{row}" for row in range(15)]
    for entry in merged.manifest["files"]:
        assert (merged.column("source") == entry["name"]).sum() == entry["n_cells"]
    other = merge_corpora([taken.path, one.path, two.path], tmp_path / "other")
    assert len(set(other.column("cell_id"))) == 80
    assert len({entry["name"] for entry in other.manifest["files"]}) == 4


def test_merging_the_parts_of_a_split_gives_the_corpus_back(make, tmp_path):
    corpus = make("one", np.arange(80), files=("a.h5ad", "b.h5ad"))
    asked = SplitSettings(by="cell_type", assign={"test": ["B"]})
    parts = split_corpus(corpus.path, tmp_path / "parts", asked)
    merged = merge_corpora([parts["train"].path, parts["test"].path], tmp_path / "merged")
    found = dict(zip(merged.column("cell_id"), tokens(merged), strict=True))
    assert found == dict(zip(corpus.column("cell_id"), tokens(corpus), strict=True))
    for entry, original in zip(merged.manifest["files"], corpus.manifest["files"], strict=True):
        assert entry["name"] == original["name"]
        assert (entry["n_cells"], entry["n_tokens"]) == (original["n_cells"], original["n_tokens"])
        assert entry["n_elsewhere"] == 0
        assert "splits" not in entry


def test_counts_travel_with_their_tokens(make, tmp_path):
    one = make("one", np.arange(40), files=("a.h5ad",), columns=("batch",), keep_counts=True)
    two = make("two", np.arange(40, 80), files=("b.h5ad",), columns=("batch",), keep_counts=True)
    merged = merge_corpora([one.path, two.path], tmp_path / "merged")
    asked = SplitSettings(by="batch", fractions={"train": 0.5, "test": 0.5})
    wanted = {
        cell["cell_id"]: (cell["input_ids"], cell["counts"])
        for corpus in (one, two)
        for cell in datasets.load_from_disk(str(corpus.path))
    }
    for corpus in (merged, *split_corpus(merged.path, tmp_path / "parts", asked).values()):
        for cell in datasets.load_from_disk(str(corpus.path)):
            assert (cell["input_ids"], cell["counts"]) == wanted[cell["cell_id"]]
    bare = make("bare", np.arange(40, 80), files=("b.h5ad",), columns=("batch",))
    refused([one.path, bare.path], tmp_path / "out", "'counts' only in")
    assert "counts" not in merge_corpora([one.path, bare.path], tmp_path / "out", columns=["common"]).columns


def test_columns(make, tmp_path):
    one = make("one", np.arange(40), files=("a.h5ad",), columns=("cell_type", "batch"))
    two = make("two", np.arange(40, 80), files=("b.h5ad",), columns=("batch",))
    paths = [one.path, two.path]
    refused(paths, tmp_path / "out", f"'cell_type' only in {one.path}.*--columns common")
    refused(paths, tmp_path / "out", f"{two.path} has no column 'cell_type'.*: batch", columns=["cell_type"])
    for out, columns in (("all", ["common"]), ("named", ["batch"])):
        merged = merge_corpora(paths, tmp_path / out, columns=columns)
        assert merged.columns == ("input_ids", "length", "cell_id", "source", "batch")
        assert merged.column("batch").tolist() == [*one.column("batch"), *two.column("batch")]
        assert tokens(merged) == tokens(one) + tokens(two)
        assert datasets.load_from_disk(str(merged.path)).num_rows == 80
    assert merge_corpora(paths, tmp_path / "none", columns=[]).columns[-1] == "source"


def refused(paths, out, match, error=ValueError, **kept):
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(error, match=match):
        merge_corpora(paths, out, **kept)
    assert sorted(out.parent.rglob("*")) == before


def test_what_cannot_be_merged(make, tiny_vocabulary, tmp_path):
    one, two = make("one", np.arange(40)), make("two", np.arange(40, 80))
    out = tmp_path / "out"
    refused([one.path], out, "two corpora or more; 1 given")
    refused([one.path, tmp_path / "two" / ".." / "one"], out, "is given twice")
    refused([one.path, tmp_path / "nothing"], out, "is not a corpus", FileNotFoundError)
    refused([one.path, two.path], one.path, "exists and is left", FileExistsError)
    other = make("other", np.arange(40, 80), vocabulary=replace(tiny_vocabulary, max_length=40))
    prints = [corpus.manifest["vocabulary"]["fingerprint"][:12] for corpus in (one, other)]
    message = f"corpus {one.path} has vocabulary {prints[0]}, corpus {other.path} has {prints[1]}"
    refused([one.path, other.path], out, message, VocabularyMismatchError)


def test_rows_of_one_file_in_two_corpora(make, tiny_adata, tiny_vocabulary, tmp_path):
    """Known by the file's sha256 and row numbers, however few genes the cells have."""
    make("one", np.arange(80))
    file = tmp_path / "one_files" / "cells.h5ad"
    samples = [
        write_corpus(
            [file], tmp_path / f"sample{seed}", tiny_vocabulary, CorpusSettings(n_cells=30, seed=seed)
        )
        for seed in (1, 2)
    ]
    both = set(samples[0].column("cell_id")) & set(samples[1].column("cell_id"))
    assert both
    message = f"{len(both)} cells are in two corpora: cells.h5ad in .*sample1 and cells.h5ad in .*sample2"
    refused([sample.path for sample in samples], tmp_path / "out", message)


def test_cells_of_the_same_tokens(make, tmp_path, monkeypatch):
    monkeypatch.setattr("geneformer_grn.cells.corpora.identity.LEAST_GENES", 5)
    one = make("one", np.arange(50), files=("a.h5ad",))
    two = make("two", np.arange(40, 80), files=("b.h5ad", "c.h5ad"))
    message = (
        "10 cells have the same tokens in two corpora "
        f"\\(5 of a.h5ad of {one.path} and b.h5ad of {two.path}; 5 of a.h5ad of .* and c.h5ad"
    )
    refused([one.path, two.path], tmp_path / "out", message)


def test_facts(make, tmp_path):
    one = make("one", np.arange(50), files=("a.h5ad",), columns=("cell_type", "batch"), min_genes=35)
    two = make("two", np.arange(50, 80), files=("b_c.h5ad",), columns=("cell_type", "batch"), n_cells=20)
    corpus = merge_corpora([one.path, two.path], tmp_path / "merged")
    facts = corpus_facts(corpus)
    genes = [len(cell) - 2 for cell in tokens(corpus)]
    assert facts["genes_per_cell"]["median"] == np.median(genes)
    assert facts["genes_per_cell"]["most"] == max(genes)
    assert (facts["n_cells"], facts["n_tokens"]) == (len(corpus), sum(genes) + 2 * len(genes))
    assert len(one) < 50
    assert facts["files"][0]["left_out"] == {"too few known genes": 50 - len(one)}
    assert facts["files"][1] == {
        "name": "b_c.h5ad", "n_cells": 20, "n_cells_file": 30, "left_out": {"not sampled": 10},
    }  # fmt: skip
    columns = {column["name"]: column for column in facts["columns"]}
    values, counts = np.unique(corpus.column("batch").astype(str), return_counts=True)
    assert columns["batch"]["n_values"] == len(values)
    assert dict(columns["batch"]["top"]) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert [count for _, count in columns["batch"]["top"]] == sorted(counts, reverse=True)
    assert set(columns["cell_id"]) == {"name", "type"}
    assert facts["bytes"] == sum(path.stat().st_size for path in corpus.path.glob("*.arrow"))
    text = facts_text(facts)
    assert "b_c.h5ad: 20 of 30 cells (10 not sampled)" in text
    assert "merged from   one, two" in text
    assert not any(cell_id in text for cell_id in corpus.column("cell_id"))
    assert len(text.splitlines()) < 24


def test_a_column_that_names_each_cell_is_not_shown(tiny_adata, tiny_vocabulary, tmp_path):
    adata = tiny_adata.copy()
    adata.obs["barcode"] = [f"ACGT{row}" for row in range(80)]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    columns = CorpusSettings(columns=("barcode",))
    corpus = write_corpus([tmp_path / "cells.h5ad"], tmp_path / "corpus", tiny_vocabulary, columns)
    facts = corpus_facts(corpus)
    assert facts["columns"][-1] == {"name": "barcode", "type": "string", "n_values": 80, "n_missing": 0}
    assert "ACGT" not in facts_text(facts)


def test_the_stated_ways_to_open_it_work(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    for line in corpus_facts(Corpus.open(tiny_corpus.path))["open_with"]:
        opened = eval(line, {"datasets": datasets})  # noqa: S307 - our own line
        assert opened.num_rows == 80
        assert opened[0]["input_ids"] == tiny_corpus.cell(0).tolist()
