"""Corpora: what is written is what the model reads, `datasets` opens it, damage is found."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
from scipy import sparse

from geneformer_grn._runtime import sha256_file
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.cells.counts import ReadSettings, read_counts
from geneformer_grn.cells.ranking import model_input, rank_cells
from geneformer_grn.genes.vocabulary import GeneVocabulary, VocabularyMismatchError


@pytest.fixture
def ranked(tiny_adata, tiny_vocabulary):
    return rank_cells(read_counts(tiny_adata, tiny_vocabulary), tiny_vocabulary)


@pytest.fixture
def expected(ranked, tiny_vocabulary):
    return [model_input(ranked.cell(i), tiny_vocabulary) for i in range(80)]


def test_cells_are_model_inputs(tiny_corpus, expected):
    assert len(tiny_corpus) == 80
    for index, ids in enumerate(expected):
        np.testing.assert_array_equal(tiny_corpus.cell(index), ids)
    np.testing.assert_array_equal(tiny_corpus.lengths, [len(ids) for ids in expected])
    np.testing.assert_array_equal(tiny_corpus.input_ids, np.concatenate(expected))
    assert tiny_corpus.input_ids.dtype == np.uint16


def test_cropping_keeps_the_end(tiny_h5ad, tiny_vocabulary, ranked, tmp_path):
    short = replace(tiny_vocabulary, max_length=16)
    corpus = write_corpus([tiny_h5ad], tmp_path / "corpus", short)
    assert corpus.lengths.max() == 16
    for index in range(80):
        np.testing.assert_array_equal(corpus.cell(index), model_input(ranked.cell(index), short))
    assert corpus.manifest["n_cropped_genes"] == (ranked.lengths - 14).clip(0).sum()


def test_without_special_tokens(tiny_h5ad, tiny_vocabulary, tmp_path):
    tokens = np.r_[0:2, 5:65]
    bare = GeneVocabulary(
        ensembl_ids=tiny_vocabulary.ensembl_ids[tokens],
        symbols=tiny_vocabulary.symbols[tokens],
        medians=tiny_vocabulary.medians[tokens],
        is_regulator=tiny_vocabulary.is_regulator[tokens],
        setting="v1",
        max_length=20,
    )
    corpus = write_corpus([tiny_h5ad], tmp_path / "corpus", bare)
    ranked = rank_cells(read_counts(tiny_h5ad, bare), bare)
    for index in range(80):
        np.testing.assert_array_equal(corpus.cell(index), ranked.cell(index)[:20])


def test_many_record_batches(tiny_h5ad, tiny_vocabulary, tmp_path, expected, monkeypatch):
    monkeypatch.setattr("geneformer_grn.cells.corpora.part_writing._BATCH_VALUES", 100)
    corpus = write_corpus([tiny_h5ad], tmp_path / "corpus", tiny_vocabulary)
    assert len(corpus.values) > 20
    for index in (0, 1, 40, 79):
        np.testing.assert_array_equal(corpus.cell(index), expected[index])
    np.testing.assert_array_equal(corpus.input_ids, np.concatenate(expected))


def test_columns(tiny_corpus, tiny_adata):
    assert tiny_corpus.columns == ("input_ids", "length", "cell_id", "source", "cell_type")
    assert tiny_corpus.column("cell_id")[[0, 39, 40]].tolist() == ["first:0", "first:39", "second:0"]
    assert tiny_corpus.column("source")[[0, 79]].tolist() == ["first.h5ad", "second.h5ad"]
    assert tiny_corpus.column("cell_type").tolist() == tiny_adata.obs["cell_type"].tolist()
    np.testing.assert_array_equal(tiny_corpus.column("length"), tiny_corpus.lengths)
    for name in ("donor", "input_ids"):
        with pytest.raises(ValueError, match="columns there: length, cell_id, source, cell_type"):
            tiny_corpus.column(name)
    with pytest.raises(IndexError):
        tiny_corpus.cell(80)


def test_datasets_opens_it(tiny_corpus, expected):
    loaded = datasets.load_from_disk(str(tiny_corpus.path))
    assert loaded.num_rows == 80
    assert loaded.features["input_ids"].feature.dtype == "uint16"
    assert loaded[41]["input_ids"] == expected[41].tolist()
    assert loaded[41]["cell_id"] == "second:1"


def test_manifest(tiny_corpus, tiny_vocabulary, tiny_adata):
    manifest = tiny_corpus.manifest
    assert manifest["vocabulary"]["fingerprint"] == tiny_vocabulary.fingerprint
    assert (manifest["n_cells"], manifest["n_tokens"]) == (80, int(tiny_corpus.offsets[-1]))
    assert manifest["counts_total"] == tiny_adata.X.sum()
    assert manifest["settings"]["columns"] == ["cell_type"]
    first = manifest["files"][0]
    assert (first["name"], first["shards"]) == ("first.h5ad", ["data-00000-of-00002.arrow"])
    assert first["sha256"] == sha256_file(tiny_corpus.path.parent / "first.h5ad")
    assert str(tiny_corpus.path.parent) not in json.dumps(manifest)
    assert tiny_corpus.vocabulary.fingerprint == tiny_vocabulary.fingerprint


def test_vocabularies_are_compared(tiny_corpus, tiny_vocabulary):
    tiny_corpus.require_vocabulary(tiny_vocabulary)
    with pytest.raises(VocabularyMismatchError):
        tiny_corpus.require_vocabulary(replace(tiny_vocabulary, max_length=47))


def test_cells_with_few_genes_are_left_out(tiny_h5ad, tiny_vocabulary, ranked, tmp_path):
    least = int(np.median(ranked.lengths))
    corpus = write_corpus([tiny_h5ad], tmp_path / "corpus", tiny_vocabulary, CorpusSettings(min_genes=least))
    kept = np.flatnonzero(ranked.lengths >= least)
    assert corpus.column("cell_id").tolist() == [f"cells:{row}" for row in kept]
    assert corpus.manifest["n_dropped_min_genes"] == 80 - len(kept)
    with pytest.raises(ValueError, match="no cell is left: all have fewer than 61"):
        write_corpus([tiny_h5ad], tmp_path / "corpus", tiny_vocabulary, CorpusSettings(min_genes=61))
    assert len(Corpus.open(tmp_path / "corpus")) == len(kept)  # the one before is still whole


def test_a_file_that_keeps_no_cell_has_no_shard(tiny_adata, tiny_vocabulary, tmp_path):
    tiny_adata.write_h5ad(tmp_path / "full.h5ad")
    bare = tiny_adata[:5].copy()
    bare.X = sparse.csr_matrix(bare.X.toarray() * (np.arange(60) == 0))
    bare.write_h5ad(tmp_path / "bare.h5ad")
    files = [tmp_path / "bare.h5ad", tmp_path / "full.h5ad"]
    corpus = write_corpus(files, tmp_path / "corpus", tiny_vocabulary, CorpusSettings(min_genes=2))
    assert [entry["shards"] for entry in corpus.manifest["files"]] == [[], ["data-00000-of-00001.arrow"]]
    assert len(corpus) == 80


def test_files_of_one_name_and_samples(tiny_adata, tiny_vocabulary, tmp_path):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "cells.h5ad")
        tiny_adata.write_h5ad(files[-1])
    corpus = write_corpus(files, tmp_path / "corpus", tiny_vocabulary, CorpusSettings(n_cells=10, seed=1))
    assert len(corpus) == 20
    assert set(corpus.column("source")) == {"cells.h5ad", "cells~2.h5ad"}
    assert len(set(corpus.column("cell_id"))) == 20
    assert corpus.manifest["n_not_sampled"] == 140


def test_missing_values_are_null(tiny_adata, tiny_vocabulary, tmp_path):
    adata = tiny_adata.copy()
    adata.obs["age"] = np.where(np.arange(80) < 3, np.nan, 7.5)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    corpus = write_corpus(
        [tmp_path / "cells.h5ad"], tmp_path / "corpus", tiny_vocabulary, CorpusSettings(columns=("age",))
    )
    assert corpus.column("age")[2:4].tolist() == [None, "7.5"]


def refused(files, out, vocabulary, settings=None, *, error=ValueError, match):
    with pytest.raises(error, match=match):
        write_corpus(files, out, vocabulary, settings)
    assert not out.exists()
    assert not list(out.parent.glob("*geneformer-grn*"))
    assert not out.with_name(f"{out.name}.unfinished").exists()


def test_refusals_leave_nothing_behind(tiny_h5ad, tiny_vocabulary, tmp_path):
    out = tmp_path / "corpus"
    refused([], out, tiny_vocabulary, match="no files")
    refused([tiny_h5ad, tiny_h5ad], out, tiny_vocabulary, match="given twice")
    missing = [tiny_h5ad, tmp_path / "missing.h5ad"]
    refused(missing, out, tiny_vocabulary, error=FileNotFoundError, match=r"missing\.h5ad: no such file")
    refused(
        [tiny_h5ad],
        out,
        tiny_vocabulary,
        CorpusSettings(columns=("donor",)),
        match=r"cells\.h5ad: obs has no column 'donor'; columns there: cell_type",
    )
    refused(
        [tiny_h5ad], out, tiny_vocabulary, CorpusSettings(read=ReadSettings(layer="x")), match="no layer 'x'"
    )


def test_what_is_not_a_corpus_is_not_replaced(tiny_h5ad, tiny_vocabulary, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.txt").write_text("years of work")
    for out in (tmp_path / "results", tiny_h5ad):
        with pytest.raises(FileExistsError, match="is not a corpus"):
            write_corpus([tiny_h5ad], out, tiny_vocabulary)
    assert (tmp_path / "results" / "thesis.txt").exists()


def test_a_corpus_is_replaced(tiny_h5ad, tiny_vocabulary, tmp_path):
    write_corpus([tiny_h5ad], tmp_path / "corpus", tiny_vocabulary, CorpusSettings(n_cells=5))
    assert len(write_corpus([tiny_h5ad], tmp_path / "corpus", tiny_vocabulary)) == 80


@pytest.mark.slow
def test_workers_change_nothing(tiny_corpus, tiny_vocabulary, tmp_path):
    files = [tiny_corpus.path.parent / name for name in ("first.h5ad", "second.h5ad")]
    settings = CorpusSettings(columns=("cell_type",))
    corpus = write_corpus(files, tmp_path / "corpus", tiny_vocabulary, settings, workers=2)
    np.testing.assert_array_equal(corpus.input_ids, tiny_corpus.input_ids)
    assert corpus.manifest == tiny_corpus.manifest


def test_wrong_settings():
    with pytest.raises(ValueError, match="'cell_id' is one of the corpus's own"):
        CorpusSettings(columns=("cell_id",))
    with pytest.raises(ValueError, match="at least 1"):
        CorpusSettings(part_cells=0)


def test_opening_what_is_no_corpus(tmp_path, tiny_h5ad, tiny_vocabulary):
    for path in (tmp_path / "nowhere", tmp_path, tiny_h5ad):
        with pytest.raises(FileNotFoundError, match="is not a corpus"):
            Corpus.open(path)
    corpus = write_corpus([tiny_h5ad], tmp_path / "corpus", tiny_vocabulary)
    shard = corpus.path / "data-00000-of-00001.arrow"
    content = shard.read_bytes()
    for damaged in (content[: len(content) // 2], content[:300], b""):
        shard.unlink()
        shard.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            Corpus.open(corpus.path)
    shard.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        Corpus.open(corpus.path)
