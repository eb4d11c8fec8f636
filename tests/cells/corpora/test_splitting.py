"""Splits: whole groups, shares as near as groups allow, nothing lost or reordered, leaks refused."""

import itertools
import json
import logging

import anndata
import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geneformer_grn._runtime import sha256_file
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.dealing import (
    SplitSettings,
    deal_groups,
    parse_assignments,
    parse_fractions,
)
from geneformer_grn.cells.corpora.identity import repeated_cells, token_hashes
from geneformer_grn.cells.corpora.leaks import files_in_both
from geneformer_grn.cells.corpora.merging import merge_corpora
from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.splitting import split_corpus
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.genes.vocabulary import SPECIAL_TOKENS, GeneVocabulary

N_GENES = 90
HALVES = {"train": 0.5, "test": 0.5}


@pytest.fixture(scope="module")
def vocabulary():
    """90 genes: every cell of these tests has more than the 50 from which on cells are compared."""
    special = SPECIAL_TOKENS["default"]
    genes = [f"ENSG{number:011d}" for number in range(1, N_GENES + 1)]
    medians = np.random.default_rng(0).uniform(0.5, 8.0, N_GENES)
    return GeneVocabulary(
        ensembl_ids=np.array([*special, *genes], dtype=object),
        symbols=np.array([*special, *genes], dtype=object),
        medians=np.concatenate([np.full(len(special), np.nan), medians]),
        is_regulator=np.zeros(len(special) + N_GENES, dtype=bool),
        max_length=128,
    )


@pytest.fixture
def make(vocabulary, tmp_path):
    """Return a function that tokenizes generated cells: {file: obs columns} -> corpus."""

    def make(files, name="corpus", *, seed=0, change=None):
        generator = np.random.default_rng(seed)
        paths, columns = [], ()
        for file, obs in files.items():
            table = pd.DataFrame(obs)
            counts = generator.poisson(5.0, (len(table), N_GENES)).astype(np.float32) + 1
            if change is not None:
                change(file, counts)
            table.index = [f"cell{row}" for row in range(len(table))]
            genes = pd.DataFrame(index=vocabulary.ensembl_ids[vocabulary.n_special :].astype(str))
            path = tmp_path / f"{name}_files" / file
            path.parent.mkdir(exist_ok=True)
            anndata.AnnData(sparse.csr_matrix(counts), obs=table, var=genes).write_h5ad(path)
            paths.append(path)
            columns = tuple(table.columns)
        return write_corpus(paths, tmp_path / name, vocabulary, CorpusSettings(columns=columns))

    return make


@pytest.fixture
def corpus(make):
    """Two files, six donors of 5 to 30 cells in an order that mixes them; D3 is in both files."""
    donors = np.repeat(["D1", "D2", "D3", "D4", "D5", "D6"], [30, 20, 15, 10, 5, 8])
    donors = np.random.default_rng(3).permutation(donors)
    kinds = np.where(np.arange(88) % 3 == 0, "CD4-positive, alpha-beta T cell", "B cell")
    return make(
        {
            "one.h5ad": {"donor": donors[:50], "cell_type": kinds[:50]},
            "two.h5ad": {"donor": donors[50:], "cell_type": kinds[50:]},
        }
    )


def tokens(corpus):
    return [corpus.cell(index).tolist() for index in range(len(corpus))]


def test_parts_hold_the_cells_of_their_donors_in_order(corpus, tmp_path):
    asked = SplitSettings(by="donor", fractions={"train": 0.7, "valid": 0.15, "test": 0.15}, seed=4)
    parts = split_corpus(corpus.path, tmp_path / "parts", asked)
    donors, ids, expected = corpus.column("donor"), corpus.column("cell_id"), tokens(corpus)
    assert sum(map(len, parts.values())) == 88
    seen = set()
    for name, part in parts.items():
        record = part.manifest["split"]
        groups = record["parts"][name]["groups"]
        assert not seen & set(groups)
        seen |= set(groups)
        rows = np.flatnonzero(np.isin(donors, groups))
        assert part.column("cell_id").tolist() == ids[rows].tolist()
        assert tokens(part) == [expected[row] for row in rows]
        assert part.column("donor").tolist() == donors[rows].tolist()
        assert record["parts"][name]["n_cells"] == len(rows)
        assert record["parent"] == {
            "name": "corpus",
            "fingerprint": sha256_file(corpus.path / "manifest.json"),
            "n_cells": 88,
        }
        assert (record["by"], record["seed"], record["part"]) == ("donor", 4, name)
        loaded = datasets.load_from_disk(str(part.path))
        assert loaded["cell_id"][:] == ids[rows].tolist()
        assert loaded[0]["input_ids"] == expected[rows[0]]
        assert part.vocabulary.fingerprint == corpus.vocabulary.fingerprint
        assert str(tmp_path) not in json.dumps(part.manifest)
    assert seen == {"D1", "D2", "D3", "D4", "D5", "D6"}


def test_the_books_of_each_file_add_up(corpus, tmp_path):
    parts = split_corpus(corpus.path, tmp_path / "parts", SplitSettings(by="donor", fractions=HALVES))
    for part in parts.values():
        sources, lengths = part.column("source"), part.lengths
        for entry in part.manifest["files"]:
            mine = sources == entry["name"]
            assert (entry["n_cells"], entry["n_tokens"]) == (mine.sum(), lengths[mine].sum())
            assert entry["n_cells"] + entry["n_elsewhere"] == entry["n_cells_file"]
            held = np.concatenate([
                datasets.Dataset.from_file(str(part.path / shard))["source"][:] for shard in entry["shards"]
            ])  # fmt: skip
            assert (held == entry["name"]).sum() == entry["n_cells"]
        assert part.manifest["n_cells"] == len(part)
        assert part.manifest["n_tokens"] == lengths.sum()


def test_the_seed_decides(corpus, tmp_path):
    def groups(seed, out):
        parts = split_corpus(
            corpus.path, tmp_path / out, SplitSettings(by="donor", fractions=HALVES, seed=seed)
        )
        return parts["train"].manifest["split"]["parts"]["train"]["groups"]

    assert groups(0, "a") == groups(0, "b")
    assert len({tuple(groups(seed, f"seed{seed}")) for seed in range(1, 8)}) > 1


def test_files_of_many_shards(make, vocabulary, tmp_path):
    make({"one.h5ad": {"donor": np.repeat(["D1", "D2", "D3"], 10)}})
    file = tmp_path / "corpus_files" / "one.h5ad"
    asked = CorpusSettings(columns=("donor",), part_cells=8)
    corpus = write_corpus([file], tmp_path / "shards", vocabulary, asked)
    assert len(corpus.manifest["files"][0]["shards"]) == 4
    parts = split_corpus(
        corpus.path, tmp_path / "parts", SplitSettings(by="donor", assign={"test": ["D2", "D3"]})
    )
    assert tokens(parts["train"]) + tokens(parts["test"]) == tokens(corpus)
    shards = {name: part.manifest["files"][0]["shards"] for name, part in parts.items()}
    assert {name: len(names) for name, names in shards.items()} == {"train": 2, "test": 3}
    assert sorted(path.name for path in parts["test"].path.glob("*.arrow")) == shards["test"]


def test_a_split_by_file_only_links(corpus, tmp_path):
    asked = SplitSettings(by="file", assign={"test": ["two.h5ad"]})
    parts = split_corpus(corpus.path, tmp_path / "parts", asked)
    assert set(parts) == {"train", "test"}
    assert parts["test"].column("source").tolist() == ["two.h5ad"] * 38
    assert parts["test"].manifest["split"]["by"] == "source"
    shard = corpus.path / "data-00001-of-00002.arrow"
    assert (parts["test"].path / "data-00000-of-00001.arrow").stat().st_ino == shard.stat().st_ino
    assert [entry["name"] for entry in parts["train"].manifest["files"]] == ["one.h5ad"]


def test_many_record_batches(make, tmp_path, monkeypatch):
    monkeypatch.setattr("geneformer_grn.cells.corpora.part_writing._BATCH_VALUES", 300)
    monkeypatch.setattr("geneformer_grn.cells.corpora.folder._BATCH_VALUES", 600)
    corpus = make({"one.h5ad": {"donor": ["D1", "D2", "D3", "D4"] * 10}})
    assert max(map(len, corpus.values)) <= 300
    parts = split_corpus(corpus.path, tmp_path / "parts", SplitSettings(by="donor", fractions=HALVES))
    assert 300 < max(len(values) for part in parts.values() for values in part.values) <= 600
    rejoined = split_corpus(
        parts["train"].path, tmp_path / "again", SplitSettings(by="donor", fractions={"a": 0.5, "b": 0.5})
    )
    wanted = dict(zip(corpus.column("cell_id"), tokens(corpus), strict=True))
    for part in rejoined.values():
        assert tokens(part) == [wanted[cell_id] for cell_id in part.column("cell_id")]


def test_assigned_groups(corpus, tmp_path):
    assign = parse_assignments(["test=D1,D2", "valid=D3", "test=D4"])
    parts = split_corpus(corpus.path, tmp_path / "parts", SplitSettings(by="donor", assign=assign))
    assert {name: set(part.column("donor")) for name, part in parts.items()} == {
        "train": {"D5", "D6"}, "test": {"D1", "D2", "D4"}, "valid": {"D3"},
    }  # fmt: skip
    kinds = parse_assignments(["test=CD4-positive, alpha-beta T cell"])
    parts = split_corpus(corpus.path, tmp_path / "kinds", SplitSettings(by="cell_type", assign=kinds))
    assert set(parts["test"].column("cell_type")) == {"CD4-positive, alpha-beta T cell"}


def refused(corpus, out, match, error=ValueError, **asked):
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(error, match=match):
        split_corpus(corpus.path, out, SplitSettings(**asked))
    assert sorted(out.parent.rglob("*")) == before


def test_what_cannot_be_split(corpus, tmp_path):
    out = tmp_path / "parts"
    refused(corpus, out, "no column 'age'; columns there: length, cell_id", by="age", fractions=HALVES)
    refused(corpus, out, "'cell_id' is no grouping", by="cell_id", fractions=HALVES)
    thirds = {"a": 0.4, "b": 0.3, "c": 0.3}
    refused(
        corpus, out, r"2 source \(one.h5ad, two.h5ad\) cannot fill 3 parts", by="source", fractions=thirds
    )
    refused(
        corpus,
        out,
        r"donor has no 'D9' \(asked for in test\); there are: D1",
        by="donor",
        assign={"test": ["D9"]},
    )
    twice = {"test": ["D1"], "valid": ["D2,D1"]}
    refused(corpus, out, "'D1' is assigned to both test and valid", by="donor", assign=twice)
    everything = {"train": ["D1,D2,D3,D4,D5,D6"]}
    refused(corpus, out, "all cells would go to train", by="donor", assign=everything)
    (out / "test").mkdir(parents=True)
    refused(corpus, out, "test exists and is left", FileExistsError, by="donor", fractions=HALVES)
    refused(corpus, corpus.path, "is a corpus itself", FileExistsError, by="donor", fractions=HALVES)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({}, "give either fractions"),
        ({"fractions": HALVES, "assign": {"test": ["D1"]}}, "both were given"),
        ({"fractions": {"train": 0.8, "test": 0.1}}, "add up to 0.9"),
        ({"fractions": {"train": 1.2, "test": -0.2}}, "fraction of train is 1.2"),
        ({"fractions": {"../train": 0.5, "test": 0.5}}, "cannot be a folder's name"),
        ({"fractions": HALVES, "missing": "valid"}, "'valid' is no part"),
    ],
)
def test_wrong_settings(asked, match):
    with pytest.raises(ValueError, match=match):
        SplitSettings(by="donor", **asked)


def test_wrong_texts():
    assert parse_fractions("train=0.8, test=0.2") == {"train": 0.8, "test": 0.2}
    for text in ("train", "train=x", "train=0.5,train=0.5", "=1", ""):
        with pytest.raises(ValueError, match="is wrong; use train="):
            parse_fractions(text)
    for text in ("test", "test=", "=D1"):
        with pytest.raises(ValueError, match="is wrong; use PART=GROUP"):
            parse_assignments([text])


def test_cells_without_a_group(make, tmp_path):
    donors = np.array(["D1", "D2", "", None, "D1", "D2"] * 4, dtype=object)
    corpus = make({"one.h5ad": {"donor": pd.Categorical(donors)}})
    message = r"8 of 24 cells have no donor; say with --missing PART where they go \(train, test\)"
    refused(corpus, tmp_path / "parts", message, by="donor", fractions=HALVES)
    asked = SplitSettings(by="donor", fractions={"train": 0.66, "test": 0.34}, missing="train")
    parts = split_corpus(corpus.path, tmp_path / "parts", asked)
    assert {name: len(part) for name, part in parts.items()} == {"train": 16, "test": 8}
    assert parts["train"].manifest["split"]["parts"]["train"]["n_missing"] == 8
    assert len(set(parts["test"].column("donor"))) == 1


def test_a_cell_in_two_parts_is_refused(make, tmp_path):
    def copy_cells(file, counts, kept={}):  # noqa: B006 - remembers the first file
        if file == "one.h5ad":
            kept["cells"] = counts[:3].copy()
        else:
            counts[4:7] = 2 * kept["cells"]  # other counts, the same ranks

    files = {"one.h5ad": {"donor": ["D1"] * 6 + ["D2"] * 6}, "two.h5ad": {"donor": ["D3"] * 12}}
    corpus = make(files, change=copy_cells)
    message = r"3 cells have the same tokens as one in another part \(3 of D1 \(train\) and D3 \(test\)\)"
    refused(corpus, tmp_path / "parts", message, by="donor", assign={"test": ["D3"]})
    parts = split_corpus(corpus.path, tmp_path / "parts", SplitSettings(by="donor", assign={"test": ["D2"]}))
    assert len(parts["train"]) == 18


def test_values_that_tie_parts_together(corpus, tmp_path, caplog):
    donors = [
        set(corpus.column("donor")[corpus.column("source") == name]) for name in ("one.h5ad", "two.h5ad")
    ]
    shared = sorted(donors[0] & donors[1])
    cells = int(np.isin(corpus.column("donor"), shared).sum())
    message = (
        f"{len(shared)} donor with {cells} cells are in more than one part .{shared[0]} in train and test"
    )
    asked = {"by": "file", "assign": {"test": ["two.h5ad"]}}
    refused(corpus, tmp_path / "parts", f"{message}.*; split --by donor", apart=("donor",), **asked)
    with caplog.at_level(logging.WARNING, logger="geneformer_grn"):
        split_corpus(corpus.path, tmp_path / "parts", SplitSettings(**asked))
    assert "refuse it with --apart donor" in caplog.text
    refused(
        corpus, tmp_path / "other", "2 source with 88 cells", by="donor", fractions=HALVES, apart=("file",)
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shares", [[0.8, 0.1, 0.1], [0.5, 0.5], [0.6, 0.4]])
def test_no_move_and_no_swap_is_better(seed, shares):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 400, 9)
    shares = np.array(shares)
    fixed = np.zeros(len(shares), dtype=np.int64)

    def off(part):
        held = np.bincount(part, weights=sizes, minlength=len(shares))
        return (
            np.abs(held - shares * sizes.sum()).sum()
            if (np.bincount(part, minlength=len(shares)) > 0).all()
            else np.inf
        )

    part = deal_groups(sizes, shares, fixed=fixed, seed=seed)
    found = off(part)
    for group, to in itertools.product(range(9), range(len(shares))):
        moved = part.copy()
        moved[group] = to
        assert off(moved) > found - 1
    for one, two in itertools.combinations(range(9), 2):
        swapped = part.copy()
        swapped[[one, two]] = part[[two, one]]
        assert off(swapped) > found - 1
    best = min(off(np.array(parts)) for parts in itertools.product(range(len(shares)), repeat=9))
    assert found <= best + 0.1 * sizes.sum()


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [([10, 10], [0.95, 0.05]), ([1000, 1, 1], [0.98, 0.01, 0.01]), ([9, 9, 9], [0.9, 0.05, 0.05])],
)
def test_no_part_is_empty_even_where_that_would_be_closer(sizes, shares):
    fixed = np.zeros(len(shares), dtype=np.int64)
    part = deal_groups(np.array(sizes), np.array(shares), fixed=fixed, seed=0)
    assert sorted(part) == list(range(len(shares)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=30))
def test_hashes_are_equal_where_cells_are(cells):
    """Permutations and prefixes are other cells."""
    values = np.array([token for cell in cells for token in cell], dtype=np.uint16)
    hashes = token_hashes(values, np.array([len(cell) for cell in cells]))
    for one, two in itertools.combinations(range(len(cells)), 2):
        assert (hashes[one] == hashes[two]) == (cells[one] == cells[two])


def test_equal_hashes_alone_are_no_leak(corpus, monkeypatch):
    monkeypatch.setattr(
        "geneformer_grn.cells.corpora.identity.token_hashes",
        lambda _values, lengths: np.zeros(len(lengths), np.uint64),
    )
    assert len(repeated_cells([corpus], np.arange(88) % 2)) == 0


def test_cells_of_few_genes_are_not_compared(make, monkeypatch):
    def alike(_file, counts):
        counts[:] = 1

    corpus = make({"one.h5ad": {"donor": ["D1"] * 4}}, change=alike)
    labels = np.array([0, 1, 0, 1])
    assert repeated_cells([corpus], labels).tolist() == [[0, 1], [0, 3]]
    monkeypatch.setattr("geneformer_grn.cells.corpora.identity.LEAST_GENES", N_GENES)
    assert repeated_cells([corpus], labels).shape == (0, 2)


def test_parts_of_one_split_are_apart_and_nothing_else_is(corpus, tmp_path):
    first = split_corpus(corpus.path, tmp_path / "first", SplitSettings(by="donor", fractions=HALVES))
    train, test = first["train"], first["test"]
    assert files_in_both(train, test) == files_in_both(test, train) == []
    assert set(files_in_both(train, corpus)) == {"one.h5ad", "two.h5ad"}
    assert set(files_in_both(train, train)) == {"one.h5ad", "two.h5ad"}
    other = split_corpus(corpus.path, tmp_path / "other", SplitSettings(by="cell_type", fractions=HALVES))
    assert files_in_both(train, other["test"])
    inner = split_corpus(train.path, tmp_path / "inner", SplitSettings(by="donor", fractions=HALVES))
    assert files_in_both(inner["train"], inner["test"]) == files_in_both(inner["train"], test) == []
    again = merge_corpora([train.path, test.path], tmp_path / "again")
    assert files_in_both(again, test)
    assert len(Corpus.open(again.path)) == 88
